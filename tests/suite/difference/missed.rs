//! What could be missed: each edit changes what is decided, by something that hides well.

use countersign::cli::diff::Difference;

use super::Desk;

const BASE: &str = r#"
version = 1
[proxy]
name = "orders"
[admin]
address = "127.0.0.1:0"
health_address = "127.0.0.1:0"
[identity]
certificate = "orders.pem"
private_key = "orders-key.pem"
[trust_domain."shop.example"]
ca = "shop-ca.pem"
[listener.mesh]
address = "127.0.0.1:0"
client_certificate = "optional"
[issuer.corp]
url = "https://corp.example"
audience = ["orders", "billing"]
requires = ["sub", "client_id", "azp", "aud"]
[issuer.corp.claims]
groups = "groups"
scopes = "scope"
[[issuer.corp.actor]]
kind = "human"
claim = { uid = "*" }
[[issuer.corp.actor]]
kind = "service"
claim = { gty = "cc" }
[[issuer.corp.actor]]
kind = "agent"
claim = { client_id = "assistant-*" }
[service.wide]
spiffe_id = "spiffe://shop.example/ns/**"
client_id = "any"
[service.deep]
spiffe_id = "spiffe://shop.example/ns/*/sa/**"
client_id = "any"
[role.reader]
any_of = [{ issuer = "corp", scope = "read" }]
[upstream.orders]
server = ["http://127.0.0.1:8080"]
[route.orders]
host = ["orders.example"]
path = "/**"
upstream = "orders"
"#;

const CALLS: &str = r#"
[route.calls]
host = ["calls.example"]
path = "/**"
header = { content-type = "application/grpc+proto" }
upstream = "orders"
"#;

const ALLOW: &str = "[[allow]]\nname = \"a\"\nservice = \"any\"\nrole = \"any\"\nissuer = \"corp\"\n";

/// What is added to the allow, what stands beside it in both, and what only the new policy has; whether the allow
/// itself is new; and a word that the difference must have.
type Edit = (&'static str, &'static str, &'static str, bool, &'static str);

const EDITS: &[Edit] = &[
    // an audience that a token may have besides its own, or in its place
    ("claim = { aud = \"billing\" }", "", "", true, "aud billing"),
    ("claim = { aud = \"else\" }", "", "", true, "aud else"),
    ("", "[[deny]]\nname = \"d\"\nissuer = \"corp\"\nclaim = { aud = \"orders\" }", "", true, "any token"),
    // one mark of two kinds is demanded, and the other makes it nobody's
    ("claim = { uid = \"u1\" }", "", "[[deny]]\nname = \"d\"\nactor = \"agent\"", false, "uid u1"),
    ("claim = { uid = \"u1\" }\nactor = \"unknown\"", "", "", true, "[\"unknown\"]"),
    // a claim that may be a list
    (
        "claim = { azp = \"a\" }",
        "",
        "[[deny]]\nname = \"d\"\nissuer = \"corp\"\nclaim = { azp = \"b\" }",
        false,
        "azp b",
    ),
    (
        "path = \"/{c}\"\nmatch_claim = { c = \"scope\" }\nclaim = { scope = \"read\" }",
        "",
        "",
        true,
        "{scope}",
    ),
    // what is required is found deeper than what is allowed
    ("", "[[require]]\nname = \"r\"\npath = \"/**\"\nservice = \"deep\"", "", true, "deep"),
    (
        "path = \"/x/*/**\"",
        "[[require]]\nname = \"r\"\npath = [\"/x/{c}/**\", \"/x/*/{c}/**\"]\nmatch_claim = { c = \"sub\" }\nissuer = \"corp\"",
        "",
        true,
        "/x/*/{sub}/**",
    ),
    // gRPC by another name
    ("route = \"calls\"\ngrpc = \"x.Y/*\"", "", "", true, "grpc+proto"),
    // a segment that must be a claim, where another rule names it
    (
        "path = \"/x/{c}\"\nmatch_claim = { c = \"sub\" }",
        "",
        "[[deny]]\nname = \"d\"\npath = \"/x/alice\"",
        false,
        "claim sub alice",
    ),
    // a text that looks like another value
    ("claim = { vip = \"true\" }", "", "", true, r#"claim vip \"true\""#),
    // an agent's own token says for whom it acts, or does not
    (
        "actor = [\"human\", \"service\", \"agent\", \"unknown\"]",
        "[[deny]]\nname = \"d\"\non_behalf_of = \"unknown\"",
        "",
        true,
        "human or service or agent for human or service or agent, without act",
    ),
    // as old as it may be, to the second
    ("max_age = \"15m\"", "", "", true, "15m old"),
];

#[tokio::test]
async fn what_hides_well_is_told() {
    let world = super::world().await;
    let desk = Desk { world: &world };
    let mut seen = 0;
    for (with, both, added, is_new, word) in EDITS {
        let calls = if with.contains("calls") { CALLS } else { "" };
        let allow = format!("{ALLOW}{with}\n");
        let before = if *is_new { "" } else { &allow };
        let diff = desk.compare(
            &format!("{BASE}{calls}{before}{both}"),
            &format!("{BASE}{calls}{allow}{both}\n{added}"),
        );
        let told = |one: &Difference| {
            format!(
                "{:?} {:?} {:?} {:?} {:?}",
                one.path, one.service, one.caller, one.actor, one.circumstances
            )
        };
        let found: Vec<_> = diff.differences.iter().map(told).collect();
        assert!(found.iter().any(|told| told.contains(word)), "{with} {both} {added}: {found:#?}");
        let change = if *is_new { "newly allowed" } else { "newly denied" };
        assert!(
            diff.differences.iter().all(|one| one.change == change && one.witness.confirmed),
            "{:#?}",
            diff.differences
        );
        seen += 1;
    }
    assert_eq!(seen, 14);
}
