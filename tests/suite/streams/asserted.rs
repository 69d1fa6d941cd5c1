//! What streams to a caller whom another Countersign vouches for: its word was for the moment of the request, so the
//! stream outlives the assertion, and ends with all else that it was permitted upon, the caller's own token too.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::cli::mint::Minted;
use serde_json::{Value, json};
use tonic::Code;

use super::{FORBIDDEN, KINDS, Kind, Stream, Streams, TOKEN_LIFETIME, record};
use crate::world::certificates::TRUST_DOMAIN;
use crate::world::client::{Client, Protocol, get};
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::KEYS;
use crate::world::{World, sha256_of};

/// The front carries tokens of its own, too.
pub const FRONT: &str = r#"
[trusted_hop.front]
kind = "countersign"
spiffe_id = "spiffe://shop.example/ns/prod/sa/front"

[service.front]
spiffe_id = "spiffe://shop.example/ns/prod/sa/front"
client_id = [{ issuer = "front", client = "storefront-web" }, { issuer = "corp", client = "storefront-web" }]

[issuer.front]
preset = "countersign"
url = "https://front.shop.example"
audience = ["orders"]
jwks = "front.jwks"

[role.vouched]
any_of = [{ issuer = "front", role = "order-reader" }]

[[allow]]
name = "whom the front knows"
service = "front"
role = ["vouched", "order-reader"]
route = "any"
"#;

pub const ASSERTION: &str = "x-auth-assertion";
const SUBJECT: &str = "version = 1\n[[revoked]]\nissuer = \"front\"\nsubject = \"alice\"\n";

/// What happens to a stream, by what it ends, and with which gRPC code.
const ENDS: [(&str, &str, Code); 6] = [
    ("the person's token", "token_expired", Code::Unauthenticated),
    ("a policy", "denied_by_rule", Code::PermissionDenied),
    ("a revocation", "token_revoked", Code::Unauthenticated),
    ("a front that is trusted no longer", "token_missing", Code::Unauthenticated),
    ("a front that is no Countersign any more", "token_issuer_unknown", Code::Unauthenticated),
    ("a certificate", "peer_expired", Code::PermissionDenied),
];

/// Another Countersign, which speaks with this certificate.
pub struct Front {
    pub streams: Streams,
    pub certificate: Minted,
}

/// In front of this world.
pub fn certificate(world: &World) -> Minted {
    let jwks = json!({ "keys": KEYS.iter().map(|key| key.jwk()).collect::<Vec<_>>() });
    world.write("front.jwks", &jwks.to_string());
    world.certificates.shop.issue(&world.certificates.workload(TRUST_DOMAIN, "front")).unwrap()
}

/// Good for a minute, for whoever has this certificate; it rests on a token that lasts two days. With claims laid over it.
pub fn assertion(world: &World, certificate: &Minted, claims: Value) -> String {
    let now = world.clock.now();
    let bound = URL_SAFE_NO_PAD.encode(sha256_of(&certificate.der));
    let mut said = json!({
        "iss": "https://front.shop.example", "aud": "orders", "iat": now.unix_seconds(), "jti": null,
        "exp": now.unix_seconds() + 60, "actor": "human", "on_behalf_of": "human", "roles": ["order-reader"],
        "cnf": { "x5t#S256": bound }, "subject_issuer": world.issuer.url,
        "caller_exp": now.plus(Duration::from_secs(48 * 3600)).unix_seconds(),
    });
    said.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let key = KEYS.iter().find(|key| key.algorithm == "ES256").unwrap();
    world.issuer.token_by(key, json!({ "typ": "countersign+jwt" }), said)
}

impl Front {
    pub async fn new() -> Front {
        let streams = Streams::new().await;
        streams.world.write("revoked.toml", "version = 1\n");
        let certificate = certificate(&streams.world);
        Front { streams, certificate }
    }

    pub fn configuration(&self, more: &str) -> String {
        self.streams.configuration(&format!("{FRONT}\n[revocation]\nfile = \"revoked.toml\"\n{more}"))
    }

    pub fn start(&self) -> Proxy<'_> {
        self.streams.world.start(&self.configuration(""))
    }

    pub async fn connect(&self, proxy: &Proxy<'_>, protocol: Protocol) -> Arc<Client> {
        let config = self.streams.world.certificates.client_config_with(Some(&self.certificate));
        Arc::new(Client::tls(proxy.address("mesh"), HOST, config, protocol).await.unwrap())
    }

    /// With claims laid over it.
    pub fn says(&self, claims: Value) -> String {
        assertion(&self.streams.world, &self.certificate, claims)
    }
}

#[tokio::test]
async fn a_stream_outlives_the_assertion_that_it_was_asked_with() {
    let front = Front::new().await;
    let proxy = front.start();
    let client = front.connect(&proxy, Protocol::H2).await;
    let assertion = front.says(json!({}));
    let mut asserted: Vec<Stream> = Vec::new();
    for kind in KINDS {
        asserted.push(kind.open_with(&client, ASSERTION, &assertion).await);
    }
    // The same connection, so that all are judged at once: it shows that the others were, too.
    let mut token = Kind::Events.open(&client, &front.streams.token(json!({}))).await;
    front.streams.clock.advance(TOKEN_LIFETIME);
    token.ends("token_expired", Code::Unauthenticated).await;
    for stream in &mut asserted {
        stream.goes_on(&front.streams.world).await;
    }
    // Nobody begins another with it.
    let mut late = get("/orders/7");
    late.headers_mut().insert(ASSERTION, assertion.parse().unwrap());
    assert_eq!(client.ask(late).await.unwrap().json()["reason"], "token_expired");
    // Another generation judges them, and permits them.
    proxy.reload(&front.configuration("[limit]\nheader_count_max = 99")).unwrap();
    let another = Kind::WebSocket.open_with(&client, ASSERTION, &front.says(json!({}))).await;
    for stream in &mut asserted {
        stream.goes_on(&front.streams.world).await;
    }
    drop(another);
}

#[tokio::test]
async fn a_stream_of_somebody_vouched_for_ends_with_what_it_was_permitted_upon() {
    let mut seen = 0;
    for (what, reason, code) in ENDS {
        let front = Front::new().await;
        let proxy = front.start();
        let mut streams: Vec<(Kind, usize, Stream)> = Vec::new();
        for kind in KINDS {
            for (at, protocol) in kind.protocols().iter().enumerate() {
                let client = front.connect(&proxy, *protocol).await;
                let assertion = match what {
                    "the person's token" => {
                        let ends = front.streams.clock.now().plus(TOKEN_LIFETIME).unix_seconds();
                        front.says(json!({ "caller_exp": ends }))
                    }
                    _ => front.says(json!({})),
                };
                streams.push((kind, at, kind.open_with(&client, ASSERTION, &assertion).await));
            }
        }
        let whole = front.configuration("");
        match what {
            "a policy" => {
                proxy.reload(&front.configuration(&FORBIDDEN.replace("storefront", "front"))).unwrap()
            }
            "a revocation" => drop(front.streams.world.write("revoked.toml", SUBJECT)),
            "a front that is trusted no longer" => {
                let start = whole.find("[trusted_hop.front]").unwrap();
                let length = whole[start..].find("\n\n").unwrap();
                proxy.reload(&format!("{}{}", &whole[..start], &whole[start + length..])).unwrap();
            }
            "a front that is no Countersign any more" => {
                proxy.reload(&whole.replace("preset = \"countersign\"", "preset = \"generic\"")).unwrap();
            }
            "the person's token" => front.streams.clock.advance(TOKEN_LIFETIME),
            _ => front.streams.clock.advance(Duration::from_secs(25 * 3600)),
        }
        for (kind, at, mut stream) in streams {
            stream.ends(reason, code).await;
            let record: Value = record(&proxy, kind.path(), at).await;
            let told = (&record["verdict"], &record["reason"]);
            assert_eq!(told, (&json!("allow"), &json!(reason)), "{what} {kind:?} {record}");
            assert_eq!(record["caller"]["issuer"], "front", "{record}");
            assert!(record["ended_by"].is_string(), "{record}");
            seen += 1;
        }
    }
    assert_eq!(seen, 6 * 5);
}

/// Nothing of it changes by time alone, so time alone is no reason to judge it once more.
#[tokio::test]
async fn what_was_vouched_for_is_judged_again_once_when_the_assertion_has_ended() {
    let front = Front::new().await;
    let proxy = front.start();
    let client = front.connect(&proxy, Protocol::H2).await;
    let _asserted = Kind::Events.open_with(&client, ASSERTION, &front.says(json!({}))).await;
    let mut tokens = Vec::new();
    for times in 1..=3 {
        let ends = front.streams.clock.now().plus(times * TOKEN_LIFETIME).unix_seconds() - 60;
        tokens.push(Kind::Events.open(&client, &front.streams.token(json!({ "exp": ends }))).await);
    }
    // Each shows that all of them were looked at; what has ended comes to no decision.
    for token in &mut tokens {
        front.streams.clock.advance(TOKEN_LIFETIME);
        token.ends("token_expired", Code::Unauthenticated).await;
    }
    let metrics = proxy.metrics().await;
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("countersign_cache_lookups_total{cache=\"decisions\""));
    let decisions: u64 = counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert_eq!(decisions, 4 + 1, "{metrics}");
}
