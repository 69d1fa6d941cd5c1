//! How a refusal is said: status, challenge and body, in the terms of whoever asks; and nothing of the policy.

use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Request};
use serde_json::{Value, json};

use crate::world::certificates::Who;
use crate::world::client::{Answer, Client, Protocol, get, post};
use crate::world::proxy::{HOST, Proxy};
use crate::world::signing::forged;
use crate::world::{Body, World};

const POLICY: &str = r#"
[route.small]
host = "orders.shop.example"
path = "/small/**"
upstream = "orders"
body_bytes_max = "1KiB"

[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

[role.secret-admins]
any_of = [{ issuer = "corp", group = "secret-group" }]

[[allow]]
name = "secret name: reads"
service = "storefront"
role = "order-reader"
method = ["GET", "DELETE"]
path = ["/orders/**", "/socket"]
route = "orders"

[[allow]]
name = "secret name: refunds"
service = "storefront"
role = "order-reader"
method = "POST"
path = "/orders/*/refund"
route = "orders"

[[allow]]
name = "secret name: own"
service = "storefront"
role = "order-reader"
path = "/customers/{customer}"
match_claim = { customer = "sub" }
route = "orders"

[[allow]]
name = "secret name: people"
service = "storefront"
role = "any"
actor = "human"
path = "/people"
route = "orders"

[[allow]]
name = "secret name: admins"
service = "storefront"
role = "secret-admins"
path = "/admin/**"
route = "orders"

[[allow]]
name = "secret name: uploads"
service = "storefront"
role = "any"
route = "small"

[[allow]]
name = "secret name: calls"
service = "storefront"
role = "order-reader"
grpc = "shop.v1.Orders/*"
route = "orders"

[[require]]
name = "secret name: step-up"
path = "/orders/*/refund"
route = "orders"
acr = "mfa"
max_age = "15m"

[[deny]]
name = "secret name: nobody deletes"
method = "DELETE"
route = "any"
"#;

const INVALID: &str = r#"Bearer error="invalid_token""#;

/// What a caller sends as its credential.
enum Sent {
    Nothing,
    /// A sound token with these claims laid over it.
    Token(Value),
    /// These values of `Authorization`.
    Fields(Vec<String>),
}

struct Case {
    what: &'static str,
    who: Who,
    request: Request<Body>,
    sent: Sent,
    status: u16,
    reason: &'static str,
    challenge: Option<&'static str>,
}

fn cases(world: &World) -> Vec<Case> {
    let good = world.issuer.token(json!({}));
    let bearer = |token: &str| format!("Bearer {token}");
    let case = |what, request, sent, status, reason, challenge| Case {
        what,
        who: Who::Storefront,
        request,
        sent,
        status,
        reason,
        challenge,
    };
    let by = |who, case: Case| Case { who, ..case };
    let order = || get("/orders/7");
    let refund = || post("/orders/7/refund", "");
    let token = |claims| Sent::Token(claims);
    let fields = |fields: &[String]| Sent::Fields(fields.to_vec());
    let step_up = Some(r#"Bearer error="insufficient_user_authentication", acr_values="mfa", max_age="900""#);
    let scope = Some(r#"Bearer error="insufficient_scope", scope="orders:read""#);
    vec![
        case("no token", order(), Sent::Nothing, 401, "token_missing", Some("Bearer")),
        case("no bearer", order(), fields(&["Basic YTpi".into()]), 401, "token_malformed", Some(INVALID)),
        case(
            "bad signature",
            order(),
            fields(&[bearer(&forged(&good))]),
            401,
            "token_bad_signature",
            Some(INVALID),
        ),
        case("expired", order(), token(json!({"exp": 1})), 401, "token_expired", Some(INVALID)),
        case(
            "wrong audience",
            order(),
            token(json!({"aud": "x"})),
            401,
            "token_wrong_audience",
            Some(INVALID),
        ),
        case(
            "junk after it",
            order(),
            fields(&[format!("Bearer {good} x")]),
            401,
            "token_malformed",
            Some(INVALID),
        ),
        case(
            "two of them",
            order(),
            fields(&[bearer(&good), bearer(&good)]),
            400,
            "request_malformed",
            Some(r#"Bearer error="invalid_request""#),
        ),
        case(
            "two in one",
            order(),
            fields(&[format!("Bearer {good}, Bearer {good}")]),
            400,
            "request_malformed",
            Some(r#"Bearer error="invalid_request""#),
        ),
        case(
            "token in the query",
            get(&format!("/orders/7?a=b&access_token={good}")),
            Sent::Nothing,
            400,
            "request_malformed",
            None,
        ),
        case(
            "one here and one there",
            get(&format!("/orders/7?access%5ftoken={good}")),
            token(json!({})),
            400,
            "request_malformed",
            None,
        ),
        case("scope", order(), token(json!({"scope": "a"})), 403, "scope_missing", scope),
        case("role", get("/admin/x"), token(json!({})), 403, "role_missing", None),
        case("actor", get("/people"), token(json!({})), 403, "actor_not_allowed", None),
        case("claim", get("/customers/bob"), token(json!({})), 403, "claim_mismatch", None),
        case(
            "old login",
            refund(),
            token(json!({"acr": "mfa", "auth_time": 1})),
            401,
            "step_up_required",
            step_up,
        ),
        case("weak login", refund(), token(json!({})), 401, "step_up_required", step_up),
        case(
            "deny",
            Request::builder().method(Method::DELETE).uri("/orders/7").body(Body::default()).unwrap(),
            token(json!({})),
            403,
            "denied_by_rule",
            None,
        ),
        case("no rule", get("/other"), token(json!({})), 403, "no_rule", None),
        case("no rule, no token", get("/other"), Sent::Nothing, 403, "no_rule", None),
        by(Who::Partner, case("service", order(), token(json!({})), 403, "service_not_allowed", None)),
        by(Who::Partner, case("service, no token", order(), Sent::Nothing, 403, "token_missing", None)),
        by(Who::Unnamed, case("unnamed", order(), token(json!({})), 403, "peer_unknown", None)),
        case(
            "another client's token",
            order(),
            token(json!({"client_id": "assistant-7"})),
            403,
            "token_not_issued_to_service",
            None,
        ),
        case("too large", post("/small/x", vec![b'x'; 1025]), token(json!({})), 413, "limit_exceeded", None),
        case(
            "a token of too many parts",
            order(),
            token(json!({"scope": "x ".repeat(257)})),
            431,
            "limit_exceeded",
            None,
        ),
        case("dot segments", get("/orders/../admin/x"), token(json!({})), 400, "request_malformed", None),
        case("encoded slash", get("/orders/a%2fb"), token(json!({})), 400, "request_malformed", None),
        case("another host", get("https://localhost/orders/7"), token(json!({})), 421, "misdirected", None),
    ]
}

impl Case {
    fn request(self, world: &World) -> Request<Body> {
        let fields = match self.sent {
            Sent::Nothing => Vec::new(),
            Sent::Token(claims) => vec![format!("Bearer {}", world.issuer.token(claims))],
            Sent::Fields(fields) => fields,
        };
        let mut request = self.request;
        for field in fields {
            request.headers_mut().append(AUTHORIZATION, field.parse().unwrap());
        }
        request
    }
}

/// The answer says the reason and the decision, in these few words and no others.
pub async fn assert_says_no_more(proxy: &Proxy<'_>, answer: &Answer, what: &str) {
    let body = answer.json();
    let members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["decision", "reason", "status", "title", "type"], "{what}");
    assert_eq!(body["status"], answer.status.as_u16(), "{what}");
    assert_eq!(answer.headers[CONTENT_TYPE], "application/problem+json", "{what}");
    assert_eq!(answer.headers[CACHE_CONTROL], "no-store", "{what}");
    let expected = ["cache-control", "content-length", "content-type", "date", "www-authenticate"];
    for name in answer.headers.keys() {
        assert!(expected.contains(&name.as_str()) || name == "connection", "{what}: {name}");
    }
    let all = format!("{:?} {body}", answer.headers);
    for secret in ["secret", "order-reader", "alice", "corp", "storefront", "127.0.0.1", "hasty"] {
        assert!(!all.contains(secret), "{what}: {all}");
    }
    let record = proxy.record_of(answer).await;
    assert_eq!((&record["reason"], &record["status"]), (&body["reason"], &body["status"]), "{what}");
}

#[tokio::test]
async fn every_refusal_names_its_reason_and_only_what_the_caller_can_mend() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    for protocol in Protocol::BOTH {
        let mut seen = 0;
        for case in cases(&world) {
            let what = format!("{protocol:?} {}", case.what);
            let client = proxy.client(case.who, protocol).await;
            let expected = (case.status, case.reason, case.challenge);
            let answer = client.ask(case.request(&world)).await.unwrap();
            assert_says_no_more(&proxy, &answer, &what).await;
            let body = answer.json();
            let challenge = answer.headers.get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap());
            assert_eq!(
                (answer.status.as_u16(), body["reason"].as_str().unwrap(), challenge),
                expected,
                "{what}"
            );
            seen += 1;
        }
        assert_eq!(seen, 28);
    }
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
async fn whoever_asks_is_refused_in_their_own_terms() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for (token, status) in
            [(None, "16"), (Some(json!({"scope": "a"})), "7"), (Some(json!({"exp": 1})), "16")]
        {
            let mut request = post("/shop.v1.Orders/Get", "\0\0\0\0\0");
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            if let Some(claims) = token {
                let bearer = format!("Bearer {}", world.issuer.token(claims));
                request.headers_mut().insert(AUTHORIZATION, bearer.parse().unwrap());
            }
            let answer = client.ask(request).await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.headers[CONTENT_TYPE], "application/grpc");
            assert_eq!(answer.headers["grpc-status"], status);
            assert_eq!((answer.body.len(), answer.trailers.len()), (0, 0), "trailers only");
            let message = answer.headers["grpc-message"].to_str().unwrap();
            let (reason, decision) = message.split_once(", decision ").unwrap();
            assert_eq!(proxy.record(decision).await["reason"], reason);
        }

        let navigation = [(ACCEPT, "text/html,*/*"), (HeaderName::from_static("sec-fetch-mode"), "navigate")];
        for (name, value) in navigation {
            let mut request = get("/orders/7");
            request.headers_mut().insert(name, HeaderValue::from_static(value));
            let answer = client.ask(request).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), &answer.headers[WWW_AUTHENTICATE]),
                (401, &"Bearer".parse().unwrap())
            );
            assert_eq!(answer.headers[CONTENT_TYPE], "text/html; charset=utf-8");
            assert_eq!(
                answer.headers["content-security-policy"],
                "default-src 'none'; frame-ancestors 'none'"
            );
            let page = String::from_utf8(answer.body.to_vec()).unwrap();
            let quoted: Vec<_> =
                page.split("<code>").skip(1).map(|rest| rest.split_once('<').unwrap().0).collect();
            assert_eq!(quoted[0], "token_missing");
            assert_eq!(proxy.record(quoted[1]).await["reason"], "token_missing");
        }

        let head = Request::builder().method(Method::HEAD).uri("/orders/7").body(Body::default()).unwrap();
        let answer = client.ask(head).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (401, 0));

        let Err(Ok(answer)) = client.websocket(get("/socket")).await else { panic!("it was let through") };
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &json!("token_missing")));
    }
    assert_eq!(world.upstream.counts().requests, 0);
}

/// An answer without what differs from one to the next.
fn comparable(mut answer: Answer) -> String {
    let decision = answer.json()["decision"].as_str().unwrap().to_owned();
    answer.headers.remove("date");
    format!("{answer:?}").replace(&decision, "…")
}

#[tokio::test]
async fn that_there_is_no_route_is_told_only_to_both_signatures() {
    let world = World::new().await;
    let proxy = world.start(POLICY);
    let good = format!("Bearer {}", world.issuer.token(json!({})));
    let bad = format!("Bearer {}", world.issuer.token(json!({"exp": 1})));
    for protocol in Protocol::BOTH {
        let mut seen = 0;
        let ask = async |host: &'static str, who, token: Option<&str>| {
            let config = world.certificates.client_config(who);
            let client = Client::tls(proxy.address("mesh"), host, config, protocol).await.unwrap();
            let mut request = get("/orders/7");
            if let Some(token) = token {
                request.headers_mut().insert(AUTHORIZATION, token.parse().unwrap());
            }
            client.ask(request).await.unwrap()
        };
        for (who, token) in [
            (Who::Storefront, None),
            (Who::Storefront, Some(&*bad)),
            (Who::Unnamed, None),
            (Who::Unnamed, Some(&*good)),
            (Who::Unnamed, Some(&*bad)),
        ] {
            let (known, unknown) = (ask(HOST, who, token).await, ask("localhost", who, token).await);
            assert!(matches!(known.status.as_u16(), 401 | 403), "{known:?}");
            assert_eq!(comparable(known), comparable(unknown), "{protocol:?} {who:?}");
            seen += 1;
        }
        assert_eq!(seen, 5);
        let told = ask("localhost", Who::Storefront, Some(&good)).await;
        assert_eq!((told.status.as_u16(), &told.json()["reason"]), (404, &json!("no_route")));
    }
    assert_eq!(world.upstream.counts().requests, 0);
}
