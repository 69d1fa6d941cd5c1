//! What a record does not tell is said and counted, and never guessed; what does not matter is not asked for.

use std::fs;
use std::path::{Path, PathBuf};

use countersign::config::{self, Config};
use countersign::replay::log::lines;
use countersign::replay::tally::Tally;
use countersign::replay::{Replay, Why};
use http::Request;
use serde_json::{Value, json};

use super::{ALL, failed, own_log, replay};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get, with_token};
use crate::world::proxy::Proxy;
use crate::world::{Body, World};

const NAMES: &str = "[issuer.corp.claims]\ngroups = \"groups\"\n";
const ALLOW: &str =
    "[[allow]]\nname = \"read\"\nservice = \"storefront\"\nrole = \"order-reader\"\nmethod = \"GET\"\n";

fn asked(proxy: &Proxy<'_>, path: &str, claims: Value) -> Request<Body> {
    with_token(get(path), &proxy.world.issuer.token(claims))
}

/// A log of one request with these claims under the plain policy.
async fn one_request(world: &World, path: &str, claims: Value) -> PathBuf {
    let proxy = world.start(&format!("{NAMES}{ALLOW}"));
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    client.ask(asked(&proxy, path, claims)).await.unwrap();
    proxy.records(1).await;
    own_log(world)
}

/// The same log under the plain policy and `more`.
fn under(world: &World, log: &Path, more: &str) -> Tally {
    world.configuration(&format!("{NAMES}{ALLOW}{more}"));
    replay(&world.load(), log)
}

fn whys(tally: &Tally) -> Vec<Why> {
    failed(tally).into_iter().map(|(why, _)| why.clone()).collect()
}

#[tokio::test]
async fn a_claim_that_was_not_recorded_matters_only_where_it_decides() {
    let world = World::new().await;
    let log = one_request(&world, "/orders/7", json!({ "dept": "sales" })).await;
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("sales"), "{text}");
    let asks = |service: &str, scope: &str| {
        format!(
            "[[allow]]\nname = \"more\"\nservice = \"{service}\"\nrole = \"any\"\nissuer = \"corp\"\n\
             claim = {{ dept = \"sales\" }}\nmethod = \"{scope}\"\n"
        )
    };
    let read = |more: &str| {
        world.configuration(&format!("{NAMES}{more}"));
        replay(&world.load(), &log)
    };
    // the one rule that could allow it reads the claim
    assert_eq!(whys(&read(&asks("storefront", "GET"))), [Why::Claim("dept".to_owned())]);
    // for another service, another method, or beside a rule that allows it anyway, it does not matter
    for more in [asks("assistant", "GET"), asks("storefront", "PUT"), asks("storefront", "GET") + ALLOW] {
        let tally = read(&more);
        assert_eq!(whys(&tally), []);
        assert_eq!(tally.requests, 1);
    }
    // what the token's subject and client are is known, whatever claim that is
    for (claim, value, alike) in [("sub", "alice", 1), ("sub", "bob", 0), ("client_id", "storefront-web", 1)]
    {
        let more = asks("storefront", "GET").replace("dept = \"sales\"", &format!("{claim} = \"{value}\""));
        let tally = read(&more);
        assert_eq!((whys(&tally), tally.alike.len()), (vec![], alike), "{claim} {value}");
    }
}

#[tokio::test]
async fn a_list_that_was_cut_is_not_taken_for_whole() {
    let world = World::new().await;
    let groups: Vec<String> = (0..70).map(|number| format!("g{number}")).collect();
    let log = one_request(&world, "/orders/7", json!({ "groups": groups })).await;
    let of_group = |group: &str| {
        let role = format!("[role.special]\nany_of = [{{ issuer = \"corp\", group = \"{group}\" }}]\n");
        world.configuration(&format!("{NAMES}{}{role}", ALLOW.replace("order-reader", "special")));
        replay(&world.load(), &log)
    };
    assert_eq!(whys(&of_group("g3")), []);
    assert_eq!(of_group("g3").flips.len(), 0);
    for group in ["g69", "g70"] {
        assert_eq!(whys(&of_group(group)), [Why::Cut("the list of groups")], "{group}");
    }
    // nobody asks for groups
    assert_eq!(whys(&under(&world, &log, "")), []);
}

#[tokio::test]
async fn a_path_that_was_cut_is_not_judged() {
    let world = World::new().await;
    let log = one_request(&world, &format!("/{}", "a".repeat(3000)), json!({})).await;
    assert_eq!(whys(&under(&world, &log, "")), [Why::Cut("the path")]);
}

#[tokio::test]
async fn who_is_not_configured_any_more_is_not_judged() {
    let world = World::new().await;
    let log = one_request(&world, "/orders/7", json!({})).await;
    world.configuration(&format!("{NAMES}{ALLOW}"));
    let text = fs::read_to_string(world.folder.path().join("countersign.toml")).unwrap();
    let other = |from: &str, to: &str| -> Config {
        assert!(text.contains(from));
        let path = world.write("other.toml", &text.replace(from, to));
        config::load(&[path], &|_| None, world.clock.now())
            .unwrap_or_else(|report| panic!("{}", report.to_text(false)))
    };
    let renamed = other("corp", "partner");
    assert_eq!(whys(&replay(&renamed, &log)), [Why::Issuer("corp".to_owned())]);
    // the CA of the shop vouches for another domain now
    let moved = other("shop.example", "else.example");
    let tally = replay(&moved, &log);
    assert_eq!(whys(&tally), [Why::TrustDomain("shop.example".to_owned())]);
    // people are told by another claim now, if the old configuration is at hand to see it
    let (now, then) = (other("{ uid = \"*\" }", "{ upn = \"*\" }"), world.load());
    assert_eq!(whys(&replay(&now, &log)), []);
    let (files, mut tally) = ([log], Tally::default());
    let mut judge = Replay::new(&now).after(&then);
    lines(&files, |place, line, _| tally.add(&mut judge, place, line, &ALL)).unwrap();
    assert_eq!(whys(&tally), [Why::Mapping("corp".to_owned())]);
}

#[tokio::test]
async fn what_is_no_record_of_a_decision_is_counted_with_its_first_line() {
    let world = World::new().await;
    let log = one_request(&world, "/orders/7", json!({})).await;
    let text = fs::read_to_string(&log).unwrap();
    let record = text.lines().find(|line| line.contains(r#""event":"request""#)).unwrap();
    let without = |field: &str| {
        let mut record: Value = serde_json::from_str(record).unwrap();
        let (place, name) = field.rsplit_once('/').unwrap();
        record.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        record.to_string()
    };
    let lines = [
        record.to_owned(),
        "not JSON".to_owned(),
        String::new(),
        r#"{"event":"request""#.to_owned(),
        r#"{"event":"stopped","peer":7}"#.to_owned(),
        r#"{"event":"request","time":7}"#.to_owned(),
        without("/action/grpc"),
        without("/caller/claims"),
        without("/caller/redacted"),
        without("/connection"),
        record.replace("\"ok\"", "\"absent\""),
        record.replace("/orders/7", "/a/../b"),
        record.replace("\"direct\"", "\"a hop\""),
        format!("{record}\r"),
        "x".repeat(5 << 20),
        record.to_owned(),
    ];
    let log = world.write("broken.jsonl", &lines.join("\n"));
    let bytes = [fs::read(&log).unwrap(), b"\n\xff\xfe{\n".to_vec()].concat();
    fs::write(&log, bytes).unwrap();
    let tally = under(&world, &log, "");
    assert_eq!(tally.alike.values().sum::<u64>(), 3);
    let told: Vec<(String, u64, u64)> = tally
        .failures
        .iter()
        .map(|(why, failed)| {
            let line = failed.first.rsplit_once(':').unwrap().1.parse().unwrap();
            (format!("{}: {why}", why.code()), failed.lines, line)
        })
        .collect();
    let shown: Vec<_> = told.iter().map(|(why, lines, first)| format!("{lines} at {first} {why}")).collect();
    assert_eq!(shown.join("\n"), EXPECTED.trim());
}

const EXPECTED: &str = "
3 at 2 not_json: not a line of JSON
1 at 15 too_long: longer than any record
1 at 5 other_event: a record of another event: stopped
1 at 6 other_form: not a record as this version writes them: a field of another type
1 at 7 other_form: not a record as this version writes them: action.grpc
1 at 12 other_form: not a record as this version writes them: action.path
1 at 8 other_form: not a record as this version writes them: caller.claims
1 at 9 other_form: not a record as this version writes them: caller.redacted
1 at 10 other_form: not a record as this version writes them: connection
1 at 11 other_form: not a record as this version writes them: peer
1 at 13 other_form: not a record as this version writes them: peer.hop
";

#[tokio::test]
async fn what_is_redacted_stands_nowhere_in_the_log() {
    let world = World::new().await;
    let policy = format!(
        "redact = [\"sub\", \"client_id\", \"groups\", \"mail\", \"acr\"]\n{NAMES}{}",
        r#"
[role.few]
any_of = [
  { issuer = "corp", subject = "root", client = "console", group = "admins" },
  { issuer = "corp", claim = { mail = "root@shop.example" } },
]
[[allow]]
name = "few"
service = "storefront"
role = "few"
path = "/few"
[[allow]]
name = "own"
service = "storefront"
role = "order-reader"
path = "/own/{who}"
match_claim = { who = "mail" }
[[allow]]
name = "strong"
service = "storefront"
role = "order-reader"
acr = "strong"
path = "/strong"
"#
    );
    let proxy = world.start(&policy);
    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let claims = json!({
        "sub": "canary-sub", "client_id": "storefront-web", "groups": ["canary-group"],
        "mail": ["canary-mail", 4711], "acr": "canary-acr",
    });
    for (path, reason) in
        [("/few", "role_missing"), ("/own/else", "claim_mismatch"), ("/strong", "step_up_required")]
    {
        let answer = client.ask(asked(&proxy, path, claims.clone())).await.unwrap();
        assert_eq!(proxy.record_of(&answer).await["reason"], reason);
    }
    // refused before anything was decided
    let bare = proxy.client(Who::Unnamed, Protocol::H2).await;
    bare.ask(asked(&proxy, "/few", claims)).await.unwrap();
    let records = proxy.records(4).await;
    for record in &records {
        let text = record.to_string();
        assert!(
            !text.contains("canary") && !text.contains("4711") && !text.contains("storefront-web"),
            "{text}"
        );
        assert_eq!(record["caller"]["redacted"], json!(["sub", "client_id", "groups", "acr", "mail"]));
    }
    let tally = replay(&world.load(), &own_log(&world));
    assert_eq!((whys(&tally), tally.flips.len(), tally.requests), (vec![], 0, 4));
}
