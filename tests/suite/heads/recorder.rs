//! An upstream that writes down the bytes it gets, and reads them as strictly as it can: whatever reaches it
//! was framed by the proxy, so a line end that is not CRLF or a second framing is a failure by itself.
//!
//! It answers each message with `200` and `ok`; a handshake under `/socket/switch` with `101`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// One message as it came.
#[derive(Debug, Default)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub line: String,
    /// As they came.
    pub fields: Vec<String>,
    /// Decoded.
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
    /// The connection ended before the message did.
    pub broken: bool,
    /// What came after a switch.
    pub tunnel: Vec<u8>,
}

pub struct Recorder {
    pub url: String,
    messages: UnboundedReceiver<Message>,
    accepting: JoinHandle<()>,
}

impl Recorder {
    pub async fn start() -> Recorder {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let (sender, messages) = unbounded_channel();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let connection = Connection { stream, read: Vec::new(), taken: 0 };
                tokio::spawn(connection.serve(sender.clone()));
            }
        });
        Recorder { url, messages, accepting }
    }

    /// The next message, when it has ended.
    pub async fn next(&mut self) -> Message {
        self.messages.recv().await.unwrap()
    }

    /// Messages that nobody waited for.
    pub fn more(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.messages.try_recv().ok()).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Message {
    pub fn shown(&self) -> String {
        let end = if self.broken { " and broke off" } else { "" };
        format!("{:?}{end}", String::from_utf8_lossy(&self.bytes))
    }

    /// Every value of a field, by its name in lower case.
    pub fn field(&self, name: &str) -> Vec<&str> {
        let values = self.fields.iter().filter_map(|field| field.split_once(": "));
        values.filter(|(other, _)| *other == name).map(|(_, value)| value).collect()
    }
}

struct Connection {
    stream: TcpStream,
    /// All bytes of the message under way.
    read: Vec<u8>,
    /// How many of them were looked at.
    taken: usize,
}

impl Connection {
    async fn serve(mut self, messages: UnboundedSender<Message>) {
        while let Some(mut message) = self.message().await {
            if message.line.starts_with("GET /socket/switch") {
                let switch =
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                if self.stream.write_all(switch.as_bytes()).await.is_ok() {
                    while let Ok(1..) = self.stream.read_buf(&mut message.tunnel).await {}
                }
                let _ = messages.send(message);
                return;
            }
            let content = if message.line.starts_with("HEAD ") { "" } else { "ok" };
            let broken = message.broken;
            // Written down before anybody is told of it.
            let received = messages.send(message).is_ok();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{content}");
            if broken || !received || self.stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// The next message; none if the connection ends before it began.
    async fn message(&mut self) -> Option<Message> {
        self.read.drain(..std::mem::take(&mut self.taken));
        if self.read.is_empty() && !self.more().await {
            return None;
        }
        let mut message = Message::default();
        message.broken = self.read_into(&mut message).await.is_none();
        message.bytes = self.read[..if message.broken { self.read.len() } else { self.taken }].to_vec();
        Some(message)
    }

    /// `None` if the connection ends before the message does.
    async fn read_into(&mut self, message: &mut Message) -> Option<()> {
        message.line = self.line().await?;
        message.fields = self.fields().await?;
        let chunked = message.field("transfer-encoding");
        let length = message.field("content-length");
        match (&chunked[..], &length[..]) {
            ([], []) => {}
            ([], [length]) => {
                // Who expects it would be kept waiting.
                if !message.field("expect").is_empty() {
                    let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                let length = length.parse().expect("a length in digits");
                while message.body.len() < length {
                    let missing = length - message.body.len();
                    message.body.extend_from_slice(self.take(missing).await?);
                }
            }
            (["chunked"], []) => loop {
                let size = usize::from_str_radix(&self.line().await?, 16).expect("a size and nothing else");
                if size == 0 {
                    message.trailers = self.fields().await?;
                    break;
                }
                let end = message.body.len() + size;
                while message.body.len() < end {
                    let missing = end - message.body.len();
                    message.body.extend_from_slice(self.take(missing).await?);
                }
                assert_eq!(self.line().await?, "", "CRLF ends a chunk");
            },
            framing => panic!("more than one framing: {framing:?}"),
        }
        Some(())
    }

    /// Some of the next bytes, `most` at most.
    async fn take(&mut self, most: usize) -> Option<&[u8]> {
        if self.read.len() == self.taken && !self.more().await {
            return None;
        }
        let start = self.taken;
        self.taken = self.read.len().min(start + most);
        Some(&self.read[start..self.taken])
    }

    async fn fields(&mut self) -> Option<Vec<String>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            fields.push(line);
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            let rest = &self.read[self.taken..];
            if let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                assert!(!line.contains(['\r', '\n', '\0']), "a line of ours: {line:?}");
                self.taken += end + 2;
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.read).await, Ok(1..))
    }
}
