//! A configuration asked what it would decide, in the words of tests: the product's own trial with the shop's
//! names and a sound token's claims filled in.
//!
//! It has no listener, so that every mixture of signatures can be asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use countersign::config::Config;
use countersign::identity::{Name, PeerName};
use countersign::trial::{Answer, Bearer, Bound, Claims, Presented, Question, Trial, head};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::World;
use super::certificates::{TRUST_DOMAIN, spiffe_id};
use super::proxy::HOST;

pub struct Court {
    trial: Trial,
    /// The `iss` of tokens that do not say otherwise.
    issuer: String,
}

/// What is asked, and by whom.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The last word of a SPIFFE ID of the shop, or a whole SPIFFE ID. Without: no certificate.
    pub service: Option<String>,
    /// What the token says beside a sound one's claims; `false` takes a claim away. Without: no token.
    pub token: Option<Map<String, Value>>,
    /// Whether the token is bound to a key, of which the request brings a proof.
    #[serde(default)]
    pub dpop: bool,
    /// As `GET /orders/7`.
    pub what: String,
    pub host: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// RFC 3339; without, now.
    pub at: Option<String>,
    pub peer_ip: Option<IpAddr>,
    pub client_ip: Option<IpAddr>,
}

/// The outcome, in the words of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub reason: String,
    pub rule: Option<String>,
    /// Where it would go.
    pub upstream: Option<String>,
    /// What rules in shadow mode would have done.
    pub shadow: Vec<String>,
}

impl Court {
    /// Of what `config` says; tokens are `issuer`'s.
    pub fn new(world: &World, config: Config, issuer: &str) -> Court {
        let config = Config { listeners: Vec::new(), ..config };
        Court { trial: Trial::new(config, world.clock.now()).unwrap(), issuer: issuer.to_owned() }
    }

    pub fn judge(&mut self, asked: &Asked) -> Judged {
        let (method, path) = asked.what.split_once(' ').unwrap();
        let url = format!("https://{}{path}", asked.host.as_deref().unwrap_or(HOST));
        let fields = asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let question = Question {
            peer: asked.service.as_deref().map_or(Presented::Nothing, named),
            caller: asked.token.as_ref().map_or(Bearer::Nothing, |claims| self.token(claims, asked.dpop)),
            peer_ip: asked.peer_ip,
            client_ip: asked.client_ip,
            at: asked.at.as_ref().map(|at| at.parse().unwrap()),
            ..Question::new(head(method, &url, fields).unwrap())
        };
        in_words(&self.trial.ask(&question).unwrap())
    }

    fn token(&self, given: &Map<String, Value>, dpop: bool) -> Bearer {
        let mut claims = json!({ "sub": "alice", "client_id": "storefront-web" });
        let claims = claims.as_object_mut().unwrap();
        let mut without = Vec::new();
        for (name, value) in given {
            match value {
                Value::Bool(false) => without.push(name.clone()),
                value => drop(claims.insert(name.clone(), value.clone())),
            }
        }
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or(&self.issuer);
        let issuer = self.issuer_of(issuer).or_else(|| self.issuer_of(&self.issuer)).unwrap();
        let bound = dpop.then_some(Bound::Key);
        Bearer::Claims(Claims { issuer, claims: claims.clone(), without, bound })
    }

    fn issuer_of(&self, url: &str) -> Option<Name> {
        let mut issuers = self.trial.issuers();
        let found = issuers.find(|issuer| issuer.url.issued(String::new).as_deref() == Some(url));
        found.map(|issuer| issuer.name.clone())
    }
}

fn named(service: &str) -> Presented {
    let id = match service.starts_with("spiffe://") {
        true => service.to_owned(),
        false => spiffe_id(TRUST_DOMAIN, service),
    };
    Presented::Named(PeerName::Spiffe(id.parse().unwrap()))
}

fn in_words(answer: &Answer) -> Judged {
    let record = answer.record().unwrap();
    let allows = record.would_allow.iter().map(|rule| format!("would allow: {rule}"));
    let denies = record.would_deny.iter().map(|rule| format!("would deny: {rule}"));
    let unenforced = record.unenforced.first().map(|reason| format!("unenforced: {reason}"));
    Judged {
        reason: answer.reason().to_string(),
        rule: record.rule.clone(),
        upstream: record.upstream.as_ref().map(Name::to_string),
        shadow: allows.chain(denies).chain(unenforced).collect(),
    }
}
