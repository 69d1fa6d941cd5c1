//! A storm of tokens whose key ids nobody has: what it costs the provider, and those who ask with a sound token.
//!
//! `KID_STORM_SECONDS` makes it last; `tests/kid-storm` runs it so, for figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::{Clock, Stopwatch};
use countersign::token::UNKNOWN_KEY_REST;
use futures_util::future::join_all;
use http::Request;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get, with_token};
use crate::world::issuer::Answering;
use crate::world::{Body, World, soon};

const ALLOW: &str = "[[allow]]\nname = \"all\"\nservice = \"storefront\"\nrole = \"any\"\n";
/// Requests of each attacker's connection that are under way at once.
const AT_ONCE: usize = 20;
const SOUND_TOKENS: usize = 50;

static SENT: AtomicU64 = AtomicU64::new(0);

fn signed(token: &str) -> Request<Body> {
    with_token(get("/orders/7"), token)
}

/// Claims as of a sound token, under a key id that was never seen before.
fn unheard_of(world: &World) -> Request<Body> {
    let kid = format!("storm-{}", SENT.fetch_add(1, Ordering::Relaxed));
    let header = json!({"alg": "RS256", "typ": "at+jwt", "kid": kid}).to_string();
    let claims = json!({"iss": world.issuer.url, "exp": 4_000_000_000_u32}).to_string();
    signed(&format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)))
}

fn sound_tokens(world: &World) -> Vec<String> {
    (0..SOUND_TOKENS).map(|at| world.issuer.token(json!({"jti": at.to_string()}))).collect()
}

/// Asks with one sound token after the other; how long each took, the shortest first.
async fn ask_soundly(client: &Client, tokens: &[String], more: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while more(took.len()) {
        let watch = Stopwatch::start();
        let answer = client.ask(signed(&tokens[took.len() % tokens.len()])).await.unwrap();
        took.push(watch.elapsed());
        assert_eq!(answer.status, 200);
    }
    took.sort_unstable();
    took
}

/// The provider holds its answer back the whole time: whoever waited for it would not be answered.
#[tokio::test]
async fn sound_tokens_do_not_wait_for_what_a_storm_asks_of_the_provider() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let proxy = world.start(ALLOW);
    let tokens = sound_tokens(&world);
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    ask_soundly(&client, &tokens[..1], |asked| asked < 1).await;
    for round in 1..=3 {
        clock.advance(UNKNOWN_KEY_REST);
        world.issuer.jwks_answers(Answering::Held);
        let attackers = join_all((0..2).map(|_| proxy.client(Who::Storefront, Protocol::H2))).await;
        let storm = (0..2 * AT_ONCE).map(|at| attackers[at % 2].ask(unheard_of(&world)));
        let held = async {
            let asked = async {
                while world.issuer.fetches().jwks == round {
                    tokio::task::yield_now().await
                }
            };
            soon("the fetch that the storm causes", asked).await;
            // known tokens, tokens never seen before, and texts that are none
            ask_soundly(&client, &tokens, |asked| asked < 2 * SOUND_TOKENS).await;
            for odd in ["", ".", "..", "a.b.c", "e30.e30.", "e30.e30.AA", "bnVsbA.bnVsbA.AA", "W10.W10.AA"] {
                assert!(matches!(client.ask(signed(odd)).await.unwrap().status.as_u16(), 401), "{odd}");
            }
            let fresh = world.issuer.token(json!({"jti": format!("fresh-{round}")}));
            assert_eq!(client.ask(signed(&fresh)).await.unwrap().status, 200);
            world.issuer.release();
        };
        let (answers, ()) = futures_util::future::join(join_all(storm), held).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap().status == 401));
        assert_eq!(world.issuer.fetches().jwks, round + 1, "one for all, and none while it rests");
        assert_eq!(client.ask(unheard_of(&world)).await.unwrap().status, 401);
        assert_eq!(world.issuer.fetches().jwks, round + 1);
    }
    let seen = 3 * (2 * SOUND_TOKENS as u64 + 1) + 1;
    assert_eq!(world.upstream.counts().requests, seen);
}

/// The program itself by the machine's clock, with a provider that has stopped answering.
#[tokio::test]
async fn a_storm_of_unheard_of_key_ids_is_one_fetch_in_a_while() {
    let lasts = std::env::var("KID_STORM_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
    let world = World::new().await;
    let process = world.serve(ALLOW).await;
    let tokens = sound_tokens(&world);
    let client = process.client(Who::Storefront, Protocol::H2).await;
    ask_soundly(&client, &tokens, |asked| asked < SOUND_TOKENS).await;
    let watch = Stopwatch::start();
    let before = ask_soundly(&client, &tokens, |_| watch.elapsed().as_secs() < lasts.min(10)).await;

    world.issuer.jwks_answers(Answering::Held);
    let fetched = world.issuer.fetches().jwks;
    let attackers = join_all((0..4).map(|_| process.client(Who::Storefront, Protocol::H2))).await;
    let over = CancellationToken::new();
    let (watch, sent) = (Stopwatch::start(), SENT.load(Ordering::Relaxed));
    let (world, attackers) = (&world, &attackers);
    let attack = (0..4 * AT_ONCE).map(|at| {
        let over = over.clone();
        async move {
            while !over.is_cancelled() {
                let asked = attackers[at % 4].ask(unheard_of(world));
                match over.run_until_cancelled(asked).await {
                    Some(answer) => assert_eq!(answer.unwrap().status, 401),
                    None => break,
                }
            }
        }
    });
    let soundly = async {
        let during = ask_soundly(&client, &tokens, |_| watch.elapsed().as_secs() < lasts).await;
        over.cancel();
        during
    };
    let (_, during) = futures_util::future::join(join_all(attack), soundly).await;
    let (sent, took) = (SENT.load(Ordering::Relaxed) - sent, watch.elapsed().as_secs_f64());
    let fetches = world.issuer.fetches().jwks - fetched;
    let at = |times: &[Duration], percent: usize| {
        times[(times.len() * percent / 100).min(times.len() - 1)].as_micros()
    };
    println!("| phase | seconds | bad requests | a second | fetches | sound requests | p50 µs | p99 µs |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    println!(
        "| before | {} | 0 | 0 | 0 | {} | {} | {} |",
        lasts.min(10),
        before.len(),
        at(&before, 50),
        at(&before, 99)
    );
    println!(
        "| storm | {took:.0} | {sent} | {:.0} | {fetches} | {} | {} | {} |",
        sent as f64 / took,
        during.len(),
        at(&during, 50),
        at(&during, 99)
    );
    assert!(sent > 0 && !during.is_empty());
    assert!(fetches <= 1 + lasts / UNKNOWN_KEY_REST.as_secs(), "{fetches} in {lasts} seconds");
}
