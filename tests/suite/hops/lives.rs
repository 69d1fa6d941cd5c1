//! Hops with certificates of their own, tokens beside what they tell, addresses, and what time and reloads do.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::clock::Clock;
use countersign::identity::Hop;
use countersign::trial::{Question, Trial, head};
use futures_util::StreamExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::world::client::with_token;
use crate::world::soon;

#[tokio::test]
async fn a_hop_with_a_certificate_of_its_own_is_not_who_asks() {
    let world = World::new().await;
    let (storefront, edge_itself) = (client(&world, Who::Storefront), client(&world, Who::Assistant));
    for form in [Form::Envoy, Form::Rfc9440] {
        let proxy = world.start(&edge(form, BY_ID));
        let config = world.certificates.client_config_with(Some(&edge_itself));
        let hop = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H2).await.unwrap();
        let told = form.of(&storefront);
        let answer = hop.ask(with(get("/told/1"), &told)).await.unwrap();
        assert_eq!(seen(&answer).header("x-auth-service"), ["storefront"]);
        let record = proxy.record_of(&answer).await;
        assert_eq!(record["peer"]["certificate"], format!("sha256:{}", hash_of(&storefront)));
        assert_eq!(
            *hop_of(&record),
            json!({"name": "edge", "certificate": format!("sha256:{}", hash_of(&edge_itself))})
        );
        assert_eq!(record["connection"]["client_ip"], Value::Null);

        // It is a service, and has no right of its own here.
        let refused =
            [("/edge/1", Vec::new(), "peer_missing"), ("/direct/1", told.clone(), "service_not_allowed")];
        for (path, fields, reason) in refused {
            let answer = hop.ask(with(get(path), &fields)).await.unwrap();
            assert_eq!(refusal(&answer), expect(403, reason), "{path}");
        }
        let answer = hop.ask(get("/public/1")).await.unwrap();
        assert!(seen(&answer).header("x-forwarded-client-cert").is_empty());
        assert_eq!(proxy.record_of(&answer).await["checks"]["peer"], "absent");

        // Whose tokens are carried, and to what they are bound: of whom the hop tells.
        let ask = async |token: &str, fields: &Fields| {
            hop.ask(with_token(with(get("/orders/1"), fields), token)).await.unwrap()
        };
        let token = world.issuer.token(json!({}));
        assert_eq!(ask(&token, &told).await.status, 200);
        let of_assistant = ask(&token, &form.of(&client(&world, Who::Assistant))).await;
        assert_eq!(refusal(&of_assistant), expect(403, "token_not_issued_to_service"));
        let bound = |minted: &Minted| {
            let hash = digest(&SHA256, &parsed(minted).0[0]);
            world.issuer.token(json!({"cnf": {"x5t#S256": URL_SAFE_NO_PAD.encode(hash)}}))
        };
        let to_storefront = bound(&storefront);
        assert_eq!(ask(&to_storefront, &told).await.status, 200);
        // The same again on this connection, and in the hands of the next one.
        assert_eq!(ask(&to_storefront, &told).await.status, 200);
        let of_another = ask(&to_storefront, &form.of(&client(&world, Who::Assistant))).await;
        assert_eq!(refusal(&of_another), expect(401, "token_not_sender_constrained"));
        let to_the_hop = ask(&bound(&edge_itself), &told).await;
        assert_eq!(refusal(&to_the_hop), expect(401, "token_not_sender_constrained"));
        std::fs::remove_file(world.folder.path().join("audit.jsonl")).unwrap();
    }
}

#[tokio::test]
async fn the_client_s_address_is_the_one_that_the_hop_saw() {
    let world = World::new().await;
    let proxy = world.start(&edge(Form::AlbChain, "address = [\"127.0.0.1/32\", \"10.0.0.0/24\"]"));
    let behind = proxy.behind(Protocol::H1).await;
    let ask = async |told: &[&str]| {
        let fields = told.iter().map(|told| ("x-forwarded-for", (*told).to_owned())).collect();
        behind.ask(passed("/office/1", &fields)).await.unwrap()
    };
    for told in [
        "203.0.113.7",
        "8.8.8.8, 203.0.113.7",
        "203.0.113.7, 10.0.0.4",
        "::ffff:203.0.113.7",
        "203.0.113.7:4711",
    ] {
        let seen = seen(&ask(&[told]).await);
        assert_eq!(seen.header("x-forwarded-for"), ["203.0.113.7"], "{told}");
        assert_eq!(seen.header("forwarded")[0].split(';').next(), Some("for=203.0.113.7"));
    }
    for told in [&["203.0.113.7, 8.8.8.8"][..], &["127.0.0.1"], &[]] {
        assert_eq!(refusal(&ask(told).await).0, 403, "{told:?}");
    }
    for told in [&["203.0.113.7, nobody"][..], &["203.0.113.7", "203.0.113.7"], &["203.0.113.7,"]] {
        let answer = ask(told).await;
        assert_eq!(refusal(&answer), expect(400, "request_malformed"), "{told:?}");
        assert_eq!(hop_of(&proxy.record_of(&answer).await)["name"], "edge");
    }
}

#[tokio::test]
async fn one_connection_brings_many_and_each_for_as_long_as_it_is_vouched_for() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let proxy = world.start(&edge(Form::AlbChain, HERE));
    let behind = proxy.behind(Protocol::H2).await;
    let fields = |who| Form::AlbChain.of(&client(&world, who));
    let (storefront, assistant) = (fields(Who::Storefront), fields(Who::Assistant));
    for _ in 0..3 {
        let answers = [
            behind.ask(passed("/told/1", &storefront)).await.unwrap(),
            behind.ask(passed("/told/1", &storefront)).await.unwrap(),
            behind.ask(passed("/told/1", &assistant)).await.unwrap(),
            behind.ask(passed("/told/1", &Vec::new())).await.unwrap(),
        ];
        let reasons = answers.map(|answer| refusal(&answer).1);
        assert_eq!(reasons, ["", "", "service_not_allowed", "peer_missing"]);
    }
    assert_eq!(behind.ask(passed("/told/1", &storefront)).await.unwrap().status, 200);
    // The same bytes again, with a list that has them by now.
    let leaf = &parsed(&client(&world, Who::Storefront)).0[0];
    assert!(!leaf.is_empty());
    clock.advance(Duration::from_secs(25 * 3600));
    let answer = behind.ask(passed("/told/1", &storefront)).await.unwrap();
    assert!(["peer_expired", "peer_revoked"].contains(&&*refusal(&answer).1), "{:?}", refusal(&answer));
}

#[tokio::test]
async fn a_reload_that_takes_the_ca_away_ends_what_a_hop_told() {
    let world = World::new().await;
    let socket = "[service.partner]\nspiffe_id = \"spiffe://partner.example/ns/prod/sa/storefront\"\nclient_id = \"any\"\n\
                  [route.socket]\nhost = \"orders.shop.example\"\npath = \"/socket\"\nupstream = \"orders\"\n\
                  upgrade = \"websocket\"\n[[allow]]\nname = \"partners\"\nservice = \"partner\"\nrole = \"none\"\n\
                  route = [\"socket\", \"orders\"]\n";
    let configuration = edge(Form::AlbChain, HERE) + socket;
    let proxy = world.start(&configuration);
    let told = Form::AlbChain.of(&client(&world, Who::Partner));
    let behind = proxy.behind(Protocol::H1).await;
    assert_eq!(behind.ask(passed("/told/1", &told)).await.unwrap().status, 200);
    let tunnel = proxy.behind(Protocol::H1).await;
    let mut tunnel = tunnel.websocket(passed("/socket", &told)).await.unwrap();
    let other = world.certificates.stranger.pem();
    world.write("partner-ca.pem", &other);
    proxy.reload(&configuration).unwrap();
    assert_eq!(refusal(&behind.ask(passed("/told/1", &told)).await.unwrap()), expect(403, "peer_untrusted"));
    let cut = soon("the cut", tunnel.next()).await;
    assert!(matches!(cut, Some(Ok(Message::Close(_)))), "{cut:?}");
    let of_socket = |all: &[Value]| all.iter().find(|record| record["action"]["path"] == "/socket").cloned();
    assert_eq!(proxy.records.until(of_socket).await["reason"], "peer_untrusted");
}

/// `hop` is how a request came, whoever's it is: nobody leaves it behind with the certificate.
#[tokio::test]
async fn without_a_certificate_a_request_came_by_its_hop_all_the_same() {
    let world = World::new().await;
    let rules = "[[allow]]\nname = \"anybody by no hop\"\nservice = \"none\"\nrole = \"none\"\nroute = \"orders\"\n\
                 hop = \"direct\"\npath = \"/near/**\"\n\
                 [[deny]]\nname = \"not by the edge\"\nroute = \"orders\"\nhop = \"edge\"\npath = \"/public/inner/**\"\n";
    for by in [HERE, BY_ID] {
        let proxy = world.start(&(edge(Form::Rfc9440, by) + rules));
        let hop = match by {
            HERE => proxy.behind(Protocol::H1).await,
            _ => proxy.client(Who::Assistant, Protocol::H1).await,
        };
        let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
        let before = world.upstream.counts().requests;
        for (path, status, reason) in [
            ("/public/1", 200, "allowed"),
            ("/public/inner/1", 403, "denied_by_rule"),
            ("/near/1", 403, "service_not_allowed"),
        ] {
            let answer = hop.ask(passed(path, &Vec::new())).await.unwrap();
            let record = proxy.record_of(&answer).await;
            assert_eq!(
                (answer.status.as_u16(), &record["reason"]),
                (status, &reason.into()),
                "{by} {path}: {record}"
            );
            let url = format!("http://{HOST}{path}");
            let through = Hop::Trusted("edge".parse().unwrap());
            let question = Question { hop: through, ..Question::new(head("GET", &url, []).unwrap()) };
            assert_eq!(trial.ask(&question).unwrap().reason().as_str(), reason, "{by} {path}");
        }
        assert_eq!(world.upstream.counts().requests, before + 1);
        std::fs::remove_file(world.folder.path().join("audit.jsonl")).unwrap();
    }
}

#[tokio::test]
async fn a_hop_that_is_revoked_speaks_for_nobody() {
    let world = World::new().await;
    world.write("revoked.toml", "version = 1\n");
    let configuration = edge(Form::Rfc9440, BY_ID) + "[revocation]\nfile = \"revoked.toml\"\n";
    let proxy = world.start(&configuration);
    let hop = proxy.client(Who::Assistant, Protocol::H1).await;
    let told = Form::Rfc9440.of(&client(&world, Who::Storefront));
    assert_eq!(hop.ask(with(get("/told/1"), &told)).await.unwrap().status, 200);
    let entry = "version = 1\n[[revoked]]\nspiffe_id = \"spiffe://shop.example/ns/prod/sa/assistant\"\n";
    world.write("revoked.toml", entry);
    proxy.events("revocation_loaded", 2).await;
    let before = world.upstream.counts().requests;
    for (path, fields) in [("/told/1", &told), ("/public/1", &Vec::new())] {
        let answer = hop.ask(with(get(path), fields)).await.unwrap();
        assert_eq!(refusal(&answer), expect(403, "peer_revoked"), "{path}");
        let record = proxy.record_of(&answer).await;
        assert!(record["detail"].as_str().unwrap().starts_with("hop `edge`: "), "{record}");
    }
    assert_eq!(world.upstream.counts().requests, before);
}
