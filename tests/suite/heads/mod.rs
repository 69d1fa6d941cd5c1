//! Heads as bytes: `tests/heads/http1/*.toml`, each case driven over real sockets, with TLS and without, and
//! what came of it read on both sides and in the record.

mod corpus;
pub mod forged;
mod properties;
mod recorder;
mod runs;

use std::path::Path;

use corpus::{Case, File, Forwarded, Then};
use recorder::{Message, Recorder};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::world::certificates::Who;
use crate::world::client::Raw;
use crate::world::proxy::{HOST, Proxy};
use crate::world::{PATIENCE, World};

/// Everybody may ask for anything but `/forbidden`: what is refused here is refused for its head.
const POLICY: &str = r#"
[listener.plain]
address = "127.0.0.1:0"
allow_plaintext = true

[route.socket]
host = "orders.shop.example"
path = "/socket/**"
upstream = "orders"
upgrade = "websocket"

[[allow]]
name = "a service, without a token"
service = "storefront"
role = "none"
route = "any"

[[allow]]
name = "nobody"
service = "none"
role = "none"
route = "any"

[[deny]]
name = "what a hidden request would ask for"
route = "any"
path = "/forbidden/**"
"#;

/// What follows each case on its connection, unless its client hangs up.
const AFTER: &str = "GET /after HTTP/1.1\r\nHost: orders.shop.example\r\nConnection: close\r\n\r\n";

/// An answer as it came, without its content.
#[derive(Debug)]
struct Answer {
    status: u16,
    closes: bool,
}

async fn raw(proxy: &Proxy<'_>, listener: &str) -> Raw {
    let address = proxy.address(listener);
    if listener == "plain" {
        return Raw::plain(address).await.unwrap();
    }
    let config = proxy.world.certificates.client_config(Who::Storefront);
    Raw::tls(address, HOST, config).await.unwrap()
}

/// A world whose upstream writes down the bytes it gets.
async fn world() -> (World, Recorder) {
    let mut world = World::new().await;
    let recorder = Recorder::start().await;
    world.upstream.url.clone_from(&recorder.url);
    (world, recorder)
}

/// Plays all cases of one file on both listeners; `count` is how many there must be.
async fn run(subject: &str, count: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/heads/http1/{subject}.toml"));
    let file = File::read(&path);
    assert_eq!(file.case.len(), count, "{subject}");
    let (world, mut recorder) = world().await;
    let proxy = world.start(&format!("{POLICY}{}", file.more));
    let mut play =
        Play { proxy: &proxy, recorder: &mut recorder, records: 0, broken: Vec::new(), failures: Vec::new() };
    for listener in ["mesh", "plain"] {
        for case in &file.case {
            play.case(listener, case).await;
        }
    }
    let failures = play.failures;
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), 2 * count, failures.join("\n"));
}

struct Play<'p> {
    proxy: &'p Proxy<'p>,
    recorder: &'p mut Recorder,
    /// Records of the cases so far.
    records: usize,
    /// What may have reached the upstream in part, of all cases so far.
    broken: Vec<Forwarded>,
    failures: Vec<String>,
}

impl Play<'_> {
    async fn case(&mut self, listener: &str, case: &Case) {
        let mut raw = raw(self.proxy, listener).await;
        let mut bytes = case.bytes();
        if case.then != Then::Hangup {
            bytes.extend_from_slice(AFTER.as_bytes());
        }
        // Who refuses may close before all of it is read.
        let _ = raw.send(&bytes).await;
        if case.then == Then::Hangup {
            raw.end().await;
        }
        let came = raw.rest().await;
        let answers = answers(&came, case.bodiless);

        let mut wanted: Vec<(u16, String)> = case.answers();
        let (broken, mut forwarded): (Vec<_>, Vec<_>) =
            case.upstream.iter().cloned().partition(|forwarded| forwarded.broken);
        self.broken.extend(broken);
        if case.then == Then::Kept {
            wanted.push((200, "allowed".to_owned()));
            forwarded.push(Forwarded::of("GET /after"));
        }
        let recorded = wanted.iter().filter(|(status, _)| *status != 100).count();
        self.records += recorded;
        let mut broke = Vec::new();
        let traces = async {
            let records = self.proxy.records(self.records).await;
            let mut messages = Vec::new();
            while messages.len() < forwarded.len() {
                let message = self.recorder.next().await;
                if message.broken { broke.push(message) } else { messages.push(message) }
            }
            (records, messages)
        };
        let Ok((records, messages)) = timeout(PATIENCE / 2, traces).await else {
            let came = String::from_utf8_lossy(&came);
            panic!("{listener}: {}: no record, or no message upstream; came: {came:?}", case.name);
        };
        let all = records.len();
        let records = &records[self.records - recorded..];
        self.records = all;

        let mut wrong = Vec::new();
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        let wanted_statuses: Vec<u16> =
            wanted.iter().map(|(status, _)| *status).filter(|status| *status != 0).collect();
        if statuses != wanted_statuses {
            wrong.push(format!("answers {statuses:?}, not {wanted_statuses:?}"));
        }
        if answers.iter().any(|answer| answer.status == 400 && !answer.closes) {
            wrong.push("a 400 does not say that the connection ends".to_owned());
        }
        let reasons: Vec<String> =
            records.iter().map(|r| format!("{} {}", r["status"], r["reason"])).collect();
        let wanted_reasons: Vec<String> = wanted
            .iter()
            .filter(|(status, _)| *status != 100)
            .map(|(status, reason)| match status {
                0 => format!("null \"{reason}\""),
                status => format!("{status} \"{reason}\""),
            })
            .collect();
        if reasons != wanted_reasons {
            wrong.push(format!("records {reasons:?}, not {wanted_reasons:?}"));
        }
        for (message, forwarded) in messages.iter().zip(&forwarded) {
            wrong.extend(forwarded.differs_from(message));
        }
        let (more, beyond): (Vec<_>, Vec<_>) =
            self.recorder.more().into_iter().partition(|message| message.broken);
        let unforeseen = |message: &Message| !self.broken.iter().any(|broken| broken.begins_as(message));
        for message in broke.into_iter().chain(more).filter(unforeseen).chain(beyond) {
            wrong.push(format!("reached the upstream: {}", message.shown()));
        }
        if !wrong.is_empty() {
            let came: String = String::from_utf8_lossy(&came).chars().take(300).collect();
            self.failures.push(format!(
                "{listener}: {}: {}\n    came: {came:?}",
                case.name,
                wrong.join("; ")
            ));
        }
    }
}

/// All answers in what came on one connection.
fn answers(mut bytes: &[u8], bodiless: bool) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            panic!("no answer: {:?}", String::from_utf8_lossy(bytes));
        };
        let (head, rest) = bytes.split_at(end + 4);
        let head = String::from_utf8(head.to_vec()).unwrap().to_ascii_lowercase();
        let status: u16 = head[9..12].parse().unwrap();
        let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.split_once("\r\n"));
        let length = match length {
            _ if status < 200 || (bodiless && answers.is_empty()) => 0,
            Some((length, _)) => length.parse().unwrap(),
            // What follows a switch, or an answer of HTTP/1.0, is for the case to know.
            None => rest.len(),
        };
        let length = if status == 101 { rest.len() } else { length };
        let closes = head.contains("connection: close") || head.starts_with("http/1.0");
        answers.push(Answer { status, closes });
        bytes = &rest[length..];
    }
    answers
}

#[tokio::test]
async fn a_head_over_a_limit_is_recorded_and_counted_by_its_name() {
    let (world, mut recorder) = world().await;
    let proxy = world.start(&format!("{POLICY}[limit]\nheader_bytes_max = \"100KiB\""));
    let mut cases = 0;
    for (head, status, limit, hits) in [
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(70_000)), 414, "header_bytes_max", 1),
        (format!("GET /a HTTP/1.1\r\nX-A: {}\r\n", "a".repeat(110_000)), 431, "header_bytes_max", 2),
        (format!("GET /a HTTP/1.1\r\n{}", "X-A: 1\r\n".repeat(101)), 431, "header_count_max", 1),
    ] {
        let mut raw = raw(&proxy, "mesh").await;
        let _ = raw.send(format!("{head}Host: {HOST}\r\n\r\n")).await;
        assert_eq!(answers(&raw.rest().await, false)[0].status, status);
        let record = &proxy.records(cases + 1).await[cases];
        assert_eq!(
            [&record["reason"], &record["status"], &record["action"]["method"]],
            [&json!("limit_exceeded"), &json!(status), &Value::Null],
            "{record}"
        );
        assert!(record["story"].as_str().unwrap().contains("a head that could not be read"), "{record}");
        proxy.metrics_once(&format!("countersign_limits_hit_total{{limit=\"{limit}\"}} {hits}")).await;
        cases += 1;
    }
    assert_eq!(cases, 3);
    assert!(recorder.more().is_empty());
}
