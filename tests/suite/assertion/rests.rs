//! What an assertion rests on: the person's own token, when it ends, to what it was bound, and that it is not revoked.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::cli::mint::Minted;
use serde_json::json;

use super::next::Chain;
use super::{ask, asserted};
use crate::world::World;
use crate::world::certificates::{Who, parsed};
use crate::world::client::{Client, Protocol, get};
use crate::world::proxy::HOST;

const MORE: &str = r#"
[revocation]
file = "revoked.toml"

[[require]]
name = "with a token that is bound"
route = "orders"
path = "/bound-only/**"
sender_constrained = true
"#;

/// Speaks as the front, with its certificate.
async fn as_front(world: &World, chain: &Chain<'_>) -> Client {
    let read = |name: &str| std::fs::read_to_string(world.folder.path().join(name)).unwrap();
    let minted = Minted { chain: read("orders.pem"), key: read("orders-key.pem"), der: Vec::new() };
    let config = world.certificates.client_config_with(Some(&minted));
    Client::tls(chain.next.address("mesh"), HOST, config, Protocol::H1).await.unwrap()
}

fn with(path: &str, fields: &[(&'static str, &str)]) -> http::Request<crate::world::Body> {
    let mut request = get(path);
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_token_that_is_revoked_is_no_good_beside_or_behind_an_assertion() {
    let world = World::new().await;
    world.write("revoked.toml", "version = 1\n");
    let chain = world.chain_with("jwks = \"front.jwks\"", MORE).await;
    let client = chain.front.client(Who::Storefront, Protocol::H1).await;
    let of = json!({ "uid": "1", "jti": "j-1" });
    let token = format!("Bearer {}", world.issuer.token(of.clone()));
    let bound = asserted(&client, ask(&world, "/bound/7", of)).await;
    let front = as_front(&world, &chain).await;
    let beside = [("x-auth-assertion", &*bound), ("authorization", &*token)];
    let entry = |keys: &str| format!("version = 1\n[[revoked]]\nissuer = \"corp\"\n{keys}\n");
    let mut nth = 1;
    for (keys, fields, status) in [
        ("jti = \"j-2\"", &beside[..], 200),
        ("jti = \"j-1\"", &beside[..], 401),
        ("subject = \"bob\"", &beside[..], 200),
        ("subject = \"alice\"", &beside[..], 401),
        // Known by her name alone: of another Countersign, which was told it by the same issuer.
        ("subject = \"bob\"", &beside[..1], 200),
        ("subject = \"alice\"", &beside[..1], 401),
        ("client = \"storefront-web\"", &beside[..1], 401),
    ] {
        world.write("revoked.toml", &entry(keys));
        nth += 1;
        chain.next.events("revocation_loaded", nth).await;
        let before = world.upstream.counts().requests;
        let answer = front.ask(with("/next/7", fields)).await.unwrap();
        assert_eq!(answer.status, status, "{keys}");
        assert_eq!(world.upstream.counts().requests - before, u64::from(status == 200), "{keys}");
        if status != 200 {
            assert_eq!(chain.next.record_of(&answer).await["reason"], "token_revoked", "{keys}");
        }
    }
}

#[tokio::test]
async fn a_bound_token_is_the_person_s_and_not_the_hop_s() {
    let world = World::new().await;
    world.write("revoked.toml", "version = 1\n");
    let chain = world.chain_with("jwks = \"front.jwks\"", MORE).await;
    let minted = world.certificates.client(Who::Storefront).unwrap();
    let config = world.certificates.client_config_with(Some(&minted));
    let client = Client::tls(chain.front.address("mesh"), HOST, config, Protocol::H1).await.unwrap();
    let front = as_front(&world, &chain).await;
    let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, &parsed(&minted).0[0]));
    for (claims, status, bound) in [
        (json!({ "uid": "1" }), 401, "none"),
        (json!({ "uid": "1", "cnf": { "x5t#S256": hash } }), 200, "certificate"),
    ] {
        let assertion = asserted(&client, ask(&world, "/bound/7", claims)).await;
        let answer = front.ask(with("/bound-only/7", &[("x-auth-assertion", &assertion)])).await.unwrap();
        let record = chain.next.record_of(&answer).await;
        assert_eq!((answer.status.as_u16(), &record["caller"]["bound"]), (status, &json!(bound)), "{record}");
    }
}
