//! Whatever is asked, what was judged is byte for byte what is forwarded.

use countersign::policy::NormalPath;
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::recorder::Recorder;
use super::{POLICY, answers, world};
use crate::world::client::Raw;
use crate::world::proxy::Proxy;

/// Three rules that only a path tells apart, and a route that strips its start.
const RULES: &str = r#"
[route.moved]
host = "orders.shop.example"
path = "/v1/**"
upstream = "orders"
strip_prefix = "/v1"

[[deny]]
name = "not a"
route = "any"
path = "/a/**"

[[deny]]
name = "not a-b"
route = "any"
path = "/v1/a-b/**"
"#;

/// Segments that are themselves, that are others in disguise, and that are none.
fn segment() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => "[ab~_.-]{1,2}",
        4 => Just("a".to_owned()),
        4 => Just("%61".to_owned()),
        2 => Just("a-b".to_owned()),
        2 => Just("%2D".to_owned()),
        2 => Just("v1".to_owned()),
        2 => Just("v%31".to_owned()),
        1 => "%[0-9a-fA-F]{2}",
        1 => "[!$&'()*+,=:@]",
        1 => Just("%c3%a9".to_owned()),
        1 => Just("%252e".to_owned()),
    ];
    prop_oneof![
        6 => proptest::collection::vec(piece, 1..3).prop_map(|pieces| pieces.concat()),
        2 => Just("a".to_owned()),
        2 => Just("v1".to_owned()),
        1 => prop_oneof![
            Just("..".to_owned()), Just("%2e%2e".to_owned()), Just(String::new()), Just("a;b".to_owned()),
            Just("a%2fb".to_owned()), Just("a\\b".to_owned()), Just("%zz".to_owned()), Just("..;".to_owned()),
            Just("..%3b".to_owned()),
        ],
    ]
}

fn asked() -> impl Strategy<Value = (String, String, String)> {
    let path =
        proptest::collection::vec(segment(), 1..4).prop_map(|segments| format!("/{}", segments.join("/")));
    let query = prop_oneof![
        3 => Just(String::new()),
        3 => r"\?[a-z0-9%/.?&=;:@+-]{0,8}",
        1 => r"\?[ -~]{0,6}",
    ];
    let end = prop_oneof![6 => Just(""), 1 => Just("#/../a")];
    let host = prop_oneof![
        4 => Just("orders.shop.example"),
        1 => Just("Orders.SHOP.example."),
        1 => Just("orders.shop.example:8443"),
        1 => Just("a@orders.shop.example"),
        1 => Just("orders.shop.example, a"),
    ];
    let absolute = proptest::bool::weighted(0.2);
    (path, query, end, host, absolute).prop_map(|(path, query, end, host, absolute)| {
        let start = if absolute { format!("http://{host}") } else { String::new() };
        (format!("{start}{path}{query}{end}"), query, host.to_owned())
    })
}

/// Asks for one target, and compares what the upstream got with what was recorded.
async fn agrees(
    proxy: &Proxy<'_>,
    recorder: &mut Recorder,
    record: usize,
    (target, query, host): &(String, String, String),
) -> Result<bool, TestCaseError> {
    let mut raw = Raw::plain(proxy.address("plain")).await.unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    raw.send(head).await.unwrap();
    let answers = answers(&raw.rest().await, false);
    prop_assert_eq!(answers.len(), 1);
    let records = proxy.records(record + 1).await;
    prop_assert_eq!(records.len(), record + 1);
    let record = &records[record];
    prop_assert_eq!(&record["status"], &Value::from(answers[0].status));
    if answers[0].status != 200 {
        let got = recorder.more();
        prop_assert!(got.is_empty(), "{} reached the upstream: {}", target, got[0].shown());
        return Ok(false);
    }
    let message = recorder.next().await;
    prop_assert!(recorder.more().is_empty());
    let judged = record["action"]["path"].as_str().unwrap();
    let normal = NormalPath::parse(judged).unwrap();
    prop_assert_eq!(normal.as_str(), judged, "the normal form is its own");
    let moved = record["action"]["route"] == "moved";
    let forwarded = match judged.strip_prefix("/v1") {
        Some("") if moved => "/",
        Some(rest) if moved => rest,
        _ => judged,
    };
    let again = NormalPath::parse(forwarded).unwrap();
    prop_assert_eq!(again.as_str(), forwarded);
    let query = query.split('#').next().unwrap();
    prop_assert_eq!(&message.line, &format!("GET {forwarded}{query} HTTP/1.1"), "judged: {}", judged);
    let host = message.field("host")[0].split(':').next().unwrap();
    prop_assert_eq!(host, record["action"]["host"].as_str().unwrap());
    // What a server behind us would make of it is not what a rule forbids.
    let path = message.line.split([' ', '?']).nth(1).unwrap();
    let path = percent_decode_str(path).decode_utf8().unwrap();
    prop_assert!(moved || (path != "/a" && !path.starts_with("/a/")), "{} for {}", path, target);
    prop_assert!(!moved || !(path == "/a-b" || path.starts_with("/a-b/")), "{} for {}", path, target);
    Ok(true)
}

#[test]
fn what_was_judged_is_byte_for_byte_what_is_forwarded() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (world, mut recorder) = runtime.block_on(world());
    let proxy = {
        let _within = runtime.enter();
        world.start(&format!("{POLICY}{RULES}"))
    };
    let (asked_for, served) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let recorder = std::cell::RefCell::new(&mut recorder);
    let config = Config { cases: 400, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let outcome = TestRunner::new(config).run(&asked(), |asked| {
        let record = asked_for.replace(asked_for.get() + 1);
        let mut recorder = recorder.borrow_mut();
        if runtime.block_on(agrees(&proxy, &mut recorder, record, &asked))? {
            served.set(served.get() + 1);
        }
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(asked_for.get(), 400);
    assert!((50..350).contains(&served.get()), "{} of 400 were served", served.get());
}
