//! Tokens that are bound to a certificate (RFC 8705), and the moment after it was replaced.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::cli::mint::{Minted, Validity};
use countersign::clock::Clock;
use http::Request;
use serde_json::{Value, json};

use super::{ALLOW, presenting, start_with_issuer};
use crate::world::certificates::{TRUST_DOMAIN, Who};
use crate::world::client::{Client, Protocol, next_data};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Body, World, sha256, sha256_of, soon};

const GRACE: Duration = Duration::from_secs(5 * 60);
const SECOND: Duration = Duration::from_secs(1);

/// The storefront's certificates, one after the other.
struct Rotation {
    before: Minted,
    after: Minted,
}

impl Rotation {
    fn new(world: &World) -> Rotation {
        let minted = || world.certificates.client(Who::Storefront).unwrap();
        Rotation { before: minted(), after: minted() }
    }
}

async fn connect(proxy: &Proxy<'_>, minted: &Minted) -> Client {
    let config = proxy.world.certificates.client_config_with(Some(minted));
    Client::tls(proxy.address("mesh"), HOST, config, Protocol::H2).await.unwrap()
}

fn bound(world: &World, to: &Minted) -> String {
    let hash = URL_SAFE_NO_PAD.encode(sha256_of(&to.der));
    world.issuer.token(json!({"cnf": {"x5t#S256": hash}}))
}

fn bearer(token: &str) -> Request<Body> {
    presenting("Bearer", token)
}

async fn status(client: &Client, token: &str) -> u16 {
    client.ask(bearer(token)).await.unwrap().status.as_u16()
}

#[tokio::test]
async fn a_token_of_the_certificate_before_serves_for_a_moment_more() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let proxy = world.start(ALLOW);
    let Rotation { before, after } = Rotation::new(&world);
    let token = bound(&world, &before);
    let old = connect(&proxy, &before).await;
    assert_eq!(status(&old, &token).await, 200);
    clock.advance(SECOND);

    let new = connect(&proxy, &after).await;
    let answer = new.ask(bearer(&token)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(proxy.record_of(&answer).await["caller"]["bound"], "certificate");
    assert_eq!(
        status(&old, &bound(&world, &after)).await,
        401,
        "a certificate does not stand for the one after"
    );
    // who holds the new one can ask for tokens that are bound to it
    clock.advance(SECOND);
    assert_eq!(status(&new, &bound(&world, &before)).await, 401, "issued after the switch");
    assert_eq!(status(&new, &bound(&world, &after)).await, 200);
    let other = proxy.client(Who::Assistant, Protocol::H2).await;
    assert_eq!(status(&other, &token).await, 401, "another's");

    clock.advance(GRACE - 2 * SECOND);
    let long = world.certificates.client(Who::Storefront).unwrap();
    assert_eq!(status(&new, &token).await, 200);
    clock.advance(SECOND);
    assert_eq!(status(&new, &token).await, 401, "the moment is over");
    assert_eq!(status(&connect(&proxy, &long).await, &token).await, 200, "till it was replaced again");
    assert_eq!(world.upstream.counts().requests, 5);
}

#[tokio::test]
async fn a_certificate_that_was_not_verified_here_or_is_no_longer_good_stands_for_nothing() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let validity = Validity { from: clock.now().minus(12 * GRACE), to: clock.now().plus(12 * GRACE) };
    world.write("shop.crl", &world.certificates.shop.crl(&[], validity).unwrap());
    let proxy = world.start(ALLOW);
    let Rotation { before: unseen, after } = Rotation::new(&world);
    let revoked = world.certificates.client(Who::Revoked).unwrap();
    let mut short = world.certificates.workload(TRUST_DOMAIN, "storefront");
    short.validity.to = clock.now().plus(GRACE / 2);
    let short = world.certificates.shop.issue(&short).unwrap();
    let unnamed = world.certificates.client(Who::Unnamed).unwrap();
    for earlier in [&revoked, &short, &unnamed] {
        let client = connect(&proxy, earlier).await;
        assert_ne!(client.ask(bearer("x")).await.unwrap().status, 200);
    }
    clock.advance(SECOND);
    let tokens = [&unseen, &revoked, &short, &unnamed].map(|minted| bound(&world, minted));
    let taken = async || {
        // another list asks connections to end
        let new = connect(&proxy, &after).await;
        let mut taken = Vec::new();
        for token in &tokens {
            taken.push(status(&new, token).await);
        }
        taken
    };
    assert_eq!(taken().await, [401, 200, 200, 401]);
    world.write("shop.crl", &world.certificates.crl());
    proxy.reload(ALLOW).unwrap();
    assert_eq!(taken().await, [401, 401, 200, 401]);
    clock.advance(GRACE / 2);
    assert_eq!(taken().await, [401, 401, 401, 401]);
    assert_eq!(world.upstream.counts().requests, 3);
}

#[tokio::test]
async fn without_grace_a_token_ends_with_its_certificate() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let proxy = start_with_issuer(&world, "rotation_grace = \"0s\"", ALLOW);
    let Rotation { before, after } = Rotation::new(&world);
    let token = bound(&world, &before);
    assert_eq!(status(&connect(&proxy, &before).await, &token).await, 200);
    clock.advance(SECOND);
    assert_eq!(status(&connect(&proxy, &after).await, &token).await, 401);
    assert_eq!(world.upstream.counts().requests, 1);
}

/// The list says so of a certificate that nobody presents any more.
#[tokio::test]
async fn a_token_of_a_revoked_certificate_has_no_moment_more() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let list = |entries: &str| world.write("revoked.toml", &format!("version = 1\n{entries}"));
    list("");
    let proxy = world.start(&format!("{ALLOW}\n[revocation]\nfile = \"revoked.toml\"\n"));
    let Rotation { before, after } = Rotation::new(&world);
    let (earlier, present) = (bound(&world, &before), bound(&world, &after));
    assert_eq!(status(&connect(&proxy, &before).await, &earlier).await, 200);
    clock.advance(SECOND);
    let new = connect(&proxy, &after).await;
    assert_eq!(status(&new, &earlier).await, 200);
    let mut streaming = bearer(&earlier);
    *streaming.uri_mut() = "/events?events=1000".parse().unwrap();
    let mut events = new.send(streaming).await.unwrap().into_body();
    assert!(next_data(&mut events).await.unwrap().is_some());

    let revoked = |minted: &Minted, reason: &str| {
        let hash = sha256(&minted.der);
        list(&format!("[[revoked]]\ncertificate = \"{hash}\"\nreason = \"{reason}\"\n"))
    };
    revoked(&before, "INC-1");
    proxy.events("revocation_loaded", 2).await;
    let before_refusals = world.upstream.counts().requests;
    let answer = new.ask(bearer(&earlier)).await.unwrap();
    let record = proxy.record_of(&answer).await;
    assert_eq!((answer.status.as_u16(), &record["reason"]), (401, &json!("token_revoked")), "{record}");
    assert_eq!((&record["checks"]["peer"], &record["also"]), (&json!("ok"), &json!([])), "{record}");
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.ends_with("the certificate that the token is bound to is on the revocation list: INC-1"),
        "{detail}"
    );
    assert_eq!(world.upstream.counts().requests, before_refusals);
    assert_eq!(status(&new, &present).await, 200, "that of the present one is not on the list");
    let ended = async { while let Ok(Some(_)) = next_data(&mut events).await {} };
    soon("the end of what streams", ended).await;
    let of_stream = |all: &[Value]| all.iter().find(|it| it["action"]["path"] == "/events").cloned();
    assert_eq!(proxy.records.until(of_stream).await["reason"], "token_revoked");

    // of the present one both are refused
    revoked(&after, "INC-2");
    proxy.events("revocation_loaded", 3).await;
    let answer = new.ask(bearer(&present)).await.unwrap();
    let record = proxy.record_of(&answer).await;
    assert_eq!(record["also"], json!(["peer_revoked", "token_revoked"]), "{record}");
    assert_eq!(status(&new, &earlier).await, 403);
}
