//! Whoever only asks is told what happens: random requests under random policies through real sockets, and the
//! same ones asked of the tools.

mod cases;
mod live;
mod requests;
mod rules;
mod sent;

use std::collections::BTreeMap;

use countersign::audit::Reason;
use countersign::cli::explain::{self, Account, Which};
use countersign::replay::{Line, Replay};
use countersign::trial::{Answer, Trial};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::hops::Form;
use crate::hops::balancer::{KID, SIGNER, pem};
use crate::world::World;
use crate::world::signing::KEYS;
use cases::Cases;
use live::Live;
use requests::{Binding, Way};
use rules::TABLES;
use sent::Setting;

const POLICIES: usize = 20;
const REQUESTS: usize = 72;
/// Of this run; another number asks other things.
const SEED: u64 = 7;

/// What is compared.
type Outcome = (String, Vec<Value>, Value, Option<u16>);

#[tokio::test]
async fn what_happens_is_what_a_trial_tells_and_a_replay_repeats() {
    let mut random = Rng::with_seed(SEED);
    let world = World::new().await;
    let jwks = json!({ "keys": KEYS.iter().map(|key| key.jwk()).collect::<Vec<_>>() });
    world.write("front.jwks", &jwks.to_string());
    let mut setting = Setting::new(&world).await;
    let keys = setting.keys.jwks();
    let tables = TABLES.replace("@signer@", SIGNER).replace("@keys@", &keys);
    let tables = |form: Form| tables.replace("@edge@", form.keys());
    let proxy = world.start(&tables(Form::AlbChain));
    for (who, minted) in &setting.certificates {
        world.write(&format!("{who:?}.pem"), &minted.chain);
    }
    let mut counts = Counts::default();
    for number in 0..POLICIES {
        setting.form = Form::ALL[number % Form::ALL.len()];
        let tables = tables(setting.form);
        let policy = rules::policy(&world, &tables, &mut random);
        proxy.reload(&format!("{tables}{policy}")).unwrap();
        let config = world.load();
        let mut replay = Replay::new(&config);
        let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
        trial.give_keys(&"corp".parse().unwrap(), jwks.to_string().as_bytes()).unwrap();
        trial.give_key(&"people".parse().unwrap(), KID, pem(&setting.keys.key).as_bytes()).unwrap();
        for condition in trial.policy().parts().rules.iter().flat_map(|rule| &rule.conditions) {
            *counts.conditions.entry(condition.key()).or_default() += REQUESTS;
        }
        let mut cases = Cases::default();
        let mut live = Live::new(&proxy);
        for at in 0..REQUESTS {
            let asked = requests::request(world.clock.now(), &mut random);
            let sent = setting.send(&asked);
            let trace = format!("00-{:032x}-00f067aa0ba902b7-01", number * REQUESTS + at + 1);
            let record = live.ask(&setting, &sent, &trace).await;
            let happened = recorded(&record);
            counts.saw(&asked, &record);

            let line = record.to_string();
            if let Some(told) = replayed(&mut replay, &line) {
                counts.decided += 1;
                assert_eq!(told, without_status(&happened), "replayed: {line}\n{policy}");
            }

            let question = sent.question();
            let told = answered(&trial.ask(&question).unwrap());
            assert_eq!(told, happened, "{asked:?}\n{record:#}\n{policy}");
            let account = explain::account(&mut trial, question, String::new(), Which::All).unwrap();
            assert_eq!(explained(&account), happened, "explained: {asked:?}\n{record:#}\n{policy}");
            assert_eq!(json!(account.story), record["story"]);
            if let (Some(question), Some(claims)) = (sent.by_claims(), sent.claims()) {
                let told = answered(&trial.ask(&question).unwrap());
                assert_eq!(told, happened, "by claims: {asked:?}\n{record:#}\n{policy}");
                cases.add(&sent, claims, &happened);
            }
        }
        counts.tested += cases.len();
        let output = cases.run(&world).await;
        assert_eq!(output.code, Some(0), "{}{}\n{policy}", output.stdout, output.stderr);
    }
    println!("{counts:?}");
    let all = POLICIES * REQUESTS;
    assert_eq!(counts.reasons.values().sum::<usize>(), all);
    assert!(counts.tested >= 1_000 && counts.decided * 10 >= all * 7);
    assert!(counts.reasons["allowed"] * 5 >= all);
    assert!(counts.conditions.len() == 18 && counts.conditions.values().all(|judged| *judged >= 100));
    // Of each way, and of each kind of token, some came in and some did not.
    let ways = [Way::Direct, Way::Told, Way::Browser, Way::Local].map(|way| format!("{way:?}"));
    let tokens =
        [Binding::Nothing, Binding::Certificate, Binding::Key].map(|binding| format!("token {binding:?}"));
    let told = ["asserted Local", "asserted by the front", "logged in Told", "logged in Browser"];
    for kind in ways.iter().chain(&tokens).chain(&told.map(str::to_owned)) {
        assert!(counts.kinds[&(kind.clone(), true)] >= 10, "{kind}");
        assert!(counts.kinds[&(kind.clone(), false)] >= 10, "{kind}");
    }
}

/// What was seen, so that nothing is shown by nothing.
#[derive(Debug, Default)]
struct Counts {
    tested: usize,
    decided: usize,
    reasons: BTreeMap<String, usize>,
    conditions: BTreeMap<&'static str, usize>,
    /// By kind, those that were allowed and those that were not.
    kinds: BTreeMap<(String, bool), usize>,
}

impl Counts {
    fn saw(&mut self, asked: &requests::Asked, record: &Value) {
        *self.reasons.entry(record["reason"].as_str().unwrap().to_owned()).or_default() += 1;
        let mut kinds = vec![format!("{:?}", asked.way)];
        if asked.claims.is_some() {
            kinds.push(format!("token {:?}", asked.binding));
        }
        if record["caller"]["issuer"] == "front" {
            kinds.push(
                if asked.way == Way::Local { "asserted Local" } else { "asserted by the front" }.to_owned(),
            );
        }
        if record["caller"]["issuer"] == "people" {
            kinds.push(format!("logged in {:?}", asked.way));
        }
        for kind in kinds {
            *self.kinds.entry((kind, record["verdict"] == "allow")).or_default() += 1;
        }
    }
}

/// What a decision of record comes to when it is made again; nothing if there was none.
fn replayed(replay: &mut Replay<'_>, line: &str) -> Option<Outcome> {
    let Line::Decided(past) = Line::read(line.as_bytes()).unwrap() else { return None };
    let judged = replay.judge(&past).unwrap();
    let mut reasons: Vec<Reason> = judged.causes().iter().map(|&cause| cause.into()).collect();
    reasons.sort_unstable();
    let reason = reasons.first().map_or("allowed", |reason| reason.as_str()).to_owned();
    let also = if reasons.len() > 1 {
        reasons.iter().map(|reason| reason.as_str().into()).collect()
    } else {
        vec![]
    };
    let rule = judged.decision.evidence.rule.map(|id| replay.policy().rule(id).name.as_str());
    Some((reason, also, rule.map_or(Value::Null, Value::from), None))
}

fn without_status(outcome: &Outcome) -> Outcome {
    let (reason, also, rule, _) = outcome.clone();
    (reason, also, rule, None)
}

fn recorded(record: &Value) -> Outcome {
    let status = (record["verdict"] == "deny").then(|| record["status"].as_u64().unwrap() as u16);
    let reason = record["reason"].as_str().unwrap().to_owned();
    (reason, record["also"].as_array().unwrap().clone(), record["rule"].clone(), status)
}

fn explained(account: &Account) -> Outcome {
    let also = account.also.iter().map(|reason| reason.as_str().into()).collect();
    (account.reason.as_str().to_owned(), also, json!(account.rule), account.status)
}

fn answered(answer: &Answer) -> Outcome {
    let also = answer.also().iter().map(|reason| reason.as_str().into()).collect();
    let rule = answer.rule().map_or(Value::Null, Value::from);
    (answer.reason().as_str().to_owned(), also, rule, answer.status().map(|status| status.as_u16()))
}
