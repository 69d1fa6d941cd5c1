//! What only odd tokens and requests show: each is asked of both configurations, which judge it differently, and
//! must have been told.

use countersign::audit::Verdict;
use countersign::cli::diff::Diff;
use countersign::clock::Timestamp;
use countersign::identity::{Hop, PeerName};
use countersign::trial::{Bearer, Claims, Presented, Question, head};
use serde_json::{Value, json};

use super::region::Flipped;
use super::{Desk, asked, permitted_by};

const HEAD: &str = r#"
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
[service.web]
spiffe_id = "spiffe://shop.example/web"
client_id = "any"
[upstream.orders]
server = ["http://127.0.0.1:8080"]
[route.orders]
host = ["orders.example"]
path = "/**"
upstream = "orders"
"#;

const ALLOW: &str = "[[allow]]\nname = \"a\"\nservice = \"any\"\nissuer = \"odd\"\n";

const GOOGLE: &str = "url = \"https://accounts.google.com\"\npreset = \"google\"\nonly = { sub = \"*\" }\n";
const ENTRA: &str = "url = \"https://login.microsoftonline.com/{tid}/v2.0\"\npreset = \"entra\"\nonly = { tid = [\"t1\", \"t2\"] }\n";

/// A change, and a request that it makes a difference to.
struct Odd {
    what: &'static str,
    /// Of `[issuer.odd]`; a URL and an audience unless it has its own.
    issuer: &'static str,
    /// In both.
    both: &'static str,
    old: &'static str,
    new: &'static str,
    path: &'static str,
    method: &'static str,
    claims: Value,
    at: i64,
    peer: &'static str,
    hop: Hop,
    client_ip: &'static str,
}

impl Odd {
    fn new(what: &'static str, issuer: &'static str, new: &'static str, claims: Value) -> Odd {
        Odd {
            what,
            issuer,
            both: "",
            old: "",
            new,
            path: "/x",
            method: "GET",
            claims,
            at: asked::TIMES[0],
            peer: "spiffe://shop.example/web",
            hop: Hop::Direct,
            client_ip: "192.0.2.1",
        }
    }

    fn text(&self, rules: &str) -> String {
        let url = if self.issuer.contains("url =") { "" } else { "url = \"https://odd.example\"\n" };
        // roles can stand before issuers, and rules name both
        let Odd { issuer, both, .. } = self;
        let text = format!("{HEAD}[issuer.odd]\naudience = \"us\"\n{url}{issuer}\n{both}\n{rules}");
        text.replace("ALLOW\n", ALLOW)
    }

    fn question(&self) -> Question {
        let peer = PeerName::Spiffe(self.peer.parse().unwrap());
        let mut claims = self.claims.as_object().unwrap().clone();
        let without: Vec<String> =
            claims.iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name.clone()).collect();
        claims.retain(|_, value| !value.is_null());
        let caller = Bearer::Claims(Claims { issuer: "odd".parse().unwrap(), claims, without, bound: None });
        let url = format!("https://orders.example{}", self.path);
        Question {
            peer: Presented::Named(peer),
            caller,
            hop: self.hop.clone(),
            peer_ip: Some("10.0.0.1".parse().unwrap()),
            client_ip: Some(self.client_ip.parse().unwrap()),
            at: Some(Timestamp::from_unix_seconds(self.at)),
            ..Question::new(head(self.method, &url, []).unwrap())
        }
    }

    /// Whether what is asked was told, where it is judged differently.
    fn was_told(&self, desk: &Desk<'_>, diff: &Diff) -> bool {
        let mut trials = [desk.trial(&self.text(self.old)), desk.trial(&self.text(self.new))];
        let answers = trials.each_mut().map(|trial| trial.ask(&self.question()).unwrap());
        let [old, new] = &answers;
        let change = match (old.verdict(), new.verdict()) {
            (Verdict::Deny, Verdict::Allow) => "newly allowed",
            (Verdict::Allow, Verdict::Deny) => "newly denied",
            _ => panic!("{}: {:?} and {:?}", self.what, old.reason(), new.reason()),
        };
        let permitting = if change == "newly denied" { old } else { new };
        let policies = [trials[0].policy(), trials[1].policy()];
        let cases = [old, new].map(|answer| answer.case().unwrap());
        let flipped = Flipped { policies, cases, change, by: permitted_by(permitting).unwrap() };
        diff.differences.iter().any(|told| flipped.outside(told).is_none())
    }
}

fn odds() -> Vec<Odd> {
    let roles = r#"[role.staff]
any_of = [{ issuer = "odd", group = "staff" }]
[role.boss]
any_of = [{ issuer = "odd", role = "boss" }]
[role.reader]
any_of = [{ issuer = "odd", scope = "read" }]
"#;
    let within = "[issuer.odd.claims]\ngroups = \"groups\"\nroles = [\"groups\", \"team\"]";
    let later = asked::TIMES[1];
    vec![
        Odd {
            both: roles,
            ..Odd::new(
                "names of an object, and what stands in it",
                within,
                "ALLOW\nrole = { all = [\"staff\", \"boss\"] }",
                json!({ "groups": { "staff": {}, "team": ["boss"] } }),
            )
        },
        Odd::new(
            "what is required, beside what is asked for",
            "requires = [\"realm\"]\n[issuer.odd.claims]\nroles = [\"realm\", \"roles\"]",
            "ALLOW\nrole = \"any\"\npath = \"/{c}\"\nmatch_claim = { c = [\"realm\", \"tier\"] }",
            json!({ "realm": { "roles": [], "tier": "x" } }),
        ),
        Odd {
            both: roles,
            ..Odd::new(
                "names of an object are no values",
                "requires = [\"groups\"]",
                "ALLOW\nrole = \"staff\"\n[[deny]]\nname = \"d\"\nissuer = \"odd\"\nclaim = { groups = \"staff\" }",
                json!({ "groups": { "staff": 1 } }),
            )
        },
        Odd {
            both: roles,
            ..Odd::new(
                "a text of several scopes is none of them",
                "requires = [\"scope\"]",
                "ALLOW\nrole = \"reader\"\n[[deny]]\nname = \"d\"\nissuer = \"odd\"\nclaim = { scope = \"read\" }",
                json!({ "scope": "write read" }),
            )
        },
        Odd::new(
            "an audience that is a number",
            "",
            "ALLOW\nrole = \"any\"\nclaim = { aud = 7 }",
            json!({ "aud": ["us", "7"] }),
        ),
        Odd::new(
            "another of its URLs",
            GOOGLE,
            "ALLOW\nrole = \"any\"\nclaim = { iss = \"accounts.google.com\" }",
            json!({ "iss": "accounts.google.com", "sub": "a" }),
        ),
        Odd::new(
            "not the first of its URLs",
            GOOGLE,
            "ALLOW\nrole = \"any\"\n[[require]]\nname = \"r\"\npath = \"/**\"\nissuer = \"odd\"\nclaim = { iss = \"acc*\" }",
            json!({ "iss": "accounts.google.com", "sub": "a" }),
        ),
        Odd::new(
            "one tenant's URL",
            ENTRA,
            "ALLOW\nrole = \"any\"\nclaim = { iss = \"https://login.microsoftonline.com/t2/v2.0\" }",
            json!({ "iss": "https://login.microsoftonline.com/t2/v2.0", "tid": "t2", "azp": "a" }),
        ),
        Odd::new(
            "tenants in a list",
            "url = [\"https://login.microsoftonline.com/{tid}/v2.0\", \"https://sts.windows.net/t1/\"]\npreset = \"entra\"\nonly = { tid = [\"t1\", \"t2\"] }",
            "ALLOW\nrole = \"any\"\nclaim = { tid = \"t3\" }",
            json!({ "iss": "https://sts.windows.net/t1/", "tid": ["t1", "t3"], "azp": "a" }),
        ),
        Odd::new(
            "a time that is not now",
            "requires = [\"exp\"]",
            "ALLOW\nrole = \"any\"\n[[deny]]\nname = \"d\"\nissuer = \"odd\"\nclaim = { exp = \"1*\" }",
            json!({ "exp": 2_000_000_000 }),
        ),
        Odd::new(
            "one time",
            "",
            "ALLOW\nrole = \"any\"\nclaim = { exp = 1900000000 }",
            json!({ "exp": 1_900_000_000 }),
        ),
        Odd {
            old: "ALLOW\nrole = \"any\"",
            ..Odd::new(
                "no time at all",
                "",
                "ALLOW\nrole = \"any\"\n[[require]]\nname = \"r\"\npath = \"/**\"\nissuer = \"odd\"\nclaim = { iat = \"*\" }",
                json!({ "iat": null }),
            )
        },
        Odd {
            at: later,
            ..Odd::new(
                "a time to come",
                "",
                "ALLOW\nrole = \"any\"\nclaim = { iat = 1802000000 }",
                json!({ "iat": 1_802_000_000 }),
            )
        },
        Odd::new(
            "a time as a text",
            "",
            "ALLOW\nrole = \"any\"\nclaim = { nbf = \"17*\" }",
            json!({ "nbf": 1_700_000_000 }),
        ),
        Odd {
            at: later,
            old: "ALLOW\nrole = \"any\"\nclaim = { auth_time = 1799999000 }\nmax_age = \"2h\"",
            ..Odd::new(
                "a login that has grown old",
                "",
                "ALLOW\nrole = \"any\"\nclaim = { auth_time = 1799999000 }",
                json!({ "auth_time": 1_799_999_000 }),
            )
        },
        Odd::new(
            "a list is not the same as a text",
            "url = \"https://accounts.google.com\"\npreset = \"google\"\nonly = { sub = \"*\" }\n[issuer.odd.claims]\nclient = \"cid\"",
            "ALLOW\nrole = \"any\"\nactor = \"unknown\"\nclaim = { azp = \"m\", sub = \"m\" }",
            json!({ "sub": "m", "azp": ["m"] }),
        ),
        Odd {
            old: "ALLOW\nrole = \"any\"",
            ..Odd::new(
                "a client in place of an audience",
                "preset = \"cognito\"",
                "ALLOW\nrole = \"any\"\n[[require]]\nname = \"r\"\npath = \"/**\"\nissuer = \"odd\"\nclaim = { aud = \"us\" }",
                json!({ "client_id": "us", "token_use": "access" }),
            )
        },
        Odd::new(
            "clients in a list",
            "preset = \"cognito\"\n[issuer.odd.claims]\nclient = \"cid\"",
            "ALLOW\nrole = \"any\"\n[[require]]\nname = \"r\"\npath = \"/**\"\nissuer = \"odd\"\nclaim = { client_id = \"b\" }\n[[require]]\nname = \"s\"\npath = \"/**\"\nissuer = \"odd\"\nclaim = { client_id = \"c\" }",
            json!({ "aud": "us", "client_id": ["b", "c"], "token_use": "access" }),
        ),
        Odd::new(
            "who issued the token of who acts",
            "",
            "ALLOW\nrole = \"any\"\nactor = \"unknown\"\non_behalf_of = \"unknown\"\npath = \"/{c}\"\nmatch_claim = { c = [\"act\", \"iss\"] }",
            json!({ "act": { "sub": "b", "iss": "x" } }),
        ),
        Odd {
            both: roles,
            ..Odd::new(
                "starts of texts that end in letters",
                "",
                "ALLOW\nrole = \"any\"\nclaim = { tier = [\"o*\", \"s*\", \"a*\", \"f*\", \"x*\", \"q*\", \"z*\"] }",
                json!({ "tier": "sold" }),
            )
        },
        Odd {
            method: "BREW",
            ..Odd::new(
                "a method when rules name many",
                "",
                "ALLOW\nrole = \"any\"\n[[deny]]\nname = \"d\"\nmethod = [\"GET\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\", \"OPTIONS\", \"REPORT\", \"SEARCH\", \"LINK\", \"UNLINK\", \"MERGE\", \"LOCK\"]",
                json!({}),
            )
        },
        Odd {
            both: "[trusted_hop.edge]\nkind = \"proxy\"\naddress = \"10.0.0.0/8\"",
            client_ip: "203.0.113.9",
            ..Odd::new(
                "a client that is not at the other end",
                "",
                "ALLOW\nrole = \"any\"\npeer_ip = \"10.0.0.0/8\"\nclient_ip = \"203.0.113.0/24\"",
                json!({}),
            )
        },
        Odd {
            both: "[trusted_hop.edge]\nkind = \"rfc9440\"\naddress = \"10.0.0.0/8\"",
            hop: Hop::Trusted("edge".parse().unwrap()),
            ..Odd::new(
                "a hop that no rule names",
                "",
                "ALLOW\nrole = \"any\"\n[[deny]]\nname = \"d\"\nhop = [\"direct\", \"local\"]",
                json!({}),
            )
        },
        Odd {
            both: "[trusted_hop.edge]\nkind = \"rfc9440\"\naddress = \"10.0.0.0/8\"\n[route.trial]\nhost = [\"orders.example\"]\npath = \"/trial/**\"\nupstream = \"orders\"\nshadow_until = 2027-02-01\n[[deny]]\nname = \"l\"\nroute = \"any\"\npath = \"/elsewhere\"\nhop = \"direct\"",
            path: "/trial/x",
            hop: Hop::Trusted("edge".parse().unwrap()),
            ..Odd::new(
                "a certificate that is named, through a hop, where no rule asks for one",
                "",
                "[[deny]]\nname = \"d\"\nroute = \"trial\"",
                json!({}),
            )
        },
        Odd {
            both: "[trusted_hop.edge]\nkind = \"rfc9440\"\naddress = \"10.0.0.0/8\"\n[[deny]]\nname = \"l\"\nroute = \"any\"\npath = \"/elsewhere\"\nhop = \"direct\"\n[[require]]\nname = \"r\"\nroute = \"any\"\npath = \"/**\"\nissuer = \"odd\"",
            path: "/trial/x",
            hop: Hop::Trusted("edge".parse().unwrap()),
            peer: "spiffe://shop.example/else",
            old: "[[allow]]\nname = \"a\"\nservice = \"none\"\nrole = \"none\"",
            ..Odd::new(
                "a certificate that no service names, through a hop, and what is required all the same",
                "",
                "[[allow]]\nname = \"a\"\nservice = \"none\"\nrole = \"none\"\nroute = \"any\"\n[route.trial]\nhost = [\"orders.example\"]\npath = \"/trial/**\"\nupstream = \"orders\"\nshadow_until = 2027-02-01",
                json!({}),
            )
        },
    ]
}

#[tokio::test]
async fn what_odd_tokens_show_is_told() {
    let world = super::world().await;
    let desk = Desk { world: &world };
    let only = std::env::var("ODD").unwrap_or_default();
    let mut failed = Vec::new();
    let odds = odds();
    for odd in odds.iter().filter(|odd| odd.what.contains(&only)) {
        let diff = desk.compare(&odd.text(odd.old), &odd.text(odd.new));
        if !odd.was_told(&desk, &diff) || !diff.open.is_empty() {
            failed.push(format!("{}: {:?} {:#?}", odd.what, diff.open, diff.differences));
        }
        if !diff.differences.iter().all(|told| told.witness.confirmed) {
            failed.push(format!("{}: not confirmed: {:#?}", odd.what, diff.differences));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(odds.len(), 25);
}

/// What cannot be followed is no difference that was not there.
#[tokio::test]
async fn what_cannot_be_followed_may_widen() {
    let world = super::world().await;
    let desk = Desk { world: &world };
    let starts = |letters: std::ops::RangeInclusive<char>| letters.map(|letter| format!("\"{letter}*\""));
    let digits = ('0'..='9').map(|digit| format!("\"t{digit}*\""));
    let tier = starts('a'..='z').chain(digits).collect::<Vec<_>>().join(", ");
    let any_tier = format!("ALLOW\nrole = \"any\"\nclaim = {{ tier = [{tier}] }}");
    let times = starts('1'..='9').collect::<Vec<_>>().join(", ");
    let deny = "[[deny]]\nname = \"d\"\nissuer = \"odd\"\n";
    let any_time = format!("ALLOW\nrole = \"any\"\n{deny}claim = {{ exp = [{times}] }}");
    let label = "a".repeat(60);
    let parent = [&*label; 4].join(".") + ".example";
    let long = format!("[route.long]\nhost = [\"*.{parent}\"]\npath = \"/**\"\nupstream = \"orders\"");
    let reader = "[role.reader]\nany_of = [{ issuer = \"odd\", scope = \"read\" }]";
    let tenants =
        "url = \"https://login.microsoftonline.com/{tid}/v2.0\"\npreset = \"entra\"\nonly = { tid = \"t*\" }";
    let cases = [
        ("", "", &*any_tier, "no_fresh_word"),
        ("requires = [\"exp\"]", "", &any_time, "no_fresh_time"),
        ("", &long, "ALLOW\nrole = \"any\"\nroute = \"any\"", "name"),
        (
            tenants,
            "",
            "ALLOW\nrole = \"any\"\nclaim = { iss = \"https://login.microsoftonline.com/t1*\" }",
            "tenant",
        ),
        ("", reader, "ALLOW\nrole = \"reader\"\nclaim = { scope = \"read write\" }", "words"),
        ("", "", "ALLOW\nrole = \"any\"\nclaim = { hasgroups = true }", "token"),
    ];
    for (issuer, both, new, why) in cases {
        let odd = Odd::new(why, issuer, "", json!({}));
        let text = |rules: &str| odd.text(&format!("{both}\n{rules}"));
        let diff = desk.compare(&text(""), &text(new));
        let told: Vec<_> = diff.open.iter().map(|open| open.why).collect();
        assert!(told.contains(&why), "{why}: {told:?} {:#?}", diff.differences);
        assert!(diff.widens && diff.open[0].count > 0);
    }
    assert_eq!(cases.len(), 6);
}
