//! From HTTP/2 to HTTP/1: what reaches an upstream, byte by byte.

use std::collections::HashMap;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{POLICY, corpus, notation, outcome};
use crate::world::{World, soon};

const SOCKET: &str = "[route.socket]\nhost = \"orders.shop.example\"\npath = \"/socket\"\nupstream = \"orders\"\n\
                      upgrade = \"websocket\"\n";

/// Reads messages as strictly as RFC 9112 allows, and answers each with this status. The outcome of each is told:
/// its request line, or what is wrong with it, or nothing where it ends in the middle.
async fn upstream(
    socket: TcpListener,
    status: u16,
    told: mpsc::UnboundedSender<Result<Option<String>, String>>,
) {
    while let Ok((stream, _)) = socket.accept().await {
        let told = told.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            loop {
                let message = message(&mut stream).await;
                let is_whole = matches!(message, Ok(Some(_)));
                let _ = told.send(message);
                let answer = format!("HTTP/1.1 {status} As told\r\ncontent-length: 0\r\n\r\n");
                if !is_whole || stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn message(stream: &mut BufReader<TcpStream>) -> Result<Option<String>, String> {
    let Some(start) = line(stream).await? else { return Ok(None) };
    let parts: Vec<_> = start.split(' ').collect();
    if parts.len() != 3 || !parts[1].starts_with('/') || parts[2] != "HTTP/1.1" {
        return Err(start);
    }
    let mut fields: HashMap<String, Vec<String>> = HashMap::new();
    loop {
        let Some(line) = line(stream).await? else { return Ok(None) };
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").ok_or_else(|| line.clone())?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(line);
        }
        fields.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    let of = |name: &str| fields.get(name).map_or(&[][..], Vec::as_slice);
    if of("host").len() != 1 || of("cookie").len() > 1 {
        return Err(format!("{fields:?}"));
    }
    match (of("content-length"), of("transfer-encoding")) {
        ([], []) => {}
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| length.clone())?;
            if stream.read_exact(&mut vec![0; length]).await.is_err() {
                return Ok(None);
            }
        }
        ([], [coding]) if coding == "chunked" => loop {
            let Some(size) = line(stream).await? else { return Ok(None) };
            let size = usize::from_str_radix(&size, 16).map_err(|_| size)?;
            if size > 0 {
                let mut chunk = vec![0; size + 2];
                if stream.read_exact(&mut chunk).await.is_err() {
                    return Ok(None);
                }
                if !chunk.ends_with(b"\r\n") {
                    return Err("a chunk that does not end".to_owned());
                }
                continue;
            }
            loop {
                match line(stream).await? {
                    Some(trailer) if trailer.is_empty() => break,
                    Some(_) => {}
                    None => return Ok(None),
                }
            }
            break;
        },
        _ => return Err(format!("more than one framing: {fields:?}")),
    }
    Ok(Some(start))
}

/// One line without its end, which is CR LF and nothing else; nothing where the connection ends.
async fn line(stream: &mut BufReader<TcpStream>) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line).await.is_err() || !line.ends_with(b"\n") {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    let Some(line) = text.strip_suffix("\r\n") else { return Err(format!("a bare line feed: {text:?}")) };
    if line.contains(['\r', '\0']) { Err(format!("{line:?}")) } else { Ok(Some(line.to_owned())) }
}

#[tokio::test]
async fn an_h1_upstream_gets_exactly_one_well_formed_message_for_each_h2_request() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let (sender, mut told) = mpsc::unbounded_channel();
    let upstream = tokio::spawn(upstream(socket, 200, sender));
    let mut world = World::new().await;
    world.upstream.url = url;
    let proxy = world.start(POLICY);
    let mut served = 0;
    for case in corpus("legal", 52).iter().chain(&corpus("bodies", 23)) {
        let mut frames = proxy.frames().await;
        frames.open(&[]).await.unwrap();
        let bytes: Vec<u8> = case.send.iter().flat_map(|line| notation::bytes(line)).collect();
        let _ = frames.writer.send(&bytes).await;
        let outcome = outcome(&mut frames.reader, case.stream.unwrap_or(1)).await;
        assert_eq!(outcome.named(), case.then, "{}", case.name);
        drop(frames);
        let mut whole = 0;
        let expected = case.requests.unwrap_or(u64::from(case.then == "served"));
        // what was begun and broken off is told as nothing
        while whole < expected {
            match soon(&case.name, told.recv()).await.unwrap() {
                Ok(Some(_)) => whole += 1,
                Ok(None) => {}
                Err(what) => panic!("{}: {what}", case.name),
            }
        }
        served += expected;
    }
    assert!(served > 50, "{served}");
    drop(proxy);
    upstream.abort();
    while let Some(more) = soon("the upstream's end", told.recv()).await {
        assert_eq!(more, Ok(None));
    }
}

#[tokio::test]
async fn bytes_for_a_tunnel_that_does_not_open_reach_nobody() {
    let hidden = "text GET /admin HTTP/1.1\\r\\nhost: HOST\\r\\n\\r\\n";
    let mut cases = 0;
    // To a CONNECT any 2xx would say that the tunnel stands.
    for (answered, then) in [(200, 502), (202, 502), (404, 404)] {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut world = World::new().await;
        world.upstream.url = format!("http://{}", socket.local_addr().unwrap());
        let (sender, mut told) = mpsc::unbounded_channel();
        let upstream = tokio::spawn(upstream(socket, answered, sender));
        let proxy = world.start(&format!("{SOCKET}{POLICY}"));
        for end in ["", " end"] {
            let mut frames = proxy.frames().await;
            frames.open(&[]).await.unwrap();
            let lines = [
                "HEADERS: :method=CONNECT; :protocol=websocket; :scheme=https; :authority=HOST; :path=/socket",
                &format!("DATA{end}: {hidden}"),
            ];
            frames.writer.send(&lines.map(notation::bytes).concat()).await.unwrap();
            let refused = outcome(&mut frames.reader, 1).await;
            assert_eq!(refused.named(), then.to_string(), "{answered}{end}");
            // What is asked next is what the upstream reads next.
            frames.writer.send(&notation::bytes("HEADERS @3 end: get")).await.unwrap();
            let after = outcome(&mut frames.reader, 3).await.named();
            assert_eq!(after, if answered == 200 { "served".to_owned() } else { answered.to_string() });
            for line in ["GET /socket HTTP/1.1", &format!("GET {} HTTP/1.1", notation::PATH)] {
                let next = soon("a message", async {
                    // A connection that ends is none.
                    loop {
                        match told.recv().await.unwrap() {
                            Ok(None) => {}
                            next => break next,
                        }
                    }
                });
                assert_eq!(next.await, Ok(Some(line.to_owned())), "{answered}{end}");
            }
            cases += 1;
        }
        drop(proxy);
        upstream.abort();
        while let Some(more) = soon("the upstream's end", told.recv()).await {
            assert_eq!(more, Ok(None), "{answered}");
        }
    }
    assert_eq!(cases, 6);
}
