//! What proves something to somebody: proofs of possession, assertions of another Countersign and our own, log-ins at a
//! load balancer, secrets and tokens towards a provider, whatever that answers.

use std::fs;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{Canaries, admin, told, with};
use crate::hops::balancer::{Keys, SAID, SIGNER};
use crate::possession::Holder;
use crate::world::certificates::{TRUST_DOMAIN, Who};
use crate::world::client::{Client, Protocol, get};
use crate::world::listen::{Listening, listen};
use crate::world::proxy::{HOST, Records};
use crate::world::seen::Seen;
use crate::world::signing::{KEYS, forged};
use crate::world::{Body, World, full, sha256_of};

const POLICY: &str = r#"
[log]
level = "trace"
format = "json"

[assertion]
issuer = "https://orders.shop.example"

[trusted_hop.front]
kind = "countersign"
spiffe_id = "spiffe://shop.example/ns/prod/sa/front"

[issuer.front]
preset = "countersign"
url = "https://front.shop.example"
audience = ["orders"]
jwks = "front.jwks"

[listener.behind]
address = "127.0.0.1:0"
allow_plaintext = true

[trusted_hop.balancer]
kind = "alb"
mutual_authentication = "off"
address = "127.0.0.8/32"

[issuer.people]
preset = "alb"
url = "@issuer@"
signer = "@signer@"
audience = ["web"]
jwks = "@alb@"
allow_http = true

[issuer.opaque]
url = "@desk@"
jwks = "front.jwks"
audience = ["https://orders.shop.example"]
allow_http = true
client_id = "orders"
client_secret = { env = "CANARY_INTROSPECTION" }
introspection = { endpoint = "@desk@/introspect" }

[service.front]
spiffe_id = "spiffe://shop.example/ns/prod/sa/front"
client_id = "any"
[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

@upstreams@

[[allow]]
name = "whoever has a token"
service = "any"
role = "any"
actor = ["human", "service", "unknown"]
route = "any"

[[allow]]
name = "browsers"
service = "none"
role = "any"
actor = "human"
route = "orders"
"#;

/// Upstreams by what they are shown, each at the path of its name.
const SHOWN: [(&str, &str); 5] = [
    ("basic", "kind = \"client_credentials\"\nclient_secret = { file = \"client-secret\" }"),
    (
        "post",
        "kind = \"client_credentials\"\nclient_authentication = \"client_secret_post\"\n\
         client_secret = { env = \"CANARY_POST\" }",
    ),
    ("key", "kind = \"client_credentials\"\nprivate_key = \"client-key.pem\""),
    (
        "exchanged",
        "kind = \"exchange\"\nactor_token = \"client_credentials\"\nclient_secret = { file = \"client-secret\" }",
    ),
    (
        "refused",
        "kind = \"exchange\"\naudience = \"nobody\"\nactor_token = \"client_credentials\"\n\
         client_secret = { file = \"client-secret\" }",
    ),
];

fn upstreams() -> String {
    let table = |(name, credential): &(&str, &str)| {
        format!(
            "[upstream.{name}]\nserver = \"@upstream@\"\n[upstream.{name}.credential]\ntoken_endpoint = \"@desk@/token\"\n\
             allow_http = true\nclient_id = \"{name}\"\n{credential}\n[route.{name}]\nhost = \"{HOST}\"\n\
             path = \"/{name}\"\nupstream = \"{name}\"\n"
        )
    };
    SHOWN.iter().map(table).collect()
}

/// What a provider was told, by the name of the field.
type Told = Arc<Mutex<Vec<(String, String)>>>;

/// A provider that repeats what it is told wherever it is free to say something.
async fn desk(issued: String, told: Told) -> Listening {
    listen("127.0.0.1:0".parse().unwrap(), None, move |request| {
        let (issued, told) = (issued.clone(), Arc::clone(&told));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let mut fields: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
            if let Some(secret) = head.headers.get(AUTHORIZATION) {
                fields.push(("authorization".to_owned(), secret.to_str()?.to_owned()));
            }
            let field = |name: &str| fields.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
            let (status, mut answer) = match (head.uri.path(), field("token"), field("audience")) {
                ("/introspect", Some(token), _) if token.starts_with("ACTIVE") => {
                    let until = countersign::clock::Clock::system().now().unix_seconds() + 300;
                    let audience = "https://orders.shop.example";
                    (200, json!({ "active": true, "sub": "alice", "client_id": "web", "aud": audience, "exp": until }))
                }
                ("/introspect", Some(token), _) if token.starts_with("ODD") => (500, json!({ "token": token })),
                ("/introspect", token, _) => (200, json!({ "active": false, "token": token })),
                (_, _, Some("nobody")) => (400, json!({ "error": "invalid_target" })),
                _ => {
                    let kind = "urn:ietf:params:oauth:token-type:access_token";
                    (200, json!({ "access_token": issued, "token_type": "Bearer", "issued_token_type": kind }))
                }
            };
            answer["error_description"] = format!("{fields:?}").into();
            told.lock().unwrap().extend(fields);
            Ok(Response::builder().status(status).body(full(answer.to_string()))?)
        }
    })
    .await
}

fn bearer(path: &str, token: &str) -> Request<Body> {
    with(get(path), &[("authorization", &format!("Bearer {token}"))])
}

/// Requests with tokens that are bound to a key, from the storefront.
fn proven(world: &World, canaries: &mut Canaries) -> Vec<(Request<Body>, u16)> {
    let [holder, other] = [(); 2].map(|()| Holder::new("ES256", &world.clock));
    let token = holder.token(&world.issuer);
    let good = holder.proof(&token, json!({}), json!({}));
    let proofs = [
        ("a good proof", good.clone(), 200),
        ("a good proof, again", good, 401),
        ("another's proof", other.proof(&token, json!({}), json!({})), 401),
        ("a proof for another path", holder.proof(&token, json!({}), json!({ "htu": "https://else/" })), 401),
        ("no proof", canaries.plant("no proof"), 401),
        (
            "a nonce that is none",
            holder.proof(&token, json!({}), json!({ "nonce": canaries.plant("a nonce") })),
            200,
        ),
    ];
    canaries.add("a bound token", token.clone());
    let mut requests = vec![(bearer("/orders/7", &token), 401)];
    for (what, proof, status) in proofs {
        if let Some((signed, signature)) = proof.rsplit_once('.')
            && what != "a good proof, again"
        {
            canaries.add(what, proof.clone());
            canaries.add(&format!("the claims of {what}"), signed.split_once('.').unwrap().1.to_owned());
            canaries.add(&format!("the signature of {what}"), signature.to_owned());
        }
        let fields = [("authorization", format!("DPoP {token}")), ("dpop", proof)];
        requests.push((
            with(get("/orders/7"), &fields.each_ref().map(|(name, value)| (*name, &**value))),
            status,
        ));
    }
    requests
}

/// Requests with assertions, from the front.
fn asserted(world: &World, certificate: &[u8], canaries: &mut Canaries) -> Vec<(Request<Body>, u16)> {
    let now = world.clock.now().unix_seconds();
    let bound = json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(sha256_of(certificate)) });
    let mut sign = |what: &str, name: &str, value: Value| {
        let mut claims = json!({
            "iss": "https://front.shop.example", "aud": "orders", "exp": now + 60, "actor": "human",
            "on_behalf_of": "human", "jti": canaries.plant(&format!("the jti of {what}")), "cnf": bound,
        });
        claims[name] = value;
        let key = KEYS.iter().find(|key| key.algorithm == "ES256").unwrap();
        let assertion = world.issuer.token_by(key, json!({ "typ": "countersign+jwt" }), claims);
        canaries.add(what, assertion.clone());
        canaries.add(&format!("the signature of {what}"), assertion.rsplit_once('.').unwrap().1.to_owned());
        assertion
    };
    let good = sign("a good assertion", "sub", "alice".into());
    let cases = [
        (sign("a loose assertion", "cnf", Value::Null), 401),
        (sign("an assertion for another", "aud", "elsewhere".into()), 401),
        (sign("an assertion that has ended", "exp", (now - 600).into()), 401),
        (forged(&good), 401),
        (format!("{good}.{}", canaries.plant("an assertion that is none")), 401),
        (good.clone(), 200),
    ];
    canaries.add("a forged assertion", forged(&good));
    let asked = |(assertion, status): (String, u16)| {
        (with(get("/orders/7"), &[("x-auth-assertion", &assertion)]), status)
    };
    let mut requests: Vec<_> = cases.into_iter().map(asked).collect();
    requests.push((with(get("/orders/7"), &[("x-auth-assertion", &good), ("x-auth-assertion", &good)]), 400));
    requests.push((bearer("/orders/7", &good), 401));
    requests
}

/// Requests of people who log in at a load balancer, from there.
fn logged_in(world: &World, keys: &Keys, canaries: &mut Canaries) -> Vec<(Request<Body>, u16)> {
    let odd = canaries.plant("an odd acr");
    let mut say = |what: &str, header: Value, mut claims: Value| {
        for name in ["email", "phone_number", "jti"] {
            claims[name] = canaries.plant(&format!("{name} of {what}")).into();
        }
        let said = keys.said(world, header, claims);
        let [_, claims, signature] = said.split('.').collect::<Vec<_>>()[..] else { panic!("{said}") };
        canaries.add(what, said.clone());
        canaries.add(&format!("the claims of {what}"), claims.trim_end_matches('=').to_owned());
        canaries.add(&format!("the signature of {what}"), signature.trim_end_matches('=').to_owned());
        said
    };
    let none = || json!({});
    let past = json!({ "exp": 1 });
    let good = say("a log-in", none(), none());
    let bound = say("a bound log-in", none(), json!({ "cnf": { "jkt": "A".repeat(43) } }));
    let other = say("a log-in elsewhere", json!({ "signer": "arn:of:another" }), none());
    let ended = say("a log-in that has ended", past.clone(), past);
    let keyless =
        say("a log-in under no key", json!({ "kid": "00000000-0000-0000-0000-000000000403" }), none());
    let odd = say("a log-in in odd words", none(), json!({ "acr": [odd] }));
    let [header, claims, _] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let forged = format!("{header}.{claims}.{}", other.rsplit_once('.').unwrap().1);
    let url = format!("http://{HOST}/orders/7");
    let garbage = format!("{}.{}", canaries.plant("no log-in at all"), canaries.plant("nor its claims"));
    let cases = [
        (&good, 200),
        (&good, 200),
        (&bound, 401),
        (&other, 401),
        (&ended, 401),
        (&keyless, 401),
        (&odd, 401),
    ];
    let cases = cases.into_iter().chain([(&forged, 401), (&garbage, 401)]);
    let mut all: Vec<_> = cases.map(|(said, status)| (with(get(&url), &[(SAID, said)]), status)).collect();
    all.push((with(get(&url), &[(SAID, &good), (SAID, &bound)]), 400));
    all.push((bearer(&url, &good), 401));
    all
}

#[tokio::test]
async fn nothing_that_proves_something_is_ever_said_aloud() {
    let mut canaries = Canaries::default();
    let world = World::new().await;
    let told_to_it = Told::default();
    let desk = desk(canaries.plant("a token for upstreams"), Arc::clone(&told_to_it)).await;
    let environment = [
        ("CANARY_INTROSPECTION", canaries.plant("the secret for introspection")),
        ("CANARY_POST", canaries.plant("a secret in a form")),
    ];
    world.write("client-secret", &canaries.plant("a secret in Authorization"));
    let client_key = world.certificates.server("client").key;
    canaries.add("the client's private key", client_key.lines().nth(1).unwrap().to_owned());
    world.write("client-key.pem", &client_key);
    world.write(
        "front.jwks",
        &json!({ "keys": KEYS.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string(),
    );
    let policy = POLICY.replace("@upstreams@", &upstreams());
    let keys = Keys::start().await;
    let policy = policy.replace("@signer@", SIGNER).replace("@alb@", &keys.jwks());
    world.configuration(&policy.replace("@desk@", &format!("http://{}", desk.address)));

    let records = Records::of(world.folder.path().join("audit.jsonl"));
    let binary = world.run(&environment.each_ref().map(|(name, value)| (*name, value.as_str())));
    let mesh = binary.address("listener", "mesh").await;
    let behind = binary.address("listener", "behind").await;
    let certificates = &world.certificates;
    let front = certificates.shop.issue(&certificates.workload(TRUST_DOMAIN, "front")).unwrap();
    let minted = |who: Who| certificates.client(who).unwrap();
    let (storefront, partner) = (minted(Who::Storefront), minted(Who::Partner));
    let (mut answers, mut asked, mut assertions) = (String::new(), 0, 0);
    for (protocol, round) in [(Protocol::H1, "h1: "), (Protocol::H2, "h2: ")] {
        canaries.round = round;
        let opaque = ["ACTIVE", "GONE", "ODD"].map(|start| format!("{start}{}", canaries.plant(start)));
        let caller = world.issuer.token(json!({ "jti": canaries.plant("the jti of a subject token") }));
        canaries.add("a subject token", caller.clone());
        let shown = |(name, _): &(&str, &str)| {
            (bearer(&format!("/{name}"), &caller), if *name == "refused" { 403 } else { 200 })
        };
        let unread = with(
            bearer("/orders/7", &caller),
            &[("x-auth-assertion", &canaries.plant("a stranger's assertion"))],
        );
        let of_storefront =
            proven(&world, &mut canaries).into_iter().chain(SHOWN.iter().map(shown)).chain([(unread, 200)]);
        // Who failed once is not asked again for a moment, so that comes last.
        let times = if protocol == Protocol::H1 { 2 } else { 3 };
        let of_partner = opaque.iter().zip([200, 401, 503]).take(times);
        let of_partner = of_partner.map(|(token, status)| (bearer("/orders/7", token), status));
        let mut of_front = asserted(&world, &front.der, &mut canaries);
        let of_browsers = logged_in(&world, &keys, &mut canaries);
        // From whoever is no load balancer nobody reads it.
        of_front.push((with(get("/orders/7"), &[(SAID, &canaries.plant("a stranger's log-in"))]), 401));
        let all = [
            (Some(&front), of_front),
            (Some(&storefront), of_storefront.collect()),
            (Some(&partner), of_partner.collect()),
            (None, of_browsers),
        ];
        for (who, requests) in all {
            let client = match who {
                Some(who) => {
                    let config = certificates.client_config_with(Some(who));
                    Client::tls(mesh, HOST, config, protocol).await
                }
                None => Client::plain_from("127.0.0.8".parse().unwrap(), behind, protocol).await,
            };
            let client = client.unwrap();
            for (request, status) in requests {
                let what = format!("{:?}", request);
                let answer = client.ask(request).await.unwrap();
                assert_eq!(answer.status, status, "{what}: {answer:?}");
                asked += 1;
                if status != 200 {
                    answers.push_str(&told(&answer));
                    continue;
                }
                let seen: Seen = serde_json::from_slice(&answer.body).unwrap();
                let [ours] = seen.header("x-auth-assertion")[..] else { panic!("{what}: {seen:?}") };
                if !canaries.secrets.values().any(|secret| secret == ours) {
                    assertions += 1;
                    canaries.add(&format!("our assertion {assertions}"), ours.to_owned());
                    let signature = ours.rsplit_once('.').unwrap().1.to_owned();
                    canaries.add(&format!("the signature of our assertion {assertions}"), signature);
                }
            }
        }
    }
    canaries.round = "";
    assert_eq!(asked, 2 * (9 + 13 + 2 + 11) + 1);
    assert!(assertions >= 2 * 4, "{assertions}");

    // All that the provider was told, of each kind.
    let told_to_it = told_to_it.lock().unwrap().clone();
    let secrets =
        ["authorization", "client_secret", "client_assertion", "subject_token", "actor_token", "token"];
    for name in secrets {
        let mut of_kind: Vec<&str> =
            told_to_it.iter().filter(|(it, _)| it == name).map(|(_, value)| value.as_str()).collect();
        of_kind.sort_unstable();
        of_kind.dedup();
        assert!(!of_kind.is_empty(), "{name}");
        for (at, secret) in of_kind.into_iter().enumerate() {
            canaries.add(
                &format!("{name} {at} as the provider saw it"),
                secret.trim_start_matches("Basic ").to_owned(),
            );
        }
    }

    let mut metrics = String::new();
    for path in ["/metrics", "/status", "/livez", "/readyz"] {
        metrics.push_str(&admin(&binary, path).await);
    }
    let requests = |all: &[Value]| all.iter().filter(|record| record["event"] == "request").count();
    records.until(|all| (requests(all) >= asked).then_some(())).await;
    let audit = fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let (log, stdout) = binary.end().await;
    canaries.are_unsaid([
        ("log", log, "\"level\":\"TRACE\""),
        ("standard output", stdout, ""),
        ("audit records", audit, "token_not_exchanged"),
        ("metrics, status and probes", metrics, "countersign_requests_total"),
        ("refusals", answers, "token_not_sender_constrained"),
    ]);
}
