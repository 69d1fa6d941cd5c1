//! The same requests as tests of the policy, each expecting what happened.

use countersign::trial::{Bound, Claims};
use serde_json::{Value, json};

use super::Outcome;
use super::sent::Sent;
use crate::world::World;
use crate::world::program::{Output, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

/// A file of tests for `countersign test`.
#[derive(Default)]
pub struct Cases {
    tests: Vec<Value>,
}

impl Cases {
    /// `claims` is all that the token says; `None` is no token.
    pub fn add(&mut self, sent: &Sent<'_>, claims: Option<Claims>, happened: &Outcome) {
        let (reason, also, rule, status) = happened;
        let mut expect = json!({ "reason": reason, "rule": rule.as_str().unwrap_or("none") });
        expect["verdict"] = if reason == "allowed" { "allow" } else { "deny" }.into();
        if !also.is_empty() {
            expect["also"] = json!(also);
        }
        if let Some(status) = status {
            expect["status"] = json!(status);
        }
        let asked = sent.asked;
        let mut test = json!({
            "name": format!("request {}", self.tests.len()),
            "at": asked.at.to_string(),
            "request": format!("{} https://{}{}", asked.method, asked.host, asked.path),
            "expect": expect,
        });
        sent.in_test(&mut test);
        if let Some(Claims { issuer, claims, without, bound }) = claims {
            let mut caller = json!({ "issuer": issuer.as_str(), "claims": claims });
            if !without.is_empty() {
                caller["without"] = json!(without);
            }
            match bound {
                None => {}
                Some(Bound::Nothing) => caller["certificate_bound"] = false.into(),
                Some(Bound::Certificate) => caller["certificate_bound"] = true.into(),
                Some(Bound::Key) => caller["dpop"] = true.into(),
            }
            test["caller"] = caller;
        }
        self.tests.push(test);
    }

    pub fn len(&self) -> usize {
        self.tests.len()
    }

    /// What `countersign test` says of them under the world's configuration.
    pub async fn run(self, world: &World) -> Output {
        let tests = toml::to_string(&json!({ "test": self.tests })).unwrap();
        // a date is no text in TOML
        let dated = |line: &str| match line.strip_prefix("at = ") {
            Some(at) => format!("at = {}\n", at.trim_matches('"')),
            None => format!("{line}\n"),
        };
        let tests = world.write("agreement.test.toml", &tests.lines().map(dated).collect::<String>());
        let configuration = world.folder.path().join("countersign.toml");
        let arguments = ["test", "-c", configuration.to_str().unwrap(), tests.to_str().unwrap()];
        run(PROGRAM, &arguments, "").await
    }
}
