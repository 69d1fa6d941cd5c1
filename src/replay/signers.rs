//! Both signatures, read back from a record.
//!
//! A record may hold less than the policy wants to know: a claim that was not read then, a list that was cut, a hash.
//! Then the caller was one of several, and each of them is judged: what all of them come to is certain.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::named::Named;
use super::why::Why;
use crate::audit::line::{LIST_ENTRIES_MAX, TEXT_BYTES_MAX};
use crate::clock::Timestamp;
use crate::identity::{
    ActorKind, Caller, CertificateHash, Confirmation, Delegate, Hop, Peer, PeerName, SUBJECT_ISSUER,
};
use crate::policy::claim::ClaimPath;
use crate::token::ClaimMap;

/// `peer` of a record.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash)]
pub struct PeerLine {
    /// What it was called then.
    pub service: Option<String>,
    pub spiffe_id: Option<String>,
    pub dns_names: Vec<String>,
    pub trust_domain: String,
    certificate: String,
    hop: String,
}

/// `caller` of a record.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash)]
pub struct CallerLine {
    pub issuer: String,
    pub subject: Option<String>,
    client: Option<String>,
    pub actor: String,
    pub on_behalf_of: String,
    chain: Vec<Link>,
    #[serde(default)]
    subject_issuer: Option<String>,
    /// The configured ones that it had then.
    #[serde(default)]
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    #[serde(default)]
    groups: Option<Vec<String>>,
    #[serde(default)]
    token_roles: Option<Vec<String>>,
    #[serde(default)]
    acr: Option<String>,
    #[serde(default)]
    auth_time: Option<String>,
    #[serde(default)]
    bound: Option<String>,
    #[serde(default)]
    claims: Option<Map<String, Value>>,
    #[serde(default)]
    redacted: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash)]
struct Link {
    subject: String,
    #[serde(default)]
    issuer: Option<String>,
}

/// Whom a record may speak of.
#[derive(Debug)]
pub struct Callers {
    /// Never empty; the first has nothing but what is known.
    pub all: Vec<Caller>,
    /// Why there are several.
    pub whys: Vec<Why>,
    /// Whether they would be others if another path had been asked for.
    pub is_of_path: bool,
}

/// More than these are not told apart.
const CALLERS_MAX: usize = 64;

impl PeerLine {
    /// What it was called then, else what it is.
    pub fn name(&self) -> String {
        self.service.clone().or_else(|| self.spiffe_id.clone()).unwrap_or_else(|| self.dns_names.join(" "))
    }

    pub fn read(&self) -> Result<Peer, Why> {
        let trust_domain = self.trust_domain.parse().map_err(|_| Why::Form("peer.trust_domain"))?;
        let name = match &self.spiffe_id {
            Some(id) => PeerName::Spiffe(id.parse().map_err(|_| Why::Form("peer.spiffe_id"))?),
            None if is_cut(&self.dns_names) => return Err(Why::Cut("the list of DNS names")),
            None => PeerName::Dns {
                names: self.dns_names.iter().map(|name| name.as_str().into()).collect(),
                trust_domain,
            },
        };
        let mut certificate = [0; 32];
        let hex = self.certificate.strip_prefix("sha256:").unwrap_or_default();
        hex::decode_to_slice(hex, &mut certificate).map_err(|_| Why::Form("peer.certificate"))?;
        let hop = match self.hop.as_str() {
            "direct" => Hop::Direct,
            "local" => Hop::Local,
            name => Hop::Trusted(name.parse().map_err(|_| Why::Form("peer.hop"))?),
        };
        Ok(Peer { name, certificate: CertificateHash(certificate), not_after: Timestamp::MAX, hop })
    }
}

impl CallerLine {
    /// As `alice@corp`.
    pub fn name(&self) -> String {
        let word = self.subject.as_deref().or(self.client.as_deref()).unwrap_or("a caller");
        format!("{word}@{}", self.issuer)
    }

    pub fn client(&self) -> Option<&String> {
        self.client.as_ref()
    }

    pub fn groups(&self) -> &[String] {
        self.groups.as_deref().unwrap_or_default()
    }

    pub fn token_roles(&self) -> &[String] {
        self.token_roles.as_deref().unwrap_or_default()
    }

    pub fn claims(&self) -> Option<&Map<String, Value>> {
        self.claims.as_ref()
    }

    /// Whether the token has `act`.
    pub fn acts_for_another(&self) -> bool {
        !self.chain.is_empty()
    }

    /// Whom it may speak of, given what the policy names and the path that was asked for.
    pub fn read(&self, map: &ClaimMap, named: &Named, segments: &[Cow<'_, str>]) -> Result<Callers, Why> {
        let redacted = self.redacted.as_ref().ok_or(Why::Form("caller.redacted"))?;
        let text = |text: &str| -> Arc<str> {
            let hash = !redacted.is_empty() && is_hash(text);
            hash.then(|| named.reveal(text, segments)).flatten().unwrap_or_else(|| text.into())
        };
        let list = |texts: &[String]| texts.iter().map(|entry| text(entry)).collect::<Vec<_>>();
        let groups = self.groups.as_ref().ok_or(Why::Form("caller.groups"))?;
        let token_roles = self.token_roles.as_ref().ok_or(Why::Form("caller.token_roles"))?;
        let word = |what, word: &Option<String>| match word {
            Some(long) if long.len() > TEXT_BYTES_MAX => Err(Why::Cut(what)),
            word => Ok(word.as_deref().map(text)),
        };
        let (subject, client) = (word("the subject", &self.subject)?, word("the client", &self.client)?);
        let acr = word("`acr`", &self.acr)?;
        let mut claims = self.claims.clone().ok_or(Why::Form("caller.claims"))?;
        reveal(&mut claims, redacted, &text);
        // The same values stand in a token where the issuer's words are read from.
        for (path, word) in
            [(Some(&map.subject), &subject), (map.client.as_ref(), &client), (acr_path().as_ref(), &acr)]
        {
            if let Some(path) = path
                && matches!(known(&claims, path), Known::No)
            {
                put(&mut claims, path, word.as_deref().map_or(Value::Null, Value::from));
            }
        }
        // Whoever has none may have been recorded before it was.
        let subject_issuer = ClaimPath::top_level(SUBJECT_ISSUER);
        if let Some(issuer) = self.subject_issuer.as_deref().filter(|issuer| issuer.len() <= TEXT_BYTES_MAX)
            && matches!(known(&claims, &subject_issuer), Known::No)
        {
            put(&mut claims, &subject_issuer, (*text(issuer)).into());
        }
        let auth_time = self.auth_time.as_deref().map(str::parse).transpose();
        let base = Caller {
            issuer: self.issuer.parse().map_err(|_| Why::Form("caller.issuer"))?,
            subject,
            client,
            scopes: list(&self.scopes),
            groups: list(groups),
            roles: list(token_roles),
            actor: kind(&self.actor)?,
            on_behalf_of: kind(&self.on_behalf_of)?,
            chain: self.chain.iter().map(|link| link.read(&text)).collect::<Result<_, _>>()?,
            expires: Timestamp::MAX,
            believed_until: None,
            authenticated_at: auth_time.map_err(|_| Why::Form("caller.auth_time"))?,
            acr,
            // To which one is not recorded, and nobody asks.
            confirmation: match self.bound.as_deref() {
                Some("none") => None,
                Some("certificate") => Some(Confirmation::Certificate([0; 32])),
                Some("key") => Some(Confirmation::Key([0; 32])),
                _ => return Err(Why::Form("caller.bound")),
            },
            via: None,
            token_id: None,
            claims,
            token_hash: [0; 32],
        };
        self.others(base, map, named, segments)
    }

    /// Beside what is known, all that may be.
    fn others(
        &self,
        base: Caller,
        map: &ClaimMap,
        named: &Named,
        segments: &[Cow<'_, str>],
    ) -> Result<Callers, Why> {
        let redacted = self.redacted.as_deref().unwrap_or_default();
        let (mut whys, mut is_of_path) = (Vec::new(), !redacted.is_empty());
        let mut fullest = base.clone();
        for claim in &named.claims {
            let seen = known(&base.claims, &claim.path);
            whys.extend(match seen {
                Known::No => Some(Why::Claim(claim.path.to_string())),
                Known::Value(Value::Array(members)) if is_cut_claim(members) => {
                    Some(Why::Cut("a claim's list"))
                }
                Known::Value(value) if claim.begins && !redacted.is_empty() && has_hash(value) => {
                    Some(Why::Redacted(claim.path.to_string()))
                }
                Known::Value(_) | Known::Absent => continue,
            });
            let seen = if let Known::Value(value) = seen { Some(value) } else { None };
            is_of_path |= claim.matched;
            replace(&mut fullest.claims, &claim.path, claim.fulfilled(seen, segments));
        }
        let lists = [
            (&self.scopes, &mut fullest.scopes, &named.scopes, "the list of scopes"),
            (
                self.groups.as_ref().unwrap_or(&self.scopes),
                &mut fullest.groups,
                &named.groups,
                "the list of groups",
            ),
            (
                self.token_roles.as_ref().unwrap_or(&self.scopes),
                &mut fullest.roles,
                &named.roles,
                "the list of the token's roles",
            ),
        ];
        for (recorded, full, named, what) in lists {
            if is_cut(recorded) && !named.is_empty() {
                whys.push(Why::Cut(what));
                full.extend(named.iter().cloned());
            }
        }
        let mut all = vec![base];
        if !whys.is_empty() {
            all.push(fullest);
        }
        let hidden = |word: Option<&str>| !redacted.is_empty() && word.is_some_and(is_hash);
        let top = |path: &ClaimPath| path.to_string();
        let is_hidden = |caller: &Caller| {
            [
                hidden(caller.subject.as_deref()),
                hidden(caller.client.as_deref()),
                hidden(caller.chain.first().map(|link| &*link.subject)),
            ]
        };
        let [subject, client, acting] = is_hidden(&all[0]);
        if subject && !named.subjects.is_empty() {
            whys.push(Why::Redacted(top(&map.subject)));
            each(&mut all, &named.subjects, |caller, start| caller.subject = Some(start));
        }
        if client && !named.clients.is_empty() {
            whys.push(Why::Redacted(map.client.as_ref().map_or_else(String::new, top)));
            each(&mut all, &named.clients, |caller, start| caller.client = Some(start));
        }
        if acting && !named.acting.is_empty() {
            whys.push(Why::Redacted("act".to_owned()));
            each(&mut all, &named.acting, |caller, start| {
                caller.chain.iter_mut().take(1).for_each(|link| link.subject = Arc::clone(&start));
            });
        }
        match all.len() {
            ..=CALLERS_MAX => Ok(Callers { all, whys, is_of_path }),
            _ => Err(whys.swap_remove(0)),
        }
    }
}

impl Link {
    fn read(&self, text: &impl Fn(&str) -> Arc<str>) -> Result<Delegate, Why> {
        if self.subject.len() > TEXT_BYTES_MAX {
            return Err(Why::Cut("an actor's subject"));
        }
        Ok(Delegate { subject: text(&self.subject), issuer: self.issuer.as_deref().map(Arc::from) })
    }
}

/// Each caller as it is, and once for each start.
fn each(
    all: &mut Vec<Caller>,
    starts: &std::collections::BTreeSet<Arc<str>>,
    set: impl Fn(&mut Caller, Arc<str>),
) {
    let mut more = Vec::new();
    for caller in all.iter() {
        for start in starts {
            let mut other = caller.clone();
            set(&mut other, Arc::clone(start));
            more.push(other);
        }
    }
    all.extend(more);
}

fn kind(text: &str) -> Result<ActorKind, Why> {
    ActorKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(Why::Form("caller.actor"))
}

fn acr_path() -> Option<ClaimPath> {
    Some(ClaimPath::top_level("acr"))
}

/// What a record says of a claim.
#[derive(Clone, Copy, Debug)]
pub enum Known<'c> {
    /// Nothing.
    No,
    /// That the token has none, or none that fulfils anything.
    Absent,
    Value(&'c Value),
}

/// What is known of the claim at `path`. An object shows only those members that were read.
pub fn known<'c>(claims: &'c Map<String, Value>, path: &ClaimPath) -> Known<'c> {
    let mut members = claims;
    let mut names = path.0.iter().peekable();
    while let Some(name) = names.next() {
        match (members.get(&**name), names.peek().is_some()) {
            (None, _) => return Known::No,
            (Some(Value::Object(inner)), true) => members = inner,
            (Some(Value::Object(inner)), false) => {
                return if inner.is_empty() { Known::Absent } else { Known::No };
            }
            (Some(Value::Null), _) | (Some(_), true) => return Known::Absent,
            (Some(value), false) => return Known::Value(value),
        }
    }
    Known::No
}

/// Puts a claim at its place, if nothing that stands above it is in the way.
fn put(claims: &mut Map<String, Value>, path: &ClaimPath, value: Value) {
    place(claims, path, |members, name| _ = members.entry(name).or_insert(value));
}

fn replace(claims: &mut Map<String, Value>, path: &ClaimPath, value: Value) {
    place(claims, path, |members, name| _ = members.insert(name, value));
}

fn place(
    claims: &mut Map<String, Value>,
    path: &ClaimPath,
    set: impl FnOnce(&mut Map<String, Value>, String),
) {
    let Some((last, above)) = path.0.split_last() else { return };
    let mut members = claims;
    for name in above {
        let inner = members.entry(name.to_string()).or_insert_with(|| Map::new().into());
        let Value::Object(inner) = inner else { return };
        members = inner;
    }
    set(members, last.to_string());
}

/// Puts texts in the place of their hashes.
fn reveal(claims: &mut Map<String, Value>, redacted: &[String], text: &impl Fn(&str) -> Arc<str>) {
    for name in redacted {
        if let Some(claim) = claims.get_mut(name) {
            reveal_in(claim, text);
        }
    }
}

fn reveal_in(claim: &mut Value, text: &impl Fn(&str) -> Arc<str>) {
    match claim {
        Value::String(content) => *content = text(content).to_string(),
        Value::Array(members) => members.iter_mut().for_each(|member| reveal_in(member, text)),
        Value::Object(members) => members.values_mut().for_each(|member| reveal_in(member, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_hash(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn has_hash(claim: &Value) -> bool {
    match claim {
        Value::String(text) => is_hash(text),
        Value::Array(members) => members.iter().any(has_hash),
        _ => false,
    }
}

/// Whether a recorded list says that it is not whole, or a text of it.
fn is_cut(list: &[String]) -> bool {
    list.len() > LIST_ENTRIES_MAX || list.iter().any(|text| text.len() > TEXT_BYTES_MAX)
}

fn is_cut_claim(members: &[Value]) -> bool {
    members.len() > LIST_ENTRIES_MAX
        || members.iter().any(|member| member.as_str().is_some_and(|text| text.len() > TEXT_BYTES_MAX))
}
