//! Who carries a request and for whom it comes, and how that came about.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::RefusedHandshake;
use crate::audit::record::Check;
use crate::identity::{ActorKind, Caller, Delegate};
use crate::policy::condition::RoleTerm;
use crate::policy::reading::{Carries, Reading, RoleReading, RuleReading, ServiceReading};
use crate::policy::{Policy, RoleId};
use crate::token::{ActorEntry, IssuerSettings};
use crate::trial::Answer;

#[derive(Debug, Serialize)]
pub struct PeerAccount {
    /// `ok`, `absent`, or a reason code.
    pub check: String,
    /// What was wrong, or what was taken for granted.
    pub words: String,
    pub name: Option<String>,
    pub trust_domain: Option<String>,
    pub certificate: Option<String>,
    pub hop: Option<String>,
    pub services: Vec<ServiceAccount>,
}

#[derive(Debug, Serialize)]
pub struct ServiceAccount {
    pub service: String,
    /// The pattern of the `[service]` that names the peer; absent, as what follows, where no rule was asked.
    pub named_by: Option<String>,
    pub token: Option<TokenMapping>,
}

/// What the service's `client_id` says of the token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum TokenMapping {
    NoToken,
    Unstated,
    Any,
    Listed { client: String },
    NotListed { clients: Vec<String> },
}

#[derive(Debug, Serialize)]
pub struct CallerAccount {
    pub issuer: String,
    pub subject: Option<String>,
    pub client: Option<String>,
    pub actor: ActorKind,
    /// The actor entries that fit the token, or its `act`.
    pub actor_because: Vec<String>,
    pub on_behalf_of: ActorKind,
    pub chain: Vec<Delegate>,
    /// Where another Countersign vouches for the caller: who named it first, and whom the request passed.
    pub subject_issuer: Option<String>,
    pub via: Vec<String>,
    pub scopes: Vec<String>,
    pub groups: Vec<String>,
    pub token_roles: Vec<String>,
    /// Absent in a record.
    pub expires: Option<String>,
    pub roles: Vec<RoleAccount>,
}

#[derive(Debug, Serialize)]
pub struct RoleAccount {
    pub role: String,
    pub holds: bool,
    /// A rule that could have spoken asks for it.
    pub asked_for: bool,
    /// Whether any of the entries will do, or all must hold.
    pub of: &'static str,
    pub entries: Vec<EntryAccount>,
    pub seen: String,
}

#[derive(Debug, Serialize)]
pub struct EntryAccount {
    pub holds: bool,
    pub issuer: String,
    pub wanted: String,
}

impl PeerAccount {
    /// As the record has it. `granted` says what was taken for granted.
    pub fn of(answer: &Answer, granted: &str) -> PeerAccount {
        let record = match answer {
            Answer::Handshake(refused) => return PeerAccount::refused(refused),
            Answer::Http(answered) => &answered.record,
        };
        let words = match record.checks.peer {
            Check::Ok => granted.to_owned(),
            Check::Absent => "no certificate was presented".to_owned(),
            Check::NotReached => "nobody looked at it: the head was refused before".to_owned(),
            Check::Failed(reason) => reason.cause().to_owned(),
        };
        let peer = record.peer.as_ref();
        let services = peer.and_then(|peer| peer.service.as_deref()).unwrap_or_default();
        let services = services.split(',').filter(|name| !name.is_empty()).map(|name| ServiceAccount {
            service: name.to_owned(),
            named_by: None,
            token: None,
        });
        PeerAccount {
            check: record.checks.peer.as_str().to_owned(),
            words,
            name: peer.map(|peer| peer.spiffe_id.clone().unwrap_or_else(|| peer.dns_names.join(", "))),
            trust_domain: peer.map(|peer| peer.trust_domain.clone()),
            certificate: peer.map(|peer| peer.certificate.clone()),
            hop: peer.map(|peer| peer.hop.clone()),
            services: services.collect(),
        }
    }

    fn refused(refused: &RefusedHandshake) -> PeerAccount {
        PeerAccount {
            check: refused.reason.as_str().to_owned(),
            words: refused.detail.clone(),
            name: refused.claimed.as_ref().and_then(|claimed| claimed.spiffe_id.clone()),
            trust_domain: None,
            certificate: refused.claimed.as_ref().map(|claimed| claimed.certificate.to_string()),
            hop: None,
            services: Vec::new(),
        }
    }
}

impl ServiceAccount {
    pub fn of(policy: &Policy, read: ServiceReading) -> ServiceAccount {
        let token = match read.carries {
            Carries::Nothing => TokenMapping::NoToken,
            Carries::Unstated => TokenMapping::Unstated,
            Carries::Any => TokenMapping::Any,
            Carries::Listed(client) => TokenMapping::Listed { client },
            Carries::Other { listed } => TokenMapping::NotListed { clients: listed },
        };
        let service = policy.parts().services[read.service.index()].name.to_string();
        ServiceAccount { service, named_by: Some(read.named_by), token: Some(token) }
    }
}

impl CallerAccount {
    pub fn of(
        policy: &Policy,
        reading: &Reading<'_>,
        caller: &Caller,
        issuers: &[&IssuerSettings],
    ) -> CallerAccount {
        let texts = |list: &[std::sync::Arc<str>]| list.iter().map(ToString::to_string).collect();
        let entries = issuers.iter().find(|issuer| issuer.name == caller.issuer);
        let asked_for = roles_asked_for(reading);
        CallerAccount {
            issuer: caller.issuer.to_string(),
            subject: caller.subject.as_deref().map(str::to_owned),
            client: caller.client.as_deref().map(str::to_owned),
            actor: caller.actor,
            actor_because: entries.map_or_else(Vec::new, |issuer| actor_because(&issuer.actors, caller)),
            on_behalf_of: caller.on_behalf_of,
            chain: caller.chain.clone(),
            subject_issuer: caller.subject_issuer().map(str::to_owned),
            via: texts(caller.via.as_deref().unwrap_or_default()),
            scopes: texts(&caller.scopes),
            groups: texts(&caller.groups),
            token_roles: texts(&caller.roles),
            expires: Some(caller.expires.to_string()),
            roles: reading
                .roles()
                .into_iter()
                .map(|role| RoleAccount::of(policy, &asked_for, role))
                .collect(),
        }
    }
}

impl CallerAccount {
    /// Of somebody of whom only a record tells.
    pub fn recorded(
        policy: &Policy,
        reading: &Reading<'_>,
        caller: &Caller,
        issuers: &[&IssuerSettings],
    ) -> CallerAccount {
        CallerAccount {
            actor_because: vec!["as recorded".to_owned()],
            expires: None,
            ..CallerAccount::of(policy, reading, caller, issuers)
        }
    }
}

/// Which entries fit the token itself and the outermost `act`: all that the kind of actor rests on.
fn actor_because(entries: &[ActorEntry], caller: &Caller) -> Vec<String> {
    let fitting = |claims: &Map<String, Value>, of: &str| -> Vec<String> {
        let fits = entries.iter().filter(|entry| entry.matches(claims));
        fits.map(|entry| format!("{}: the {of} has {entry}", entry.kind)).collect()
    };
    let mut because = fitting(&caller.claims, "token");
    if let Some(act) = caller.claims.get("act").and_then(Value::as_object) {
        match caller.acting() {
            Some(_) => because.extend(fitting(act, "act")),
            None => because.push("unknown: another issuer names whoever acts".to_owned()),
        }
    }
    if because.is_empty() {
        because.push(format!("unknown: no [[issuer.{}.actor]] fits", caller.issuer));
    }
    because
}

/// By the rules that could have spoken.
fn roles_asked_for(reading: &Reading<'_>) -> BTreeSet<RoleId> {
    let of_rule = |rule: RuleReading<'_>| match rule.rule.role() {
        Some(RoleTerm::AnyOf(ids) | RoleTerm::AllOf(ids)) => ids.clone(),
        Some(RoleTerm::Any | RoleTerm::None) | None => Vec::new(),
    };
    reading.rules().filter(RuleReading::reaches).flat_map(of_rule).collect()
}

impl RoleAccount {
    fn of(policy: &Policy, asked_for: &BTreeSet<RoleId>, read: RoleReading) -> RoleAccount {
        let entries = read.entries.into_iter().map(|entry| EntryAccount {
            holds: entry.holds,
            issuer: entry.issuer.to_string(),
            wanted: entry.wanted,
        });
        RoleAccount {
            role: policy.parts().roles[read.role.index()].name.to_string(),
            holds: read.holds,
            asked_for: asked_for.contains(&read.role),
            of: if read.all { "all" } else { "any" },
            entries: entries.collect(),
            seen: read.seen,
        }
    }
}
