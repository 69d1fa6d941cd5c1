//! What a record says of both signatures: all that a decision reads of them, so that it can be repeated.
//!
//! Of a token's claims only those stand here that the policy reads, and of those that `[audit] redact` names the hash
//! alone. What is cut says so.

use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::line::{LIST_ENTRIES_MAX, bounded, bounded_list};
use crate::audit::part::Part;
use crate::identity::{ActorKind, Bound, Caller, Delegate, Name, Peer, PeerName, SUBJECT_ISSUER};
use crate::policy::Policy;
use crate::policy::claim::ClaimPath;
use crate::policy::role::IssuerFacts;

/// Both signatures, as far as they were verified: the same in all records of the same standing.
#[derive(Clone, Debug, Default)]
pub struct Signers {
    pub peer: Option<Part<PeerRecord>>,
    pub caller: Option<Part<CallerRecord>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerRecord {
    /// The `[service]` that names it; several are joined with `,`.
    pub service: Option<String>,
    pub spiffe_id: Option<String>,
    /// Of a peer without SPIFFE ID: its DNS SANs, under `trust_domain`.
    pub dns_names: Vec<String>,
    pub trust_domain: String,
    pub certificate: String,
    pub hop: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallerRecord {
    pub issuer: Name,
    pub subject: Option<String>,
    pub client: Option<String>,
    pub actor: ActorKind,
    pub on_behalf_of: ActorKind,
    pub chain: Vec<Delegate>,
    /// Where another Countersign vouches for the caller: the `iss` of the token that it was first known by, and the
    /// services that the request came through, the first one first.
    pub subject_issuer: Option<String>,
    pub via: Vec<String>,
    /// The configured roles, not the token's.
    pub roles: Vec<Name>,
    pub scopes: Vec<String>,
    pub groups: Vec<String>,
    /// The token's own roles claim.
    pub token_roles: Vec<String>,
    pub acr: Option<String>,
    pub auth_time: Option<String>,
    /// To what the token is bound, which was proven: `none`, `certificate` or `key`.
    pub bound: &'static str,
    /// Those that the policy reads as they were issued, at their places; `null` where the token has none.
    pub claims: Map<String, Value>,
    /// The claims whose values are hashed here.
    pub redacted: Vec<String>,
}

impl Signers {
    /// `services` and `roles` are what the policy calls them, if it was asked; `same_peer` is how an earlier record
    /// told of this peer.
    pub fn new(
        peer: Option<&Peer>,
        same_peer: Option<Part<PeerRecord>>,
        services: &[Name],
        caller: Option<&Caller>,
        roles: &[Name],
        policy: &Policy,
    ) -> Signers {
        let of_peer = |peer| same_peer.unwrap_or_else(|| Part::new(PeerRecord::new(peer, services)));
        Signers {
            peer: peer.map(of_peer),
            caller: caller.map(|caller| Part::new(CallerRecord::new(caller, roles, policy))),
        }
    }
}

impl PeerRecord {
    fn new(peer: &Peer, services: &[Name]) -> PeerRecord {
        let (spiffe_id, dns_names) = match &peer.name {
            PeerName::Spiffe(id) => (Some(id.to_string()), Vec::new()),
            PeerName::Dns { names, .. } => (None, bounded_list(names)),
        };
        let services: Vec<&str> = services.iter().map(Name::as_str).collect();
        PeerRecord {
            service: (!services.is_empty()).then(|| services.join(",")),
            spiffe_id,
            dns_names,
            trust_domain: peer.name.trust_domain().to_string(),
            certificate: peer.certificate.to_string(),
            hop: peer.hop.as_str().to_owned(),
        }
    }
}

impl CallerRecord {
    fn new(caller: &Caller, roles: &[Name], policy: &Policy) -> CallerRecord {
        let parts = policy.parts();
        let facts = parts.issuers.iter().find(|facts| facts.name == caller.issuer);
        let mut redacted: Vec<String> = Vec::new();
        // Told from `claim`: whether it is to be hashed.
        let mut hide = |claim: Option<&str>, is_there: bool| {
            let name = claim.filter(|claim| parts.redact.iter().any(|name| **name == **claim));
            let newly = name.filter(|name| is_there && !redacted.iter().any(|known| known == name));
            redacted.extend(newly.map(str::to_owned));
            name.is_some()
        };
        let from = |claim: fn(&IssuerFacts) -> &Option<std::sync::Arc<str>>| {
            facts.and_then(|facts| claim(facts).as_deref())
        };
        let hide_subject = hide(from(|facts| &facts.subject), caller.subject.is_some());
        let hide_client = hide(from(|facts| &facts.client), caller.client.is_some());
        let hide_groups = hide(from(|facts| &facts.groups), !caller.groups.is_empty());
        let hide_roles = hide(from(|facts| &facts.roles), !caller.roles.is_empty());
        let hide_acr = hide(Some("acr"), caller.acr.is_some());
        let hide_chain = hide(Some("act"), !caller.chain.is_empty());
        let hide_issuer = hide(Some(SUBJECT_ISSUER), caller.subject_issuer().is_some());
        let mut claims = Map::new();
        for path in policy.claims_read() {
            let value = path.look_up(&caller.claims).unwrap_or(&Value::Null);
            let hide = hide(path.0.first().map(|name| &**name), !value.is_null());
            put(&mut claims, path, told(value, hide));
        }
        let link = |link: &Delegate| Delegate {
            subject: text(&link.subject, hide_chain).into(),
            issuer: link.issuer.as_deref().map(|issuer| bounded(issuer).into()),
        };
        // Whoever acts is named by the token's issuer, or is somebody else's.
        if caller.chain.first().is_some_and(|acting| acting.issuer.is_some()) {
            let iss = caller.claims.get("iss").unwrap_or(&Value::Null);
            put(&mut claims, &ClaimPath::top_level("iss"), told(iss, false));
        }
        CallerRecord {
            issuer: caller.issuer.clone(),
            subject: caller.subject.as_deref().map(|subject| text(subject, hide_subject)),
            client: caller.client.as_deref().map(|client| text(client, hide_client)),
            actor: caller.actor,
            on_behalf_of: caller.on_behalf_of,
            chain: caller.chain.iter().take(LIST_ENTRIES_MAX).map(link).collect(),
            subject_issuer: caller.subject_issuer().map(|issuer| text(issuer, hide_issuer)),
            via: caller.via.as_deref().map(bounded_list).unwrap_or_default(),
            roles: roles.to_vec(),
            scopes: bounded_list(&caller.scopes),
            groups: texts(&caller.groups, hide_groups),
            token_roles: texts(&caller.roles, hide_roles),
            acr: caller.acr.as_deref().map(|acr| text(acr, hide_acr)),
            auth_time: caller.authenticated_at.map(|at| at.to_string()),
            bound: caller.bound_to().map_or("none", Bound::as_str),
            claims,
            redacted,
        }
    }

    /// What its longer parts take: those that callers choose.
    pub fn bytes(&self) -> usize {
        let chain =
            self.chain.iter().map(|link| link.subject.len() + link.issuer.as_deref().map_or(0, str::len));
        let words = self.groups.iter().chain(&self.token_roles).chain(&self.acr);
        let words = words.chain(&self.via).chain(&self.subject_issuer).map(String::len);
        chain.chain(words).sum::<usize>()
            + self.claims.iter().map(|(name, value)| name.len() + bytes(value)).sum::<usize>()
    }
}

fn bytes(claim: &Value) -> usize {
    match claim {
        Value::String(text) => text.len(),
        Value::Array(members) => members.iter().map(|member| size_of::<Value>() + bytes(member)).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// A text, or `sha256:` and its hash.
fn text(text: &str, hide: bool) -> String {
    if hide { hashed(text) } else { bounded(text) }
}

fn texts(list: &[std::sync::Arc<str>], hide: bool) -> Vec<String> {
    if !hide {
        return bounded_list(list);
    }
    bounded_list(&list.iter().map(|entry| hashed(entry)).collect::<Vec<_>>())
}

/// What stands for a redacted text.
pub fn hashed(text: &str) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, text.as_bytes())))
}

/// A claim as far as a condition can read it: nothing equals an object, nor what a list holds besides texts,
/// numbers and booleans.
fn told(claim: &Value, hide: bool) -> Value {
    match claim {
        Value::String(content) => text(content, hide).into(),
        Value::Number(number) if hide => hashed(&number.to_string()).into(),
        Value::Array(members) => {
            let one = |member: &Value| match member {
                Value::Array(_) | Value::Object(_) => Value::Null,
                scalar => told(scalar, hide),
            };
            let mut kept: Vec<Value> = members.iter().take(LIST_ENTRIES_MAX).map(one).collect();
            if members.len() > LIST_ENTRIES_MAX {
                kept.push(format!("…[{} more]", members.len() - LIST_ENTRIES_MAX).into());
            }
            kept.into()
        }
        Value::Object(_) => Map::new().into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => claim.clone(),
    }
}

/// Puts a claim at its place, unless what stands above it is no object.
fn put(claims: &mut Map<String, Value>, path: &ClaimPath, value: Value) {
    let Some((last, above)) = path.0.split_last() else { return };
    let mut place = claims;
    for name in above {
        let inner = place.entry(name.to_string()).or_insert_with(|| Map::new().into());
        let Value::Object(inner) = inner else { return };
        place = inner;
    }
    place.entry(last.to_string()).or_insert(value);
}
