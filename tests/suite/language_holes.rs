//! Holes that a reading of the policy language found, each asked of a running proxy or of a configuration:
//! what looks allowed and is not, and what looks closed and must be.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, with_token};
use crate::world::issuer::Issuer;
use crate::world::seen::Seen;

/// `@partner@` is another issuer; `service.partner` may carry the tokens of both.
const POLICY: &str = r#"
[issuer.partner]
url = "@partner@"
audience = ["https://orders.shop.example"]
allow_http = true
requires = ["sub", "client_id"]

[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

[[allow]]
name = "readers, and nothing is said of who acts"
service = "any"
role = "order-reader"
path = "/orders/**"

[[allow]]
name = "agents too, as their people"
service = "assistant"
role = "order-reader"
actor = "agent"
on_behalf_of = "human"
path = "/for-agents"

[[allow]]
name = "their own"
service = "storefront"
role = "any"
issuer = "corp"
path = "/customers/{customer}/**"
match_claim = { customer = "sub" }

[[allow]]
name = "the whole of admin"
service = "storefront"
role = "any"
method = "GET"
path = "/admin/**"

[[allow]]
name = "anything in the vault"
service = "storefront"
role = "any"
path = "/vault/**"

[[deny]]
name = "but nobody reads the vault"
method = "GET"
path = "/vault/**"
"#;

async fn ask(client: &Client, method: Method, path: &str, token: &str) -> (u16, String, Option<Seen>) {
    let request = Request::builder().method(method).uri(path).body(Default::default()).unwrap();
    let answer = client.ask(with_token(request, token)).await.unwrap();
    let reason = serde_json::from_slice::<Value>(&answer.body).ok();
    let reason = reason.and_then(|body| Some(body["reason"].as_str()?.to_owned())).unwrap_or_default();
    (answer.status.as_u16(), reason, serde_json::from_slice(&answer.body).ok())
}

#[tokio::test]
async fn an_agent_has_its_person_s_rights_only_where_agents_are_named() {
    let world = World::new().await;
    let partner = Issuer::start(world.clock.clone()).await;
    let proxy = world.start(&POLICY.replace("@partner@", &partner.url));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Assistant, protocol).await;
        for claims in [
            json!({"uid": "1", "client_id": "assistant-7"}),
            json!({"uid": "1", "client_id": "assistant-7", "act": {"sub": "assistant"}}),
        ] {
            let token = world.issuer.token(claims);
            let (status, reason, _) = ask(&client, Method::GET, "/orders/7", &token).await;
            assert_eq!((status, &*reason), (403, "actor_not_allowed"));
            assert_eq!(ask(&client, Method::GET, "/for-agents", &token).await.0, 200);
        }
        let person = proxy.client(Who::Storefront, protocol).await;
        let token = world.issuer.token(json!({"uid": "1"}));
        assert_eq!(ask(&person, Method::GET, "/orders/7", &token).await.0, 200);
    }
    assert_eq!(world.upstream.counts().requests, 2 * 3);
}

#[tokio::test]
async fn the_same_subject_of_another_issuer_is_somebody_else() {
    let world = World::new().await;
    let partner = Issuer::start(world.clock.clone()).await;
    let proxy = world.start(&POLICY.replace("@partner@", &partner.url));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Partner, protocol).await;
        let (ours, theirs) = (world.issuer.token(json!({})), partner.token(json!({})));
        assert_eq!(ask(&client, Method::GET, "/orders/7", &ours).await.0, 200);
        let (status, reason, _) = ask(&client, Method::GET, "/orders/7", &theirs).await;
        assert_eq!((status, &*reason), (403, "role_missing"));
    }
    assert_eq!(world.upstream.counts().requests, 2);
}

#[tokio::test]
async fn a_segment_is_decoded_once_and_forwarded_as_it_was_judged() {
    let world = World::new().await;
    let partner = Issuer::start(world.clock.clone()).await;
    let proxy = world.start(&POLICY.replace("@partner@", &partner.url));
    let token = world.issuer.token(json!({"sub": "auth0|alice"}));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        for (path, forwarded) in [
            ("/customers/auth0%7Calice/orders", "/customers/auth0%7Calice/orders"),
            ("/customers/auth0%7calice/orders", "/customers/auth0%7Calice/orders"),
            ("/customers/%61uth0%7Calice/orders/", "/customers/auth0%7Calice/orders/"),
        ] {
            let (status, _, seen) = ask(&client, Method::GET, path, &token).await;
            assert_eq!((status, &*seen.unwrap().uri), (200, forwarded), "{path}");
        }
        for path in ["/customers/auth0%257Calice/orders", "/customers/auth0%2525alice/orders"] {
            let (status, reason, _) = ask(&client, Method::GET, path, &token).await;
            assert_eq!((status, &*reason), (403, "claim_mismatch"), "{path}");
        }
    }
    assert_eq!(world.upstream.counts().requests, 2 * 3);
}

#[tokio::test]
async fn a_slash_at_the_end_and_head_change_nothing() {
    let world = World::new().await;
    let partner = Issuer::start(world.clock.clone()).await;
    let proxy = world.start(&POLICY.replace("@partner@", &partner.url));
    let token = world.issuer.token(json!({}));
    for protocol in Protocol::BOTH {
        let client = proxy.client(Who::Storefront, protocol).await;
        let mut seen = 0;
        for method in [Method::GET, Method::HEAD] {
            for (path, status) in [
                ("/admin", 200),
                ("/admin/", 200),
                ("/admin/a/", 200),
                ("/administrator", 403),
                ("/vault", 403),
                ("/vault/", 403),
                ("/vault/a", 403),
            ] {
                let found = ask(&client, method.clone(), path, &token).await;
                assert_eq!(found.0, status, "{method} {path}: {}", found.1);
                seen += 1;
            }
        }
        assert_eq!(seen, 14);
        assert_eq!(ask(&client, Method::POST, "/vault/a", &token).await.0, 200);
        assert_eq!(ask(&client, Method::POST, "/admin/", &token).await.0, 403);
    }
    assert_eq!(world.upstream.counts().requests, 2 * (6 + 1));
}

#[tokio::test]
async fn a_peer_that_is_two_services_carries_only_what_both_may() {
    const ALLOW: &str = "[[allow]]\nname = \"all\"\nservice = \"storefront\"\nrole = \"any\"\n";
    const SECOND: &str = "[service.production]\nspiffe_id = \"spiffe://shop.example/ns/prod/sa/*\"\n";
    let world = World::new().await;
    let proxy = world.start(ALLOW);
    let tokens = [json!({}), json!({"client_id": "batch-7"})].map(|claims| world.issuer.token(claims));
    let mut seen = 0;
    for (lists, statuses) in [
        ("", [200, 403]),
        ("client_id = \"any\"", [200, 403]),
        ("client_id = [{ issuer = \"corp\", client = \"batch-*\" }]", [403, 403]),
        ("client_id = [{ issuer = \"corp\", client = \"storefront-*\" }]", [200, 403]),
    ] {
        proxy.reload(&format!("{ALLOW}{SECOND}{lists}")).unwrap();
        for protocol in Protocol::BOTH {
            let client = proxy.client(Who::Storefront, protocol).await;
            for (token, expected) in tokens.iter().zip(statuses) {
                let (status, reason, _) = ask(&client, Method::GET, "/x", token).await;
                assert_eq!(status, expected, "{lists}: {reason}");
                assert!(status == 200 || reason == "token_not_issued_to_service", "{lists}: {reason}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 16);
}

#[tokio::test]
async fn what_could_be_evaded_is_no_configuration() {
    const OPEN: &str = r#"
[[allow]]
name = "all"
service = "storefront"
role = "any"
path = "/docs/**"
"#;
    const WAIVED: &str = r#"
[[allow]]
name = "anybody"
service = "any"
role = "none"
path = "/docs/**"
"#;
    let world = World::new().await;
    let mut seen = 0;
    for (allow, rule, wrong) in [
        // scopes are asked for by the caller, who would ask for fewer
        (OPEN, "[[deny]]\nname = \"d\"\nrole = \"order-reader\"", Some("deny_evadable")),
        (OPEN, "[[deny]]\nname = \"d\"\nissuer = \"corp\"\nclaim = { tier = \"x\" }", Some("deny_evadable")),
        (OPEN, "[[deny]]\nname = \"d\"\nissuer = \"corp\"\nclaim = { sub = \"bob\" }", None),
        (OPEN, "[[deny]]\nname = \"d\"\nactor = \"agent\"", None),
        // left away, where it is not needed
        (WAIVED, "[[deny]]\nname = \"d\"\nactor = \"agent\"", Some("deny_evadable")),
        (
            WAIVED,
            "[[deny]]\nname = \"d\"\nissuer = \"corp\"\nclaim = { sub = \"bob\" }",
            Some("deny_evadable"),
        ),
        (WAIVED, "[[deny]]\nname = \"d\"\nactor = \"agent\"\npath = \"/admin/**\"", None),
        (WAIVED, "[[deny]]\nname = \"d\"\npath = \"/docs/secret\"", None),
        // opens by the clock
        (OPEN, "[[deny]]\nname = \"d\"\npath = \"/docs/x\"\nexpires = \"2099-01-01\"", Some("rule_time")),
        (OPEN, "[[deny]]\nname = \"d\"\npath = \"/docs/x\"\nnot_before = \"2099-01-01\"", Some("rule_time")),
        (OPEN, "[[require]]\nname = \"d\"\nacr = \"mfa\"\nexpires = \"2099-01-01\"", Some("rule_time")),
        (OPEN, "", None),
    ] {
        world.configuration(&format!("{allow}{rule}"));
        let report = world.try_load().err().unwrap_or_default();
        match wrong {
            Some(code) => assert!(report.contains(&format!("error[{code}]")), "{rule}\n{report}"),
            None => assert_eq!(report, "", "{rule}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 12);
}
