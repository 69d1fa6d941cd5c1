//! The decision without sockets: a configuration's own verifier and policy, asked directly.
//!
//! What is judged comes in as a request would bring it (a token's text, a method, a path), and passes
//! the reading that serves traffic; only the peer is taken for verified.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use countersign::audit::Reason;
use countersign::clock::{Clock, Timestamp};
use countersign::config::Config;
use countersign::identity::{CertificateHash, Hop, Peer, PeerName, Signature};
use countersign::metrics::{IssuerMetrics, TokenMetrics};
use countersign::policy::{
    self, Action, Circumstances, Denial, Host, NormalPath, Policy, ShadowVerdict, Verdict,
};
use countersign::tls::client::{ExpectedServer, client_config};
use countersign::token::{Credential, Issuer, IssuerKeys, KeySource, Verifier};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::World;
use super::certificates::{TRUST_DOMAIN, spiffe_id};
use super::proxy::HOST;
use super::signing::KEYS;

pub struct Court {
    policy: Policy,
    verifier: Verifier,
    clock: Clock,
    /// The `iss` and `aud` of tokens that do not say otherwise.
    issuer: String,
    audience: Arc<str>,
}

/// What is asked, and by whom.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The last word of a SPIFFE ID of the shop, or a whole SPIFFE ID. Without: no certificate.
    pub service: Option<String>,
    /// What the token says beside a sound one's claims; `false` takes a claim away. Without: no token.
    pub token: Option<Map<String, Value>>,
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
    /// Of what `config` says, but with the keys of every issuer from a file in the world's folder. Tokens
    /// are `issuer`'s.
    pub fn new(world: &World, config: Config, issuer: &str) -> Court {
        let keys: Vec<_> = KEYS.iter().map(|key| key.jwk()).collect();
        let file = world.write("jwks.json", &json!({"keys": keys}).to_string());
        let clock = world.clock.clone();
        let nobody = client_config(&ExpectedServer::Ca(Vec::new()), None, &[], &clock).unwrap();
        let audience = Arc::clone(&config.issuers[0].audience[0]);
        let issuers = config.issuers.into_iter().map(|mut settings| {
            settings.keys.source = KeySource::File(file.clone());
            let keys =
                IssuerKeys::new(settings.keys.clone(), &nobody, IssuerMetrics::default(), clock.clone());
            Issuer { settings, keys: Arc::new(keys) }
        });
        let (limits, metrics) = (config.limits.token, TokenMetrics::default());
        let verifier =
            Verifier::new(issuers.collect(), limits, config.tokens, metrics, clock.clone()).unwrap();
        Court { policy: config.policy, verifier, clock, issuer: issuer.to_owned(), audience }
    }

    pub async fn judge(&self, asked: &Asked) -> Judged {
        let start = self.clock.now();
        if let Some(at) = &asked.at {
            self.clock.set(at.parse().unwrap());
        }
        let judged = self.judge_now(asked).await;
        self.clock.set(start);
        judged
    }

    async fn judge_now(&self, asked: &Asked) -> Judged {
        let now = self.clock.now();
        let token = asked.token.as_ref().map(|claims| self.token(claims, now));
        let credential = token.as_deref().map_or(Credential::Absent, Credential::Bearer);
        let caller = match self.verifier.verify(credential, None).await {
            Ok(caller) => caller,
            Err(error) => return Judged::refused(error.code()),
        };
        let peer = asked.service.as_deref().map_or(Signature::Absent, peer);
        let (method, path) = asked.what.split_once(' ').unwrap();
        let Ok(path) = NormalPath::parse(path) else { return Judged::refused("request_malformed") };
        let headers = asked.headers.iter().map(|(name, value)| (name.parse().unwrap(), text(value)));
        let headers: HeaderMap = headers.collect();
        let method: Method = method.parse().unwrap();
        let host: Host = asked.host.as_deref().unwrap_or(HOST).parse().unwrap();
        let request = policy::Request {
            peer: &peer,
            caller: &caller,
            action: Action { method: &method, host: &host, path: &path, headers: &headers },
            circumstances: Circumstances {
                hop: &Hop::Direct,
                peer_ip: asked.peer_ip,
                client_ip: asked.client_ip,
            },
            now,
        };
        let standing = self.policy.standing(&peer, &caller, now);
        self.in_words(&policy::decide(&self.policy, &standing, &request))
    }

    fn in_words(&self, decision: &policy::Decision) -> Judged {
        let parts = self.policy.parts();
        let rule = |id: &policy::RuleId| parts.rules[id.index()].name.clone();
        let (reason, upstream) = match &decision.verdict {
            Verdict::Permit(permit) => {
                let reason = if permit.enforced() { Reason::Allowed } else { Reason::Unenforced };
                (reason, Some(parts.upstreams[permit.upstream().index()].to_string()))
            }
            Verdict::Denial(Denial { causes, .. }) => (Reason::from(causes[0]), None),
        };
        let shadow = decision.evidence.shadow.iter().map(|verdict| match verdict {
            ShadowVerdict::WouldAllow(id) => format!("would allow: {}", rule(id)),
            ShadowVerdict::WouldDeny(id) => format!("would deny: {}", rule(id)),
            ShadowVerdict::Unenforced(causes) => format!("unenforced: {}", Reason::from(causes[0])),
        });
        Judged {
            reason: reason.as_str().to_owned(),
            rule: decision.evidence.rule.as_ref().map(rule),
            upstream,
            shadow: shadow.collect(),
        }
    }

    /// A token of the first issuer unless `iss` says otherwise, valid for five minutes.
    fn token(&self, claims: &Map<String, Value>, now: Timestamp) -> String {
        let mut payload = json!({
            "iss": self.issuer,
            "aud": *self.audience,
            "sub": "alice",
            "client_id": "storefront-web",
            "jti": "7f3a",
            "iat": now.unix_seconds(),
            "exp": now.unix_seconds() + 300,
        });
        for (name, value) in claims {
            match value {
                Value::Bool(false) => drop(payload.as_object_mut().unwrap().remove(name)),
                _ => payload[name] = value.clone(),
            }
        }
        let key = KEYS.iter().find(|key| key.algorithm == "ES256").unwrap();
        let header = json!({"alg": key.algorithm, "typ": "at+jwt", "kid": key.kid});
        key.token(header.to_string(), payload.to_string())
    }
}

impl Judged {
    fn refused(reason: &str) -> Judged {
        Judged { reason: reason.to_owned(), rule: None, upstream: None, shadow: Vec::new() }
    }
}

fn peer(service: &str) -> Signature<Peer> {
    let id = match service.starts_with("spiffe://") {
        true => service.to_owned(),
        false => spiffe_id(TRUST_DOMAIN, service),
    };
    Signature::Verified(Arc::new(Peer {
        name: PeerName::Spiffe(id.parse().unwrap()),
        certificate: CertificateHash([7; 32]),
        not_after: Timestamp::MAX,
        hop: Hop::Direct,
    }))
}

fn text(value: &str) -> HeaderValue {
    value.parse().unwrap()
}
