//! One table of requests (`tests/modes.toml`) under one policy in the three places where it may stand: a front proxy, a
//! sidecar that takes what others send, and the outbound listener of the workload that sends it. The verdict, the rule
//! and the reason are the same, and so is all else in the record that tells of them; and the trial of each of the three
//! configurations answers the same.
//!
//! The peer is one workload with one certificate in all three: a front and a sidecar are shown it in the handshake, and
//! for an outbound listener it is `[identity]`. What a row varies is the caller, the method, the host, the path and the
//! header fields. What is different by its nature is left out:
//! - other peers, and bad or absent certificates: whoever speaks to an outbound listener is the workload itself;
//! - `hop`, which is `direct` there and `local` here, and so the rules that read it;
//! - a host that is not the one of the TLS connection: the local application makes none;
//! - `x-auth-assertion`: of the local application it is read, of a client that is no trusted hop it is not;
//! - proofs of possession (DPoP) that name the scheme: the application speaks `http`, clients speak `https`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use countersign::audit::Record as _;
use countersign::cli::mint::Minted;
use countersign::clock::{Clock, Timestamp};
use countersign::config;
use countersign::identity::Hop;
use countersign::trial::{Bearer, Presented, Question, Trial, head};
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};

use super::table::{Asked, Group, Row, Table};
use crate::world::certificates::{TRUST_DOMAIN, parsed};
use crate::world::client::Client;
use crate::world::issuer::Issuer;
use crate::world::proxy::Proxy;
use crate::world::signing::{KEYS, Key};
use crate::world::upstream::Upstream;
use crate::world::{Body, World, full};

/// A mode, its listener, what stands above the policy, and where its upstreams are: an application beside it is
/// reached in plain text, and other workloads over mTLS.
const MODES: [(&str, &str, &str); 3] = [
    (
        "front",
        "internet",
        r#"
[listener.internet]
address            = "127.0.0.1:0"
client_certificate = "optional"
[upstream.orders]
server           = "@upstream@"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
[upstream.next]
server           = "@upstream@"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
"#,
    ),
    (
        "sidecar",
        "mesh",
        r#"
[listener.mesh]
address            = "127.0.0.1:0"
client_certificate = "required"
[upstream.orders]
server = "@upstream@"
[upstream.next]
server = "@upstream@"
"#,
    ),
    (
        "outbound",
        "egress",
        r#"
[listener.egress]
address = "127.0.0.1:0"
mode    = "outbound"
[upstream.orders]
server           = "@upstream@"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
[upstream.next]
server           = "@upstream@"
server_spiffe_id = "spiffe://shop.example/ns/prod/sa/orders"
"#,
    ),
];

/// What all three have.
const FRAME: &str = r#"
version = 1
[proxy]
name = "@name@"
workers = 1
[identity]
certificate = "@name@.pem"
private_key = "@name@-key.pem"
[trust_domain."shop.example"]
ca = "shop-ca.pem"
[upstream.gone]
server = "http://127.0.0.1:1"
[audit]
output = "@name@.jsonl"
"#;

/// Moments, ids, and where a request came in.
const OTHERWISE: [&str; 10] = [
    "time",
    "id",
    "proxy",
    "policy",
    "trace",
    "connection",
    "cache",
    "decision_us",
    "total_us",
    "response_bytes",
];

/// What the trial says of a request before it is sent.
const JUDGED: [&str; 12] = [
    "verdict",
    "reason",
    "rule",
    "also",
    "peer",
    "caller",
    "checks",
    "near_miss",
    "action",
    "upstream",
    "unenforced",
    "would_allow",
];

const DAY: Duration = Duration::from_secs(86_400);

struct Mode<'w> {
    name: &'static str,
    listener: &'static str,
    proxy: Proxy<'w>,
    trial: Trial,
    /// Behind it: an application beside a sidecar, and else another workload.
    upstream: Upstream,
}

struct Setting {
    world: World,
    partner: Issuer,
    /// By which all requests come.
    storefront: Minted,
}

impl Setting {
    async fn new(hosts: &BTreeSet<&str>) -> Setting {
        let world = World::at(Clock::manual(Clock::system().now())).await;
        let workload = |name: &str| {
            let mut spec = world.certificates.workload(TRUST_DOMAIN, name);
            spec.dns = hosts.iter().map(|&host| host.to_owned()).collect();
            world.certificates.shop.issue(&spec).unwrap()
        };
        let storefront = workload("storefront");
        for (mode, own) in
            [("front", &workload("front")), ("sidecar", &workload("orders")), ("outbound", &storefront)]
        {
            world.write(&format!("{mode}.pem"), &own.chain);
            world.write(&format!("{mode}-key.pem"), &own.key);
        }
        let revoked = "[[revoked]]\nsubject = \"carol\"\nissuer = \"corp\"\n[[revoked]]\njti = \"stolen\"\nissuer = \"corp\"\n";
        world.write("revoked.toml", &format!("version = 1\n{revoked}"));
        Setting { partner: Issuer::start(world.clock.clone()).await, storefront, world }
    }

    async fn mode(
        &self,
        (name, listener, head): (&'static str, &'static str, &str),
        policy: &str,
    ) -> Mode<'_> {
        let tls = (name != "sidecar").then(|| self.world.certificates.mutual_server_config("orders"));
        let upstream = Upstream::start_with("127.0.0.1:0".parse().unwrap(), tls).await;
        let now = self.world.clock.now();
        let day = |at: Timestamp| at.to_string()[..10].to_owned();
        let mode = if name == "outbound" { "outbound" } else { "inbound" };
        let text = format!("{FRAME}{head}{policy}")
            .replace("@mode@", &format!("mode = \"{mode}\""))
            .replace("@name@", name)
            .replace("@upstream@", &upstream.url.replace("http:", "h2c:"))
            .replace("@issuer@", &self.world.issuer.url)
            .replace("@partner@", &self.partner.url)
            .replace("@yesterday@", &day(now.minus(DAY)))
            .replace("@tomorrow@", &day(now.plus(DAY)));
        let proxy = self.world.start_from(&format!("{name}.toml"), &text, &format!("{name}.jsonl"));
        let path = self.world.folder.path().join(format!("{name}.toml"));
        let mut trial = Trial::new(config::load(&[path], &|_| None, now).unwrap(), now).unwrap();
        let keys = json!({ "keys": KEYS.iter().map(Key::jwk).collect::<Vec<_>>() }).to_string();
        for issuer in ["corp", "partner"] {
            trial.give_keys(&issuer.parse().unwrap(), keys.as_bytes()).unwrap();
        }
        Mode { name, listener, proxy, trial, upstream }
    }
}

impl Mode<'_> {
    /// What the record says, once it is sent, and how often an upstream was asked.
    async fn send(&self, setting: &Setting, asked: &Asked<'_>) -> Value {
        let address = self.proxy.address(self.listener);
        let client = if self.name == "outbound" {
            Client::plain_for(address, asked.host, asked.protocol).await
        } else {
            let config = setting.world.certificates.client_config_with(Some(&setting.storefront));
            Client::tls(address, asked.host, config, asked.protocol).await
        };
        let mut request: Request<Body> = Request::builder()
            .method(asked.method)
            .uri(asked.path)
            .header("traceparent", &asked.traceparent)
            .body(full(asked.body.to_owned()))
            .unwrap();
        let bearer = asked.token.map(|token| format!("Bearer {token}"));
        let fields = asked.fields.iter().copied().chain(bearer.as_deref().map(|it| ("authorization", it)));
        for (name, value) in fields {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let before = self.upstream.counts().requests;
        client.unwrap().ask(request).await.unwrap();
        let trace = asked.traceparent[3..35].to_owned();
        let is_it = |it: &&Value| it["trace"].as_str().is_some_and(|own| own.contains(&trace));
        let mut record = self.proxy.records.until(|all| all.iter().find(is_it).cloned()).await;
        record["forwarded"] = (self.upstream.counts().requests - before).into();
        self.comparable(record)
    }

    /// Without what is its own in each of them.
    fn comparable(&self, mut record: Value) -> Value {
        let members = record.as_object_mut().unwrap();
        OTHERWISE.iter().for_each(|name| drop(members.remove(*name)));
        if let Some(peer) = record["peer"].as_object_mut() {
            let hop = if self.name == "outbound" { "local" } else { "direct" };
            assert_eq!(peer.remove("hop").unwrap(), hop);
        }
        record
    }

    /// What the trial would record, in each way in which it can be asked.
    fn try_out(&mut self, setting: &Setting, asked: &Asked<'_>) -> Vec<Value> {
        let chain = Presented::Chain(parsed(&setting.storefront).0);
        let own = Presented::Service("storefront".parse().unwrap());
        let ways = match self.name {
            "outbound" => {
                vec![(Presented::Nothing, None), (own, None), (Presented::Nothing, Some(self.listener))]
            }
            _ => vec![(chain, Some(self.listener))],
        };
        let length = asked.body.len().to_string();
        let mut fields = asked.fields.clone();
        if !asked.body.is_empty() {
            fields.push(("content-length", &length));
        }
        let url = format!("https://{}{}", asked.host, asked.path);
        let ask = |(peer, listener): (Presented, Option<&str>)| {
            let question = Question {
                peer,
                hop: if self.name == "outbound" { Hop::Local } else { Hop::Direct },
                caller: asked.token.map_or(Bearer::Nothing, |token| Bearer::Token(token.to_owned())),
                listener: listener.map(|name| name.parse().unwrap()),
                peer_ip: Some("127.0.0.1".parse().unwrap()),
                ..Question::new(head(asked.method, &url, fields.iter().copied()).unwrap())
            };
            let answer = self.trial.ask(&question).unwrap();
            let record = answer.record().unwrap();
            let mut line = Vec::new();
            record.write(&mut line).unwrap();
            self.comparable(serde_json::from_slice(&line).unwrap())
        };
        ways.into_iter().map(ask).collect()
    }
}

fn outcome(record: &Value) -> [String; 3] {
    ["verdict", "reason", "rule"].map(|part| record[part].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn one_table_is_judged_alike_in_front_beside_and_on_the_way_out() {
    let table = Table::read();
    let rows: Vec<&Row> = table.group.iter().flat_map(|group| &group.rows).collect();
    let hosts: BTreeSet<&str> = rows.iter().map(|row| row.asked(0, None).host).collect();
    let setting = Setting::new(&hosts).await;
    let modes = MODES.map(|mode| setting.mode(mode, &table.policy));
    let mut modes = join_all(modes).await;
    let tokens: BTreeMap<&str, Option<String>> = table
        .caller
        .iter()
        .map(|(name, caller)| {
            (&**name, caller.token(&setting.world.issuer, &setting.partner, &setting.storefront.der))
        })
        .collect();

    let (mut wrong, mut tried, mut asked_by) = (String::new(), 0, BTreeSet::new());
    let mut reasons = BTreeMap::<String, usize>::new();
    for (at, row) in rows.iter().enumerate() {
        let Row(caller, request, verdict, reason, rule, _) = row;
        let asked = row.asked(at, tokens[&**caller].as_deref());
        let seen = join_all(modes.iter().map(|mode| mode.send(&setting, &asked))).await;
        let expected = [verdict, reason, rule].map(Clone::clone);
        if outcome(&seen[0]) != expected {
            writeln!(wrong, "{caller}, {request}: {:?}", outcome(&seen[0])).unwrap();
        }
        for (mode, other) in modes.iter().zip(&seen).skip(1) {
            if *other != seen[0] {
                writeln!(wrong, "{caller}, {request}: {}\n  {other}\n  {}", mode.name, seen[0]).unwrap();
            }
        }
        for (mode, seen) in modes.iter_mut().zip(&seen) {
            for answered in mode.try_out(&setting, &asked) {
                let differs = |part: &&str| answered[*part] != seen[*part];
                let differing: Vec<&str> = JUDGED.into_iter().filter(differs).collect();
                // Whether somebody is there is not asked.
                if !differing.is_empty() && (reason != "upstream_unavailable" || differing != ["reason"]) {
                    writeln!(wrong, "{caller}, {request}: the trial of {}: {differing:?}", mode.name)
                        .unwrap();
                }
                tried += 1;
            }
        }
        *reasons.entry(reason.clone()).or_default() += 1;
        asked_by.insert(caller);
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    for Group { what, rows } in &table.group {
        println!("{:4} {what}", rows.len());
    }
    println!("{reasons:?}");
    assert_eq!((rows.len(), tried, asked_by.len()), (200, 1000, tokens.len()));
    assert_eq!((reasons["allowed"], reasons.len()), (50, 30));
}
