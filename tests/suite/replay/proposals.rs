//! From traffic in shadow to rules that enforce the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use countersign::config;
use countersign::replay::log;
use countersign::replay::proposal::{self, Wishes};
use countersign::replay::tally::Flip;
use serde_json::{Value, json};

use super::traffic::{Traffic, policy};
use super::{ALL, own_log, replay};
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get, post, with_token};
use crate::world::program::{Output, run};
use crate::world::proxy::Proxy;

/// All of a proposal but when it was seen.
const EXPECTED: &str = include_str!("proposed.toml");

/// Two routes; `@shadow@` is until when they let through what no rule allows.
const ROUTES: &str = r#"
[route.customers]
host = ["orders.shop.example"]
path = "/customers/**"
upstream = "orders"
@shadow@
[route.items]
host = ["orders.shop.example"]
path = "/items/**"
upstream = "orders"
@shadow@
"#;

fn shadowed(world: &World) -> String {
    let soon = world.clock.now().plus(Duration::from_secs(30 * 86_400)).to_string();
    ROUTES.replace("@shadow@", &format!("shadow_until = {}", &soon[..10]))
}

fn enforced() -> String {
    ROUTES.replace("@shadow@", "")
}

struct Clients {
    storefront: Client,
    assistant: Client,
    unnamed: Client,
}

impl Clients {
    async fn of(proxy: &Proxy<'_>) -> Clients {
        Clients {
            storefront: proxy.client(Who::Storefront, Protocol::H2).await,
            assistant: proxy.client(Who::Assistant, Protocol::H2).await,
            unnamed: proxy.client(Who::Unnamed, Protocol::H2).await,
        }
    }

    /// What the shop does on a day: all answers' statuses.
    async fn a_day(&self, proxy: &Proxy<'_>) -> Vec<u16> {
        let mut statuses = Vec::new();
        let person = |name: &str| json!({ "sub": name, "uid": "00u1" });
        for name in ["alice", "bob", "carol"] {
            for order in [7, 12] {
                let path = format!("/customers/{name}/orders/{order}");
                statuses.push(ask(proxy, &self.storefront, "GET", &path, person(name)).await);
            }
        }
        let clerk =
            json!({ "sub": "dora", "uid": "00u4", "groups": ["clerks", "staff"], "scope": "profile" });
        for item in [17, 23] {
            let path = format!("/items/{item}");
            statuses.push(ask(proxy, &self.storefront, "PUT", &path, clerk.clone()).await);
            let reader = json!({ "sub": "alice", "uid": "00u1" });
            statuses.push(ask(proxy, &self.storefront, "GET", &path, reader).await);
        }
        let agent = json!({ "sub": "alice", "uid": "00u1", "client_id": "assistant-7" });
        statuses.push(ask(proxy, &self.assistant, "GET", "/customers/alice/orders/7", agent).await);
        let robot = json!({ "sub": "stock", "client_id": "stock", "gty": "client-credentials", "scope": "items:read" });
        statuses.push(ask(proxy, &self.unnamed, "GET", "/items/list", robot).await);
        statuses
    }
}

async fn ask(proxy: &Proxy<'_>, client: &Client, method: &str, path: &str, claims: Value) -> u16 {
    let mut request = if method == "GET" { get(path) } else { post(path, "") };
    *request.method_mut() = method.parse().unwrap();
    let request = with_token(request, &proxy.world.issuer.token(claims));
    client.ask(request).await.unwrap().status.as_u16()
}

async fn countersign(arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_countersign"), arguments, "").await
}

#[tokio::test]
async fn what_was_let_through_in_shadow_is_allowed_by_the_rules_that_are_proposed() {
    let world = World::new().await;
    let claims = "[issuer.corp.claims]\ngroups = \"groups\"\n";
    let proxy = world.start(&format!("{claims}{}", shadowed(&world)));
    let clients = Clients::of(&proxy).await;
    let statuses = clients.a_day(&proxy).await;
    assert_eq!(statuses, [200; 12]);
    let records = proxy.records(12).await;
    assert!(records.iter().all(|record| record["reason"] == "unenforced"), "{records:#?}");

    // what will be enforced: the same routes without their shadow
    world.configuration(&format!("{claims}{}", enforced()));
    let configuration = world.folder.path().join("countersign.toml");
    let (log, current) = (own_log(&world), configuration.to_str().unwrap().to_owned());
    let log = log.to_str().unwrap();
    let proposed = countersign(&["propose", log, "-c", &current]).await;
    assert_eq!(proposed.code, Some(0), "{proposed:?}");
    let times =
        |line: &&str| !line.starts_with("# ") || line.starts_with("# Beyond") || line.starts_with("# Look");
    let text: Vec<_> = proposed.stdout.lines().filter(times).collect();
    assert_eq!(text.join("\n"), EXPECTED.trim());
    assert_eq!(countersign(&["propose", log, "-c", &current]).await.stdout, proposed.stdout);

    // the same day under these rules, enforced
    let rules = proposed.stdout.replace("version = 1\n", "");
    proxy.reload(&format!("{claims}{}{rules}", enforced())).unwrap();
    let clients = Clients::of(&proxy).await;
    assert_eq!(clients.a_day(&proxy).await, [200; 12]);
    let records = proxy.records(24).await;
    assert!(records[12..].iter().all(|record| record["reason"] == "allowed"), "{records:#?}");

    // and nothing that nobody did then
    let alice = || json!({ "sub": "alice", "uid": "00u1" });
    let bobs = ask(&proxy, &clients.storefront, "GET", "/customers/bob/orders/7", alice()).await;
    let writes = ask(&proxy, &clients.storefront, "PUT", "/items/17", alice()).await;
    let through_another = ask(&proxy, &clients.unnamed, "GET", "/items/17", alice()).await;
    assert_eq!([bobs, writes, through_another], [403; 3]);
}

/// Whatever comes, by whomever: what shadow let through is allowed by what is proposed, and nothing else that was asked.
#[tokio::test]
async fn all_sorts_of_requests_in_shadow_are_covered() {
    let world = World::new().await;
    let rules = policy(&world.clock);
    let names = rules.split("[[allow]]").next().unwrap().to_owned();
    let soon = shadowed(&world);
    let soon = soon.lines().find(|line| line.starts_with("shadow_until")).unwrap().to_owned();
    let routes = |shadow: &str| -> String {
        let route = |name: &str| {
            let path = if name == "calls" { "shop.Orders" } else { name };
            format!(
                "[route.{name}]\nhost = [\"orders.shop.example\"]\npath = \"/{path}/**\"\nupstream = \"orders\"\n{shadow}\n"
            )
        };
        // between these two a header chooses
        let canary = route("gold").replace("route.gold", "route.golden") + "header = { x-canary = \"1\" }\n";
        names.clone() + &["customers", "gold", "public", "calls"].map(route).concat() + &canary
    };
    let proxy = world.start(&routes(&soon));
    let mut traffic = Traffic::of(&proxy, 41).await;
    for _ in 0..300 {
        traffic.ask().await;
    }
    proxy.records(300).await;

    world.configuration(&routes("").replace(&soon, ""));
    let current = world.load();
    let mut wishes = Wishes::new(Some(&current), false);
    let files = [own_log(&world)];
    log::lines(&files, |_, line, _| wishes.add(line, &ALL)).unwrap();
    assert!(wishes.failures.is_empty(), "{:?}", wishes.failures);
    let proposal = proposal::write(&wishes.rules(), Some(&current));
    let configuration = world.folder.path().join("countersign.toml");
    let more = Some((Path::new("proposal.toml"), proposal.toml.as_str()));
    let with_it = config::load_beside(&[configuration], more, &|_| None, world.clock.now());
    let with_it = with_it.unwrap_or_else(|report| panic!("{}\n{}", report.to_text(false), proposal.toml));
    assert_eq!(wishes.still_denied(&with_it), BTreeMap::new(), "{}", proposal.toml);
    let tally = replay(&with_it, &files[0]);
    assert_eq!(tally.flipped(&Flip::ALL), tally.flipped(&[Flip::Ruled]), "{:#?}", tally.flips);
    assert_eq!(tally.flipped(&[Flip::Ruled]), wishes.requests());
    let (requests, rules) = (wishes.requests(), proposal.rules.len());
    assert!(requests > 120 && rules < 80, "{requests} requests, {rules} rules\n{}", proposal.toml);
    for wanted in [
        "grpc = ",
        "role = \"none\"",
        "service = \"none\"",
        "match_claim",
        "on_behalf_of",
        "[service.nobody]",
    ] {
        assert!(proposal.toml.contains(wanted), "{wanted}\n{}", proposal.toml);
    }
}

#[tokio::test]
async fn without_a_configuration_the_records_own_names_are_used() {
    let world = World::new().await;
    let proxy =
        world.start("[[allow]]\nname = \"all\"\nservice = \"any\"\nrole = \"any\"\nroute = \"any\"\n");
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    for path in ["/orders/7", "/orders/8", "/orders/8", "/status"] {
        assert_eq!(ask(&proxy, &client, "GET", path, json!({ "uid": "00u1" })).await, 200);
    }
    proxy.records(4).await;
    let log = own_log(&world);
    let log = log.to_str().unwrap();
    let nothing = countersign(&["propose", log]).await;
    assert_eq!((nothing.code, nothing.stdout.contains("[[allow]]")), (Some(0), false), "{nothing:?}");
    let answer = countersign(&["propose", log, "--all-allowed", "--format", "json"]).await;
    let json: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(
        (&json["requests"], &json["checked"], &json["still_denied"]),
        (&json!(4), &json!(false), &Value::Null)
    );
    let rule = &json["rules"][0];
    assert_eq!((&rule["requests"], &rule["callers"]), (&json!(4), &json!(1)));
    let toml = json["toml"].as_str().unwrap();
    assert!(toml.contains("path = [\"/orders/*\", \"/status\"]"), "{toml}");
    assert!(toml.contains("role = \"order-reader\""), "{toml}");
}
