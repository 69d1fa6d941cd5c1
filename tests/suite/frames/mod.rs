//! HTTP/2 frame by frame: the cases of `tests/heads/http2`, each on a connection of its own.
//!
//! Everybody with a sound certificate may do anything here, so what is refused is refused for its frames.

mod notation;

use std::collections::BTreeMap;
use std::fs;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use serde::Deserialize;

use crate::world::World;
use crate::world::certificates::Who;
use crate::world::frames::*;
use crate::world::proxy::{HOST, Proxy};
use crate::world::seen::Seen;

const POLICY: &str =
    "[[allow]]\nname = \"anything\"\nservice = \"storefront\"\nrole = \"none\"\nroute = \"any\"
[limit]
body_bytes_max = \"100MiB\"";
/// The stream on which a connection that goes on is asked for something sound.
const LAST_STREAM: u32 = 1001;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Corpus {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// What says so.
    by: String,
    /// In [`notation`]; the preface and empty SETTINGS go before, unless the case brings its own.
    send: Vec<String>,
    #[serde(default)]
    own_preface: bool,
    /// Which stream's end is waited for; 1 where it is not said.
    stream: Option<u32>,
    /// `served`, a status, `reset CODE`, `goaway CODE` or `closed`.
    then: String,
    /// The refusal comes after the head was passed on: the upstream is asked, but never gets a whole request.
    #[serde(default)]
    begun: bool,
    /// Requests that reach the upstream, where they are not the one that is served.
    requests: Option<u64>,
    /// Of what the upstream saw.
    #[serde(default)]
    sees: BTreeMap<String, String>,
    body: Option<String>,
    /// The names of the trailers that the upstream saw.
    trailers: Option<Vec<String>>,
    /// Nothing more is asked: the client has said goodbye, or the connection ends as well.
    #[serde(default)]
    leaves: bool,
}

/// What became of a stream, or of its connection.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered(u16, Vec<u8>),
    Reset(&'static str),
    GoAway(&'static str),
    Closed,
}

impl Outcome {
    fn named(&self) -> String {
        match self {
            Outcome::Answered(200, _) => "served".to_owned(),
            Outcome::Answered(status, _) => status.to_string(),
            Outcome::Reset(code) => format!("reset {code}"),
            Outcome::GoAway(code) => format!("goaway {code}"),
            Outcome::Closed => "closed".to_owned(),
        }
    }

    /// Whether the connection is no more.
    fn is_last(&self) -> bool {
        matches!(self, Outcome::GoAway(_) | Outcome::Closed)
    }
}

async fn outcome(reader: &mut Reader, stream: u32) -> Outcome {
    let (mut status, mut body) = (0, Vec::new());
    while let Some(frame) = reader.next().await {
        match frame.kind {
            GOAWAY => {
                let code = frame.error();
                while reader.next().await.is_some() {}
                return Outcome::GoAway(code);
            }
            _ if frame.stream != stream => continue,
            RST_STREAM => return Outcome::Reset(frame.error()),
            HEADERS if status == 0 => status = frame.status(),
            DATA => body.extend(&frame.payload),
            _ => {}
        }
        if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
            return Outcome::Answered(status, body);
        }
    }
    Outcome::Closed
}

/// Runs one case; `whole` counts the requests that the upstream must have seen to their end.
async fn run(proxy: &Proxy<'_>, case: &Case, whole: &mut u64) -> Result<(), String> {
    let upstream = &proxy.world.upstream;
    let config = proxy.world.certificates.client_config(Who::Storefront);
    let mut frames = Frames::tls(proxy.address("mesh"), HOST, config).await.unwrap();
    if !case.own_preface {
        frames.open(&[]).await.unwrap();
    }
    let bytes: Vec<u8> = case.send.iter().flat_map(|line| notation::bytes(line)).collect();
    // what is refused before it was all sent is refused all the same
    let _ = frames.writer.send(&bytes).await;
    let outcome = outcome(&mut frames.reader, case.stream.unwrap_or(1)).await;
    if outcome.named() != case.then {
        return Err(outcome.named());
    }
    let is_served = case.then == "served";
    *whole += case.requests.unwrap_or(u64::from(is_served));
    if !outcome.is_last() && !case.leaves {
        let head = [request("GET", HOST, "/after"), field(b"x-case", b"after")].concat();
        let sound = Frame::bytes(HEADERS, END_HEADERS | END_STREAM, LAST_STREAM, &head);
        frames.writer.send(&sound).await.map_err(|error| error.to_string())?;
        let after = self::outcome(&mut frames.reader, LAST_STREAM).await;
        if after.named() != "served" {
            return Err(format!("{}, and then {}", outcome.named(), after.named()));
        }
        *whole += 1;
    }
    if case.begun {
        upstream.until(|now| now.requests - now.abandoned == *whole).await;
    } else if upstream.counts().requests - upstream.counts().abandoned != *whole {
        return Err(format!("the upstream saw {:?}, of which {whole} may be whole", upstream.counts()));
    }
    if let Outcome::Answered(200, body) = outcome {
        let seen: Seen = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let headers_of = |name: &str| match name {
            ":path" => vec![seen.uri.as_str()],
            ":method" => vec![seen.method.as_str()],
            name => seen.header(name),
        };
        for (name, value) in &case.sees {
            let found = headers_of(name).join(" | ");
            if found != *value {
                return Err(format!("the upstream saw {name}: {found}"));
            }
        }
        if case.body.as_ref().is_some_and(|body| seen.body.as_ref() != Some(body)) {
            return Err(format!("the upstream saw {:?}", seen.body));
        }
        if let Some(names) = &case.trailers
            && !seen.trailers.iter().map(|(name, _)| name).eq(names)
        {
            return Err(format!("the upstream saw {:?}", seen.trailers));
        }
    }
    Ok(())
}

/// The number of cases in each file of the corpus, so that none is lost.
const FILES: [(&str, usize); 6] =
    [("bodies", 23), ("connection", 30), ("fields", 37), ("frames", 47), ("legal", 51), ("targets", 59)];

#[tokio::test]
async fn each_frame_that_rfc_9113_forbids_is_refused_and_no_other() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    let (mut wrong, mut whole) = (Vec::new(), 0);
    for (file, cases) in FILES {
        let path = format!("{}/tests/heads/http2/{file}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let corpus: Corpus = toml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(corpus.case.len(), cases, "{file}");
        for case in &corpus.case {
            let outcome = AssertUnwindSafe(run(&proxy, case, &mut whole)).catch_unwind().await;
            if let Err(what) = outcome.unwrap_or(Err("it hangs".to_owned())) {
                let counts = world.upstream.counts();
                whole = counts.requests - counts.abandoned;
                wrong.push(format!("{file}: {} ({}), not `{}`: {what}", case.name, case.by, case.then));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
