//! `countersign who-can` and `matrix`: what they show is so, names stay names, and the documentation is true.
//! That nobody is left out is shown beside the code (`src/access/tests.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::examples::{beside, countersign};

const SAMPLE: &str = include_str!("../../config/sidecar.toml");
const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
const AT: &str = "2027-01-15T12:00:00Z";
/// More kinds of rules, services and roles than the sample has.
const MORE: &str = r#"
[service.warehouse]
spiffe_id = "spiffe://shop.example/ns/prod/sa/warehouse/**"
client_id = "any"
[service.probe]
dns_name = "*.probe.shop.example"
trust_domain = "shop.example"
[role.picker]
any_of = [{ issuer = "corp", group = "pickers", claim = { site = "north" } }]

[route.stock]
host = ["stock.shop.example"]
path = "/**"
upstream = "orders"
[route.health]
host = ["orders.shop.example"]
path = "/healthz"
upstream = "orders"
[route.trial]
host = ["trial.shop.example"]
path = "/**"
upstream = "orders"
shadow_until = "@soon@"

[[allow]]
name = "pickers keep stock"
service = "warehouse"
role = "picker"
route = "stock"
method = ["GET", "PUT"]
[[allow]]
name = "pickers count by day"
service = ["warehouse", "storefront"]
role = ["picker", "order-reader"]
route = "stock"
method = "POST"
path = "/counts/{who}/*"
match_claim = { who = "sub" }
max_age = "10m"
peer_ip = "10.0.0.0/8"
[[allow]]
name = "gRPC too"
service = "warehouse"
role = { all = ["picker", "order-reader"] }
actor = ["human", "agent"]
on_behalf_of = "human"
route = "stock"
grpc = "shop.Stock/*"
[[allow]]
name = "anybody may ask whether we live"
service = "any"
role = "none"
route = "health"
method = "GET"
[[allow]]
name = "next year"
service = "storefront"
role = "any"
route = "health"
method = "PUT"
not_before = 2028-01-01
[[allow]]
name = "in vain"
service = "assistant"
role = "any"
actor = "agent"
route = "health"
method = "DELETE"
[[allow]]
name = "watched only"
mode = "shadow"
service = "storefront"
role = "any"
route = "health"
method = "PUT"
[[deny]]
name = "no deletions"
route = "health"
method = "DELETE"
[[deny]]
name = "not behind the fence"
route = "stock"
path = "/fence/**"
[[require]]
name = "a strong login for heads"
route = "health"
method = "HEAD"
acr = "mfa"
"#;

fn more() -> (TempDir, String) {
    let folder = beside("sidecar.toml");
    let mut text = SAMPLE.to_owned();
    for rule in [
        "people read their own orders through the storefront",
        "assistants read orders for their person",
        "people refund their own orders",
        "refunds need step-up",
        "agents never write",
    ] {
        let name = format!("\"{rule}\"\n");
        assert!(text.contains(&name));
        text = text.replace(&name, &format!("{name}route = \"orders\"\n"));
    }
    text += &MORE.replace("shadow_until = \"@soon@\"", &format!("shadow_until = {}", soon()));
    fs::write(folder.path().join("more.toml"), &text).unwrap();
    (folder, text)
}

/// A day that is near enough.
fn soon() -> String {
    let now = countersign::clock::Clock::system().now();
    now.plus(std::time::Duration::from_secs(30 * 86_400)).to_string()[..10].to_owned()
}

fn json(arguments: &[&str], folder: &TempDir) -> Value {
    let (code, answer) = countersign(&[arguments, &["--format", "json"]].concat(), folder);
    assert_eq!(code, Some(0), "{arguments:?} {answer}");
    serde_json::from_str(&answer).unwrap()
}

/// Has each of these commands explained, and sees that it is allowed.
fn confirm(commands: &BTreeSet<String>, folder: &TempDir) {
    let programs = Path::new(PROGRAM).parent().unwrap();
    for command in commands {
        let script = format!("PATH={}:$PATH; {command} --format json", programs.display());
        let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_eq!(
            answer["verdict"],
            "allow",
            "{command}\n{answer:#}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Every text under this key.
fn all_under(answer: &Value, key: &str, found: &mut BTreeSet<String>) {
    match answer {
        Value::Object(members) => members.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == key => drop(found.insert(text.clone())),
            value => all_under(value, key, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| all_under(item, key, found)),
        _ => {}
    }
}

#[test]
fn whoever_is_shown_is_let_in_when_it_is_explained() {
    let (folder, _) = more();
    let mut commands = BTreeSet::new();
    let grpc = ["-H", "content-type: application/grpc"];
    let asked: [(&str, &str, &[&str]); 6] = [
        ("GET", "https://orders.shop.example/customers/a%20b/orders/7", &[]),
        ("POST", "https://orders.shop.example/customers/alice/orders/7/refund", &[]),
        ("PUT", "https://stock.shop.example/shelf", &[]),
        ("POST", "https://stock.shop.example/counts/alice/monday", &[]),
        ("POST", "https://stock.shop.example/shop.Stock/Take", &grpc),
        ("GET", "https://orders.shop.example/healthz", &["--at", AT]),
    ];
    for (method, url, options) in asked {
        let answer = json(&[&["who-can", "-c", "more.toml", method, url], options].concat(), &folder);
        assert_eq!(answer["nobody"], false, "{answer:#}");
        all_under(&answer, "explain", &mut commands);
    }
    assert!(commands.len() >= 15, "{}", commands.len());
    confirm(&commands, &folder);
    let mut commands = BTreeSet::new();
    all_under(&json(&["matrix", "-c", "more.toml"], &folder), "explain", &mut commands);
    // each is as good as another of its rule
    let some: BTreeSet<String> = commands.iter().step_by(commands.len() / 25 + 1).cloned().collect();
    assert!(commands.len() > 40 && some.len() > 15, "{}", commands.len());
    confirm(&some, &folder);
}

#[test]
fn who_can_says_what_else_must_be_and_why_not() {
    let (folder, _) = more();
    let who_can = |method: &str, url: &str, options: &[&str]| {
        let (code, answer) =
            countersign(&[&["who-can", "-c", "more.toml", method, url], options].concat(), &folder);
        assert_eq!(code, Some(0));
        answer
    };
    let counts = "https://stock.shop.example/counts/alice/monday";
    let answer = who_can("POST", counts, &["--peer-ip", "192.0.2.1"]);
    assert!(answer.contains("\nnobody\n") && !answer.contains("countersign explain"), "{answer}");
    let answer = who_can("POST", counts, &[]);
    for said in [
        "let in by 1 allow",
        "claim sub is alice, a login at most 10m old, peer address in 10.0.0.0/8",
        "picker  by group pickers and claim site north, of corp",
        "spiffe://shop.example/ns/prod/sa/warehouse/**, tokens of any client",
        "--peer-ip 10.0.0.",
    ] {
        assert!(answer.contains(said), "{said}: {answer}");
    }
    let health = "https://orders.shop.example/healthz";
    let answer = who_can("DELETE", health, &[]);
    for said in ["\nnobody\n", "deny `no deletions` holds of all of them", "deny no deletions: anybody"] {
        assert!(answer.contains(said), "{said}: {answer}");
    }
    let answer = who_can("PUT", health, &["--at", AT]);
    for said in
        ["\nnobody\n", "the rule begins at 2028-01-01", "in shadow, without effect", "allow watched only"]
    {
        assert!(answer.contains(said), "{said}: {answer}");
    }
    let answer = who_can("PUT", health, &["--at", "2028-02-01T00:00:00Z"]);
    assert!(answer.contains("let in by 1 allow"), "{answer}");
    assert!(
        who_can("PATCH", "https://trial.shop.example/x", &[])
            .contains("everybody whom nothing below forbids, until")
    );
    assert!(who_can("GET", "https://elsewhere.example/", &[]).contains("no route takes it"));
    let answer = who_can("GET", "https://orders.shop.example/a/..%2f", &[]);
    assert!(
        answer.contains("nobody: the request is refused before anybody is judged, request_malformed"),
        "{answer}"
    );
}

#[test]
fn usage_and_configurations_have_their_exit_codes() {
    let (folder, text) = more();
    let code = |arguments: &[&str]| countersign(arguments, &folder).0;
    assert_eq!(code(&["matrix", "-c", "more.toml", "--service", "nobody-knows"]), Some(2));
    assert_eq!(code(&["matrix", "-c", "more.toml", "--role", "nobody-knows"]), Some(2));
    assert_eq!(code(&["matrix", "-c", "more.toml", "--route", "nobody-knows"]), Some(2));
    assert_eq!(code(&["who-can", "-c", "more.toml", "GET", "/no-host"]), Some(2));
    assert_eq!(code(&["who-can", "-c", "more.toml", "-H", "no colon", "GET", "https://a.example/"]), Some(2));
    fs::write(folder.path().join("broken.toml"), text.replace("\"picker\"", "\"pricker\"")).unwrap();
    assert_eq!(code(&["matrix", "-c", "broken.toml"]), Some(78));
    assert_eq!(code(&["who-can", "-c", "broken.toml", "GET", "https://a.example/"]), Some(78));
}

#[test]
fn every_cell_is_a_line_and_parts_are_parts_of_the_whole() {
    let (folder, _) = more();
    let csv = |options: &[&str]| {
        let (code, answer) =
            countersign(&[&["matrix", "-c", "more.toml", "--format", "csv"], options].concat(), &folder);
        assert_eq!(code, Some(0));
        answer.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let all = csv(&[]);
    // 5 carriers × (no token + (no role + 3 roles) × 7 actors) × 4 routes × (GET HEAD POST PUT PATCH DELETE other)
    assert_eq!(all.len(), 1 + 5 * (1 + 4 * 7) * 4 * 7);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    for said in [
        r#""probe","no token","-","health","GET","always","anybody may ask whether we live""#,
        r#""warehouse","picker","human","stock","PUT","sometimes","pickers keep stock","“pickers keep stock”; but not where deny “not behind the fence”""#,
        r#""probe","no token","-","health","HEAD","never","""#,
        r#""storefront","no role","human","health","HEAD","sometimes","anybody may ask whether we live","“anybody may ask whether we live”; where it reaches, require “a strong login for heads”""#,
        r#""warehouse","picker","agent for itself","stock","PUT","never","""#,
        r#""storefront","order-reader","human","orders","GET","sometimes","people read their own orders"#,
        r#""assistant","order-reader","agent for human","orders","GET","sometimes","assistants read orders"#,
        r#""assistant","order-reader","human","orders","GET","never","""#,
        r#""storefront","order-reader","human","orders","POST","sometimes","people refund their own orders","“people refund their own orders”: path /customers/{customer}/orders/*/refund, {customer} equal to claim sub; where it reaches, require “refunds need step-up”""#,
    ] {
        assert!(all.iter().any(|line| line.starts_with(said)), "{said}");
    }
    let part = csv(&["--service", "storefront", "--role", "order-reader", "--route", "orders"]);
    assert_eq!(part.len(), 1 + 7 * 7);
    assert!(part.iter().all(|line| all.contains(line)));
}

/// Names of rules are free text: no output takes them for anything else.
#[test]
fn hostile_names_stay_names() {
    let names = [
        r#"</title></text></svg><script>alert(1)</script>"#,
        r#"" onmouseover="alert(2)" x='"#,
        "=HYPERLINK(\"https://evil.example\")",
        "--> ]]> <!-- \u{1b}[2J\u{7}",
        "\u{202e}txet",
        "`id` $(id) | {{7*7}}",
    ];
    let folder = beside("sidecar.toml");
    let mut text = SAMPLE.to_owned();
    for (at, name) in names.iter().enumerate() {
        let name = toml::Value::from(*name).to_string();
        text += &format!(
            "\n[[allow]]\nname = {name}\nowner = {name}\nticket = {name}\nservice = \"storefront\"\nrole = \"any\"\n\
             actor = \"human\"\nmethod = \"PATCH\"\npath = \"/x{at}/**\"\n"
        );
    }
    fs::write(folder.path().join("hostile.toml"), text).unwrap();
    let run = |arguments: &[&str]| {
        let (code, answer) = countersign(arguments, &folder);
        assert_eq!(code, Some(0), "{answer}");
        answer
    };
    let html = run(&["matrix", "-c", "hostile.toml", "--format", "html"]);
    assert_eq!(html.matches("<script").count(), 1);
    assert_eq!(html.matches("</svg").count(), 1);
    assert!(html.contains("&lt;script&gt;alert(1)"), "it was shown at all");
    assert!(!html.contains(['\u{1b}', '\u{7}', '\u{202e}']) && !html.contains("\" onmouseover="));
    for what in [
        "<html lang=\"en\">",
        "default-src 'none'",
        "role=\"img\" aria-labelledby",
        "<caption>",
        "scope=\"row\"",
        "@media print",
    ] {
        assert!(html.contains(what), "{what}");
    }
    assert!(!html.contains("http://") || html.matches("http://").count() == 1, "only the name space of SVG");
    assert!(!html.contains("src=") && !html.contains("href=\"http") && !html.contains("url("));
    let csv = run(&["matrix", "-c", "hostile.toml", "--format", "csv"]);
    assert!(csv.contains("=HYPERLINK") && !csv.contains(",\"=") && !csv.contains('\u{1b}'));
    for output in [
        run(&["matrix", "-c", "hostile.toml"]),
        run(&["who-can", "-c", "hostile.toml", "PATCH", "https://orders.shop.example/x3/y"]),
    ] {
        assert!(output.contains("--> ]]>") && !output.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{output}");
    }
    let json: Value =
        serde_json::from_str(&run(&["matrix", "-c", "hostile.toml", "--format", "json"])).unwrap();
    let told = json["rules"].as_array().unwrap();
    assert_eq!(
        names.iter().filter(|name| told.iter().any(|rule| rule["rule"] == **name)).count(),
        names.len()
    );
}
