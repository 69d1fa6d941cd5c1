//! HTTP/2 frame by frame: the cases of `tests/heads/http2`, each on a connection of its own.
//!
//! Everybody with a sound certificate may do anything here, so what is refused is refused for its frames.

mod downgrade;
mod legal_floods;
pub mod notation;
mod pings;

use std::collections::BTreeMap;
use std::fs;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use serde::Deserialize;

use crate::world::certificates::Who;
use crate::world::frames::*;
use crate::world::proxy::{HOST, Proxy};
use crate::world::seen::Seen;
use crate::world::{World, soon};

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
    /// `served`, a status, `reset CODE`, `goaway CODE` or `closed`; or one of several, with ` | ` between them.
    then: String,
    /// The refusal comes after the head was passed on: the upstream is asked, but never gets a whole request.
    #[serde(default)]
    begun: bool,
    /// Requests that reach the upstream, where they are not the one that is served.
    requests: Option<u64>,
    /// What is counted.
    limit: Option<String>,
    /// Of what the upstream saw.
    #[serde(default)]
    sees: BTreeMap<String, String>,
    body: Option<String>,
    /// The names of the trailers that the upstream saw.
    trailers: Option<Vec<String>>,
    /// The upstream holds more than it reads, so it has to be told to go on to see that its client has gone.
    /// For a case that comes last: it may have seen it by itself, and then would not hold another.
    #[serde(default)]
    releases: bool,
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
    let mut frames = proxy.frames().await;
    let before = match &case.limit {
        Some(limit) => proxy.hits(limit).await,
        None => 0,
    };
    if !case.own_preface {
        frames.open(&[]).await.unwrap();
    }
    let bytes: Vec<u8> = case.send.iter().flat_map(|line| notation::bytes(line)).collect();
    // what is refused before it was all sent is refused all the same
    let _ = frames.writer.send(&bytes).await;
    let outcome = outcome(&mut frames.reader, case.stream.unwrap_or(1)).await;
    if !case.then.split(" | ").any(|then| then == outcome.named()) {
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
    drop(frames);
    if let Some(limit) = &case.limit {
        // What was written is counted after it: its reader may be quicker.
        soon(limit, async { while proxy.hits(limit).await == before {} }).await;
    }
    if case.releases {
        upstream.release();
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

impl Proxy<'_> {
    async fn frames(&self) -> Frames {
        let config = h2_config(&self.world.certificates, Who::Storefront);
        Frames::tls(self.address("mesh"), HOST, config).await.unwrap()
    }

    /// How often a limit was reached.
    async fn hits(&self, limit: &str) -> u64 {
        self.counted(&format!("countersign_limits_hit_total{{limit=\"{limit}\"}}")).await
    }

    /// How many streams, or connections, ended by this error.
    async fn errors(&self, ended: &str, code: &str) -> u64 {
        let labels = format!("{{ended=\"{ended}\",code=\"{}\"}}", code.to_lowercase());
        self.counted(&format!("countersign_http2_errors_total{labels}")).await
    }

    async fn counted(&self, series: &str) -> u64 {
        let metrics = self.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {metrics}"))
    }
}

fn corpus(file: &str, cases: usize) -> Vec<Case> {
    let path = format!("{}/tests/heads/http2/{file}.toml", env!("CARGO_MANIFEST_DIR"));
    let corpus: Corpus =
        toml::from_str(&fs::read_to_string(path).unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(corpus.case.len(), cases, "{file}");
    corpus.case
}

/// Runs all cases, and fails with all that came out otherwise.
async fn run_all(proxy: &Proxy<'_>, cases: &[Case]) {
    let (mut wrong, mut whole) = (Vec::new(), 0);
    for case in cases {
        let outcome = AssertUnwindSafe(run(proxy, case, &mut whole)).catch_unwind().await;
        if let Err(what) = outcome.unwrap_or(Err("it hangs".to_owned())) {
            let counts = proxy.world.upstream.counts();
            whole = counts.requests - counts.abandoned;
            wrong.push(format!("{} ({}), not `{}`: {what}", case.name, case.by, case.then));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The number of cases in each file of the corpus, so that none is lost.
const FILES: [(&str, usize); 6] =
    [("bodies", 23), ("fields", 37), ("frames", 47), ("legal", 52), ("targets", 60), ("connection", 30)];

#[tokio::test]
async fn each_frame_that_rfc_9113_forbids_is_refused_and_no_other() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    let cases: Vec<Case> = FILES.iter().flat_map(|(file, cases)| corpus(file, *cases)).collect();
    run_all(&proxy, &cases).await;
    for code in &ERRORS[1..] {
        for (ended, then) in [("connection", "goaway"), ("stream", "reset")] {
            let named = format!("{then} {code}");
            let cases = cases.iter().filter(|case| case.then == named).count();
            assert!(proxy.errors(ended, code).await >= cases as u64, "{named} is counted for {cases} cases");
        }
    }
}

#[tokio::test]
async fn each_flood_of_frames_is_ended_and_counted() {
    let world = World::new().await;
    let limits = "resets_per_connection_max = 10\ncontrol_frames_per_connection_max = 300\n\
                  streams_per_connection_max = 20";
    let proxy = world.start(&format!("{POLICY}\n{limits}"));
    let cases = corpus("floods", 23);
    assert!(cases.iter().all(|case| case.limit.is_some()));
    run_all(&proxy, &cases).await;
}
