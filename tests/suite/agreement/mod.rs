//! Whoever only asks is told what happens: random requests under random policies through real sockets, and the
//! same ones asked of the tools.

mod cases;
mod requests;
mod rules;

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::audit::Reason;
use countersign::cli::explain::{self, Account, Which};
use countersign::replay::{Line, Replay};
use countersign::trial::{Answer, Bearer, Claims, Presented, Question, Trial, head};
use fastrand::Rng;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use serde_json::{Map, Value, json};

use crate::world::World;
use crate::world::certificates::{Who, parsed};
use crate::world::client::{Client, Protocol, get};
use crate::world::proxy::{HOST as SERVER, Proxy};
use crate::world::signing::{KEYS, forged};
use cases::Cases;
use requests::{Asked, PEERS};
use rules::TABLES;

const POLICIES: usize = 20;
const REQUESTS: usize = 60;
/// Of this run; another number asks other things.
const SEED: u64 = 7;

/// What is compared.
type Outcome = (String, Vec<Value>, Value, Option<u16>);

#[tokio::test]
async fn what_happens_is_what_a_trial_tells_and_a_replay_repeats() {
    let mut random = Rng::with_seed(SEED);
    let world = World::new().await;
    let proxy = world.start(TABLES);
    let chains: HashMap<Who, _> =
        PEERS.map(|who| (who, world.certificates.client(who).map(|minted| parsed(&minted).0))).into();
    let jwks = json!({ "keys": KEYS.iter().map(|key| key.jwk()).collect::<Vec<_>>() });
    for who in PEERS {
        if let Some(minted) = world.certificates.client(who) {
            world.write(&format!("{who:?}.pem"), &minted.chain);
        }
    }
    let mut tested = 0;
    let mut reasons = BTreeMap::<String, usize>::new();
    let mut decided = 0;
    let mut conditions = BTreeMap::<&str, usize>::new();
    for number in 0..POLICIES {
        let policy = rules::policy(&world, &mut random);
        proxy.reload(&format!("{TABLES}{policy}")).unwrap();
        let config = world.load();
        let mut replay = Replay::new(&config);
        let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
        trial.give_keys(&"corp".parse().unwrap(), jwks.to_string().as_bytes()).unwrap();
        for condition in trial.policy().parts().rules.iter().flat_map(|rule| &rule.conditions) {
            *conditions.entry(condition.key()).or_default() += REQUESTS;
        }
        let mut cases = Cases::default();
        let mut live = Live { proxy: &proxy, clients: HashMap::new() };
        for at in 0..REQUESTS {
            let now = world.clock.now();
            let asked = requests::request(now.unix_seconds(), &mut random);
            let token = asked.claims.clone().map(|claims| world.issuer.token(claims));
            let token = if asked.forged { token.as_deref().map(forged) } else { token };
            let trace = format!("00-{:032x}-00f067aa0ba902b7-01", number * REQUESTS + at + 1);
            let record = live.ask(&asked, token.as_deref(), &trace).await;
            let happened = recorded(&record);
            *reasons.entry(happened.0.clone()).or_default() += 1;

            let line = record.to_string();
            if let Some(told) = replayed(&mut replay, &line) {
                decided += 1;
                assert_eq!(told, without_status(&happened), "replayed: {line}\n{policy}");
            }

            let mut question = question(&asked, chains[&asked.who].clone());
            question.at = Some(now);
            question.caller = token.clone().map_or(Bearer::Nothing, Bearer::Token);
            let told = answered(&trial.ask(&question).unwrap());
            assert_eq!(told, happened, "{asked:?}\n{record:#}\n{policy}");
            let account = explain::account(&mut trial, question.clone(), String::new(), Which::All).unwrap();
            assert_eq!(explained(&account), happened, "explained: {asked:?}\n{record:#}\n{policy}");
            assert_eq!(json!(account.story), record["story"]);
            let claims = token.as_deref().map(|token| claims_of(token).claims);
            if !asked.forged {
                cases.add(&asked, claims, now, &happened);
            }
            if let Some(token) = token.filter(|_| !asked.forged) {
                question.caller = Bearer::Claims(claims_of(&token));
                let told = answered(&trial.ask(&question).unwrap());
                assert_eq!(told, happened, "by claims: {asked:?}\n{record:#}\n{policy}");
            }
        }
        tested += cases.len();
        let output = cases.run(&world).await;
        assert_eq!(output.code, Some(0), "{}{}\n{policy}", output.stdout, output.stderr);
    }
    assert!(tested >= 1_000);
    println!("{decided} decided, {tested} tested\n{reasons:?}\n{conditions:?}");
    assert!(decided >= POLICIES * REQUESTS * 4 / 5);
    assert_eq!(reasons.values().sum::<usize>(), POLICIES * REQUESTS);
    assert!(reasons["allowed"] * 5 >= POLICIES * REQUESTS, "{reasons:?}");
    assert!(conditions.len() == 17 && conditions.values().all(|judged| *judged >= 100), "{conditions:?}");
}

/// The proxy as its clients see it, each with one connection as long as that lasts.
struct Live<'p, 'w> {
    proxy: &'p Proxy<'w>,
    clients: HashMap<Who, Client>,
}

impl Live<'_, '_> {
    /// The record of what happens. `trace` tells the requests apart.
    async fn ask(&mut self, asked: &Asked, token: Option<&str>, trace: &str) -> Value {
        let request = || {
            let mut request = get(asked.path);
            *request.method_mut() = asked.method.parse().unwrap();
            let token = token.map(|token| format!("Bearer {token}"));
            let fields = [
                (HOST, Some(asked.host)),
                (AUTHORIZATION, token.as_deref()),
                (CONTENT_TYPE, asked.content_type),
            ];
            for (name, value) in fields {
                if let Some(value) = value {
                    request.headers_mut().insert(name, value.parse().unwrap());
                }
            }
            request.headers_mut().insert("traceparent", trace.parse().unwrap());
            request
        };
        let answer = match self.clients.get(&asked.who) {
            Some(client) => client.ask(request()).await.ok(),
            None => None,
        };
        if answer.is_none() {
            // a head that frames itself in its own way ends its connection
            let client = self.connect(asked.who).await;
            client.ask(request()).await.unwrap();
            self.clients.insert(asked.who, client);
        }
        let trace_id = &trace[..35];
        let of_trace = |record: &&Value| record["trace"].as_str().is_some_and(|t| t.starts_with(trace_id));
        // one is asked after another, so it is among the last
        self.proxy.records.until(|all| all.iter().rev().take(4).find(of_trace).cloned()).await
    }

    async fn connect(&self, who: Who) -> Client {
        let mut config = self.proxy.world.certificates.client_config(who);
        // so that one connection may ask for any host
        config.enable_sni = false;
        Client::tls(self.proxy.address("open"), SERVER, config, Protocol::H1).await.unwrap()
    }
}

fn question(asked: &Asked, chain: Option<Vec<rustls::pki_types::CertificateDer<'static>>>) -> Question {
    let url = format!("https://{}{}", asked.host, asked.path);
    let fields = asked.content_type.map(|value| ("content-type", value));
    Question {
        peer: chain.map_or(Presented::Nothing, Presented::Chain),
        listener: Some("open".parse().unwrap()),
        peer_ip: Some("127.0.0.1".parse().unwrap()),
        ..Question::new(head(asked.method, &url, fields).unwrap())
    }
}

/// All that a token says, and nothing else.
fn claims_of(token: &str) -> Claims {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Map<String, Value> = serde_json::from_slice(&payload).unwrap();
    let without = ["sub", "jti"].into_iter().filter(|name| !claims.contains_key(*name));
    Claims {
        issuer: "corp".parse().unwrap(),
        without: without.map(str::to_owned).collect(),
        claims,
        bound: None,
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
