//! What of the rules the cases have shown.

use std::fs;

use super::{json, sample, test};
use crate::examples::shipped;

#[test]
fn what_no_case_shows_is_named() {
    let folder = sample();
    let few = "[[test]]\nname = \"own\"\nservice = \"storefront\"\n\
               caller = { issuer = \"corp\", sub = \"alice\", uid = \"1\", cid = \"storefront-web\", scp = [\"orders:read\"] }\n\
               request = [\"GET https://orders.shop.example/customers/alice/orders/7\", \"GET https://orders.shop.example/customers/bob/orders/7\"]\n\
               expect = { near_miss = \"none\" }\n";
    fs::write(folder.path().join("few.test.toml"), few.replace("near_miss = \"none\"", "route = \"orders\""))
        .unwrap();
    assert_eq!(test(&folder, &["few.test.toml"]).0, Some(0));
    let (code, answer, _) = test(&folder, &["few.test.toml", "--require-coverage"]);
    assert_eq!(code, Some(1));
    let own = "NOT COVERED  allow \"people read their own orders through the storefront\": \
               no case fails by this alone: service, role, actor, method, path";
    let never = "NOT COVERED  deny \"agents never write\": no case fulfils it; no case fails by this alone: actor, method";
    assert!(answer.contains(own) && answer.contains(never), "{answer}");
    assert!(
        answer.contains("1 of 5 rules seen to hold, 1 of 24 conditions seen to refuse by themselves"),
        "{answer}"
    );
    // JUnit has a place for it too.
    let (_, answer, _) = test(&folder, &["few.test.toml", "--require-coverage", "--format", "junit"]);
    assert!(answer.contains("<failure message=\"not covered\">NOT COVERED  deny"), "{answer}");
}

/// Beside the sample's own: a rule in shadow that has its time, on a second route, for whoever is named.
const SALE: &str = r#"
[route.sale]
host     = "sale.shop.example"
upstream = "orders"

[[allow]]
name       = "the sale"
mode       = "shadow"
route      = "sale"
service    = "any"
role       = "any"
path       = "/sale/**"
not_before = 2027-01-01
expires    = 2027-01-31

[[allow]]
name    = "some come first"
route   = "sale"
service = "storefront"
role    = "order-reader"
path    = "/first/**"
"#;

const SALE_TESTS: &str = r#"
[caller.alice]
issuer = "corp"
sub    = "alice"
cid    = "storefront-web"

[[test]]
name    = "the sale is in January"
service = "storefront"
caller  = "alice"
request = "GET https://sale.shop.example/sale/1"
at      = 2027-01-15
expect  = { verdict = "deny" }
[[test.case]]
expect  = { would_allow = "the sale", would_deny = "none", route = "sale" }
[[test.case]]
at      = 2026-12-31
expect  = { would_allow = "none" }
[[test.case]]
at      = 2027-02-01T00:00:00Z
expect  = { would_allow = "none" }
[[test.case]]
request = "GET https://sale.shop.example/other"
expect  = { would_allow = "none" }
[[test.case]]
name    = "the last of all moments"
at      = "2027-01-31T23:59:59Z"
expect  = { would_allow = "the sale" }
"#;

#[test]
fn times_and_rules_in_shadow_are_covered_too_and_an_absent_signature_counts_for_any_alone() {
    let folder = sample();
    let rules = shipped("sidecar.toml").replace("[[allow]]\n", "[[allow]]\nroute = \"orders\"\n");
    let rules = rules
        .replace("[[require]] ", "[[require]]\nroute = \"orders\" ")
        .replace("[[deny]] ", "[[deny]]\nroute = \"any\" ");
    fs::write(folder.path().join("sidecar.toml"), format!("{rules}{SALE}")).unwrap();
    let covered = |more: &str| {
        fs::write(folder.path().join("sale.test.toml"), format!("{SALE_TESTS}{more}")).unwrap();
        let (code, answer) = json(&folder, &["sale.test.toml"]);
        assert_eq!(code, Some(0), "{answer:#}");
        let rules = answer["coverage"]["rules"].as_array().unwrap().clone();
        let sale = rules.into_iter().find(|rule| rule["rule"] == "the sale").unwrap();
        let conditions = sale["conditions"].as_array().unwrap();
        let missing =
            conditions.iter().filter(|it| it["failed_alone"] == false).map(|it| it["key"].to_string());
        (sale["held"] == true, conditions.len(), missing.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(covered(""), (true, 6, r#""service" "role" "route""#.to_owned()));
    let nobody = "[[test]]\nname = \"nobody\"\nservice = \"storefront\"\nrequest = \"GET https://sale.shop.example/sale/1\"\n\
                  at = 2027-01-15\nexpect = { would_allow = \"none\" }\n";
    let unknown = "[[test]]\nname = \"unknown\"\nspiffe_id = \"spiffe://shop.example/x\"\ncaller = \"alice\"\n\
                   request = \"GET https://sale.shop.example/sale/1\"\nat = 2027-01-15\nexpect = { reason = \"peer_unknown\" }\n";
    let elsewhere = "[[test]]\nname = \"elsewhere\"\nservice = \"storefront\"\ncaller = \"alice\"\n\
                     request = \"GET https://orders.shop.example/sale/1\"\nat = 2027-01-15\nexpect = { route = \"orders\" }\n";
    assert_eq!(covered(nobody), (true, 6, r#""service" "route""#.to_owned()));
    assert_eq!(covered(&format!("{nobody}{unknown}")), (true, 6, r#""route""#.to_owned()));
    assert_eq!(covered(&format!("{nobody}{unknown}{elsewhere}")), (true, 6, String::new()));
    // That nobody without a token comes first does not show that it takes a role.
    let first = |caller: &str| {
        let test = format!(
            "[[test]]\nname = \"first\"\nservice = \"storefront\"\n{caller}\n\
                            request = \"GET https://sale.shop.example/first/1\"\nexpect = {{ verdict = \"deny\" }}\n"
        );
        fs::write(folder.path().join("sale.test.toml"), format!("{SALE_TESTS}{test}")).unwrap();
        let (_, answer) = json(&folder, &["sale.test.toml"]);
        let rules = answer["coverage"]["rules"].as_array().unwrap();
        let first = rules.iter().find(|rule| rule["rule"] == "some come first").unwrap();
        let role = first["conditions"].as_array().unwrap().iter().find(|it| it["key"] == "role").unwrap();
        role["failed_alone"] == true
    };
    assert!(!first(""));
    assert!(first("caller = \"alice\""));
}
