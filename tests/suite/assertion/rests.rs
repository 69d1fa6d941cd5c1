//! What an assertion rests on: the person's own token, when it ends, to what it was bound, and that it is not revoked.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::cli::mint::Minted;
use serde_json::json;

use super::next::Chain;
use super::{ask, asserted};
use crate::streams::asserted::Front;
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

/// A provider for many tenants, and one whose people come with tokens or log in at a load balancer.
const FIRST_NAMED: &str = r#"
[issuer.login]
preset = "alb"
url = "@issuer@"
signer = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/front/50dc6c495c0c9188"
audience = ["web"]

[trusted_hop.balancer]
kind = "alb"
mutual_authentication = "off"
address = "10.0.0.0/24"

[issuer.tenants]
preset = "entra"
url = "https://login.microsoftonline.com/{tid}/v2.0"
audience = ["orders"]
jwks = "front.jwks"
only = { tid = "9188040d-6c67-4c5b-b112-36a304b66dad" }
"#;

#[tokio::test]
async fn whoever_a_front_vouches_for_is_revoked_by_every_name_of_who_named_them_first() {
    let front = Front::new().await;
    let (world, more) =
        (&front.streams.world, FIRST_NAMED.replace("@issuer@", &front.streams.world.issuer.url));
    // What stands first in the file is found first.
    let configuration =
        front.configuration("").replacen("[trusted_hop.front]", &format!("{more}\n[trusted_hop.front]"), 1);
    let proxy = world.start(&configuration);
    let client = front.connect(&proxy, Protocol::H2).await;
    let tenant = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0";
    let cases = [
        ("login", &*world.issuer.url, 401),
        ("corp", &world.issuer.url, 401),
        ("tenants", &world.issuer.url, 200),
        ("tenants", tenant, 401),
        ("corp", tenant, 200),
        ("front", tenant, 401),
        ("tenants", "https://login.microsoftonline.com//v2.0", 200),
    ];
    for (nth, (issuer, first, status)) in cases.into_iter().enumerate() {
        world.write(
            "revoked.toml",
            &format!(
                "version = 1\n[[revoked]]\nissuer = \"{issuer}\"\nsubject = \"alice\"\nreason = \"{nth}\"\n"
            ),
        );
        proxy.events("revocation_loaded", nth + 2).await;
        let before = world.upstream.counts().requests;
        let said = front.says(json!({ "subject_issuer": first }));
        let answer = client.ask(with("/orders/7", &[("x-auth-assertion", &said)])).await.unwrap();
        let record = proxy.record_of(&answer).await;
        assert_eq!(answer.status, status, "{issuer} {first} {record}");
        assert_eq!(record["reason"] == "token_revoked", status == 401, "{record}");
        assert_eq!(world.upstream.counts().requests - before, u64::from(status == 200), "{issuer} {first}");
    }
}
