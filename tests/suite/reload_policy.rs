//! Policies that change while requests are served: none fails, each is judged wholly by one policy, and
//! that policy's file explains it.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use countersign::clock::Stopwatch;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, bearer};
use crate::world::court::{Asked, Court, Judged};
use crate::world::process::Process;
use crate::world::proxy::decision_of;
use crate::world::{Body, World, full, soon};

const REQUESTS: usize = 10_000;
const CONCURRENCY: usize = 64;

const READ: &str = r#"
[[allow]]
name = "readers read"
service = "storefront"
role = "order-reader"
path = "/orders/**"
method = "GET"
"#;
const READ_AS_WRITER: &str = r#"
[[allow]]
name = "writers read"
service = "storefront"
role = "order-writer"
path = "/orders/**"
method = "GET"
"#;
const WRITE: &str = r#"
[[allow]]
name = "writers write"
service = "storefront"
role = "order-writer"
path = "/orders/**"
method = "POST"
"#;
const AGENTS: &str = r#"
[[allow]]
name = "agents read"
service = "assistant"
role = "order-reader"
actor = "agent"
path = "/orders/**"
method = "GET"
"#;
const NO_AGENTS: &str = r#"
[[deny]]
name = "no agents today"
actor = "agent"
"#;
const NO_READING: &str = r#"
[[deny]]
name = "the storefront is closed"
service = "storefront"
path = "/orders/**"
method = "GET"
"#;
/// What everything else names.
const WRITER: &str = r#"
[role.order-writer]
any_of = [{ issuer = "corp", scope = "orders:write" }]
"#;

/// Who may pass, at first and then in turn.
const POLICIES: [&[&str]; 11] = [
    &[READ],
    &[READ, READ_AS_WRITER],
    &[READ_AS_WRITER],
    &[READ, READ_AS_WRITER, WRITE],
    &[READ, AGENTS, WRITE],
    &[BROKEN],
    &[READ, AGENTS, NO_AGENTS],
    &[WRITE],
    &[READ, READ_AS_WRITER, AGENTS, WRITE],
    &[READ_AS_WRITER, AGENTS],
    &[READ_AS_WRITER, WRITE, NO_READING],
];
const BROKEN: &str = r#"
[[allow]]
name = "nobody knows who"
service = "storefront"
role = "order-raeder"
"#;

/// Each policy has a path that only it allows.
fn policy(number: usize) -> String {
    let own = format!(
        r#"
[[allow]]
name = "policy {number}"
service = "storefront"
role = "any"
path = "/policy/{number}"
"#
    );
    [WRITER, &POLICIES[number].concat(), &own].concat()
}

/// A request, as a client sends it and as it is judged without one.
#[derive(Clone)]
struct Case {
    who: Who,
    token: Option<String>,
    asked: Asked,
}

impl Case {
    fn new(world: &World, who: Who, claims: Option<Value>, what: &str) -> Case {
        let service = if who == Who::Assistant { "assistant" } else { "storefront" };
        let token = claims.as_ref().map(|claims| world.issuer.token(claims.clone()));
        let claims = claims.map(|claims| claims.as_object().unwrap().clone());
        let service = Some(service.to_owned());
        let asked = Asked { service, token: claims, what: what.to_owned(), ..Asked::default() };
        Case { who, token, asked }
    }

    fn request(&self) -> Request<Body> {
        let (method, path) = self.asked.what.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, bearer(token));
        }
        request.body(full("")).unwrap()
    }
}

/// A case and what came of it: the decision's id and the answer's status.
type Outcome = (usize, String, StatusCode);

struct Load {
    cases: Vec<Case>,
    /// Requests that may be sent.
    due: Semaphore,
    done: watch::Sender<usize>,
}

impl Load {
    fn cases(world: &World) -> Vec<Case> {
        let reader = json!({"scope": "orders:read", "uid": "u1"});
        let writer = json!({"scope": "orders:write", "sub": "bob", "uid": "u2"});
        let agent = json!({"scope": "orders:read", "client_id": "assistant-1"});
        let case = |who, claims, what| Case::new(world, who, claims, what);
        vec![
            case(Who::Storefront, Some(reader.clone()), "GET /orders/7"),
            case(Who::Storefront, Some(writer.clone()), "GET /orders/7"),
            case(Who::Storefront, Some(writer), "POST /orders/7"),
            case(Who::Storefront, Some(agent.clone()), "GET /orders/7"),
            case(Who::Storefront, None, "GET /orders/7"),
            case(Who::Assistant, Some(agent), "GET /orders/7"),
            case(Who::Assistant, Some(reader), "GET /orders/7"),
        ]
    }

    /// Asks the cases of one client in turn, for as long as requests are due.
    async fn ask(self: Arc<Self>, who: Who, client: Client, outcomes: mpsc::UnboundedSender<Outcome>) {
        let mine: Vec<usize> = (0..self.cases.len()).filter(|&case| self.cases[case].who == who).collect();
        for &case in mine.iter().cycle() {
            let Ok(due) = self.due.acquire().await else { return };
            due.forget();
            let answer = client.ask(self.cases[case].request()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{who:?}: {error}"));
            assert!(answer.status.as_u16() < 500, "{answer:?}");
            outcomes.send((case, decision_of(&answer), answer.status)).unwrap();
            self.done.send_modify(|done| *done += 1);
        }
    }

    async fn until_done(&self, requests: usize) {
        let mut done = self.done.subscribe();
        soon("the requests", done.wait_for(|done| *done >= requests)).await.unwrap();
    }
}

/// Asks until the policy with this number decides; all outcomes on the way.
async fn until_in_force(process: &Process<'_>, case: &Case, client: &Client) -> Vec<(String, StatusCode)> {
    let mut outcomes = Vec::new();
    let asking = async {
        loop {
            let answer = client.ask(case.request()).await.unwrap();
            outcomes.push((decision_of(&answer), answer.status));
            if answer.status == StatusCode::OK {
                return;
            }
        }
    };
    soon("the new policy", asking).await;
    assert_eq!(process.metric("countersign_config_last_reload_success").await, 1.0);
    outcomes
}

#[tokio::test]
async fn ten_policies_written_under_load_and_every_record_explained_by_its_file() {
    let world = World::new().await;
    let process = world.serve(&policy(0)).await;
    let load = Load { cases: Load::cases(&world), due: Semaphore::new(0), done: watch::Sender::new(0) };
    let load = Arc::new(load);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut clients = JoinSet::new();
    for at in 0..CONCURRENCY {
        let who = if at % 4 == 0 { Who::Assistant } else { Who::Storefront };
        let client = process.client(who, Protocol::BOTH[at / 2 % 2]).await;
        clients.spawn(load.clone().ask(who, client, sender.clone()));
    }
    drop(sender);

    let mut cases = load.cases.clone();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut slowest = std::time::Duration::ZERO;
    let client = process.client(Who::Storefront, Protocol::H1).await;
    let stages = POLICIES.len() - 1;
    for (number, rules) in POLICIES.iter().enumerate().skip(1) {
        load.due.add_permits(REQUESTS / stages);
        let lines = process.binary.log_lines();
        let written = Stopwatch::start();
        let path = world.configuration(&policy(number));
        if *rules == [BROKEN] {
            let text = fs::read_to_string(&path).unwrap();
            let before = &text[..text.find("\"order-raeder\"").unwrap()];
            let line = before.lines().count();
            let column = before.lines().last().unwrap().len() + 1;
            let place = format!("{}:{line}:{column}", path.display());
            process.binary.logged_after(lines, |event| event["place"] == place.as_str()).await;
            assert_eq!(process.metric("countersign_config_last_reload_success").await, 0.0);
        } else {
            let claims = json!({"scope": "orders:read", "uid": "u1"});
            let case = Case::new(&world, Who::Storefront, Some(claims), &format!("GET /policy/{number}"));
            let seen = until_in_force(&process, &case, &client).await;
            slowest = slowest.max(written.elapsed());
            outcomes.extend(seen.into_iter().map(|(id, status)| (cases.len(), id, status)));
            cases.push(case);
        }
        load.until_done(number * (REQUESTS / stages)).await;
    }
    load.due.close();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    process.binary.signal(Signal::TERM);
    assert!(process.binary.ended().await.success());
    let mut loaded = 0;
    while let Some(outcome) = receiver.recv().await {
        outcomes.push(outcome);
        loaded += 1;
    }
    assert_eq!(loaded, REQUESTS);

    let judged = judge_all(&world, &cases, &outcomes);
    println!(
        "{judged} records agree with the files of {} policies; the slowest was in force after {slowest:?}",
        POLICIES.len() - 1
    );
    assert!(slowest < std::time::Duration::from_secs(5), "{slowest:?}");
}

/// Compares every record with what the file of its policy says; how many there were.
fn judge_all(world: &World, cases: &[Case], outcomes: &[Outcome]) -> usize {
    let mut courts = BTreeMap::new();
    for number in (0..POLICIES.len()).filter(|&number| POLICIES[number] != [BROKEN]) {
        world.configuration(&policy(number));
        let config = world.load();
        courts.insert(config.policy.hash().to_string(), Court::new(world, config, &world.issuer.url));
    }
    assert_eq!(courts.len(), POLICIES.len() - 1, "each differs");
    let audit = fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let records = audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let records: HashMap<String, Value> = records
        .filter(|record| record["event"] == "request")
        .map(|record| (record["id"].as_str().unwrap().to_owned(), record))
        .collect();
    assert_eq!(records.len(), outcomes.len(), "one record each");
    // a case under a policy is judged once: deciding is pure
    let mut verdicts: HashMap<(usize, &str), Judged> = HashMap::new();
    let mut used = BTreeSet::new();
    for (case, id, status) in outcomes {
        let record = &records[id];
        assert_eq!(record["status"], status.as_u16(), "{record}");
        let policy = record["policy"].as_str().unwrap();
        used.insert(policy);
        let court =
            courts.get_mut(policy).unwrap_or_else(|| panic!("a policy that was never loaded: {record}"));
        let judged = match verdicts.entry((*case, policy)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(court.judge(&cases[*case].asked)),
        };
        let verdict = if judged.upstream.is_some() { "allow" } else { "deny" };
        assert_eq!(record["verdict"], verdict, "{record}");
        assert_eq!(record["reason"], *judged.reason, "{record}");
        assert_eq!(record["rule"].as_str(), judged.rule.as_deref(), "{record}");
    }
    assert_eq!(used.len(), courts.len(), "every policy judged something");
    outcomes.len()
}
