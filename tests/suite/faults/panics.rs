//! A panic while one request is handled ends that request, and nothing else.

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use countersign::cli::log;
use countersign::clock::Clock;
use countersign::config::{LogFormat, LogSettings};
use serde_json::{Value, json};

use super::{ANYTHING, Healthy, outcome};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, with_token};
use crate::world::proxy::decision_of;

/// What a message of a panic may quote, of what was being read.
const TOKEN: &str = "CANARY-b7e1f0a25d1c44";

/// Set in the process that breaks.
const BREAKS: &str = "PANICS_BREAK";

/// A clock that breaks when it was read so many times more on a thread that serves.
fn breaking() -> (Clock, Arc<AtomicI64>) {
    let readings = Arc::new(AtomicI64::new(-1));
    let left = readings.clone();
    let clock = Clock::told_by(move || {
        let serves = thread::current().name().is_some_and(|name| name.starts_with("core-"));
        if serves && left.load(Ordering::SeqCst) >= 0 && left.fetch_sub(1, Ordering::SeqCst) == 0 {
            panic!("the clock broke over {TOKEN}");
        }
        Clock::system().now()
    });
    (clock, readings)
}

#[tokio::test]
async fn a_panic_ends_its_own_request_with_500_and_a_record_and_nobody_else_s() {
    let (clock, left) = breaking();
    let world = World::at(clock).await;
    let proxy = world.start(ANYTHING);
    let healthy = Healthy::of(&proxy).await;
    let mut broken = 0;
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        // Under TLS 1.3 the other side may not have ended its handshake yet.
        assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
        // The first reading is for the record's own time: without that there is none.
        for reading in 1.. {
            let token = world.issuer.token(json!({"jti": format!("{protocol:?} {reading}")}));
            let ask = || client.ask(with_token(get("/orders/1"), &token));
            let before = world.upstream.counts().requests;
            let held = async {
                // On h2 the same connection carries another request meanwhile.
                match protocol {
                    Protocol::H1 => None,
                    Protocol::H2 => {
                        Some(client.ask(world.signed(get("/orders/held?hold"))).await.unwrap().status)
                    }
                }
            };
            let breaks = async {
                if protocol == Protocol::H2 {
                    world.upstream.until(|counts| counts.requests > before).await;
                }
                left.store(reading, Ordering::SeqCst);
                let answer = ask().await.unwrap();
                if protocol == Protocol::H2 {
                    world.upstream.release();
                }
                answer
            };
            let (answer, held) = tokio::join!(breaks, held);
            assert!(held.is_none_or(|status| status == 200), "{held:?}");
            if left.swap(-1, Ordering::SeqCst) >= 0 {
                assert_eq!(answer.status, 200, "there are fewer readings than {reading}");
                break;
            }
            assert_eq!(outcome(&answer), (500, "internal".to_owned()), "{protocol:?}, reading {reading}");
            let record = proxy.record(&decision_of(&answer)).await;
            assert_eq!((&record["reason"], &record["status"]), (&json!("internal"), &json!(500)), "{record}");
            // The same token, on the same connection: nothing that it left behind is in the way.
            assert_eq!(ask().await.unwrap().status, 200, "{protocol:?}, reading {reading}");
            for at in 0..2 {
                healthy.ask(at).await;
            }
            broken += 1;
        }
        // And the first: the stream, or the HTTP/1 connection, that it was on.
        left.store(0, Ordering::SeqCst);
        assert!(client.ask(world.signed(get("/orders/1"))).await.is_err());
        healthy.ask(0).await;
        healthy.ask(1).await;
    }
    println!("{broken} panics, each at another reading of the clock");
    assert!(broken >= 6, "{broken}");
}

/// The hook is the whole process's, so this runs itself once more.
#[test]
fn a_panic_says_where_it_was_and_never_what_it_was_about() {
    if env::var_os(BREAKS).is_some() {
        return break_over_both_protocols();
    }
    let mut again = Command::new(env::current_exe().unwrap());
    let name = "faults::panics::a_panic_says_where_it_was_and_never_what_it_was_about";
    let ended = again.args(["--exact", name, "--nocapture"]).env(BREAKS, "1").output().unwrap();
    let [said, log] = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(ended.status.success() && said.contains("1 passed"), "{said}{log}");
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let faults: Vec<_> = events.filter(|event| event.get("place").is_some()).collect();
    for fault in &faults {
        assert_eq!(fault["level"], "ERROR");
        assert!(fault["place"].as_str().unwrap().starts_with(file!()), "{fault}");
    }
    assert_eq!(faults.len(), 2 * Protocol::BOTH.len(), "{log}");
    assert!(log.contains(r#""level":"TRACE""#), "all that there is to say is said");
    let quoted: Vec<_> = said.lines().chain(log.lines()).filter(|line| line.contains(TOKEN)).collect();
    assert_eq!(quoted, [""; 0]);
}

/// Breaks within a request and, at the first reading, around one, under the log that `countersign run` sets up.
#[tokio::main(flavor = "current_thread")]
async fn break_over_both_protocols() {
    log::set_up(&LogSettings { level: "trace".to_owned(), format: LogFormat::Json }).unwrap();
    let (clock, left) = breaking();
    let world = World::at(clock).await;
    let proxy = world.start(ANYTHING);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        assert_eq!(client.ask(world.signed(get("/orders/1"))).await.unwrap().status, 200);
        left.store(1, Ordering::SeqCst);
        let answer = client.ask(world.signed(get("/orders/1"))).await.unwrap();
        assert_eq!(outcome(&answer), (500, "internal".to_owned()), "{protocol:?}");
        assert!(!format!("{answer:?}").contains(TOKEN));
        assert!(!proxy.record(&decision_of(&answer)).await.to_string().contains(TOKEN));
        left.store(0, Ordering::SeqCst);
        assert!(client.ask(world.signed(get("/orders/1"))).await.is_err());
    }
    assert_eq!(left.load(Ordering::SeqCst), -1);
}
