//! Who and what is revoked before it ends by itself: tokens, subjects and clients of an issuer, workloads,
//! certificates. Pure; asked after both signatures were verified, since nobody else's word is worth a look.
//!
//! An entry names one thing exactly: there are no patterns, and a subject or client means nothing without its
//! issuer. A person who is revoked is so wherever she stands in a token, also as somebody who acts for others.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::identity::{Caller, CertificateHash, Confirmation, Name, Peer, PeerName, SpiffeId};

/// A list of what is revoked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revocations {
    issuers: HashMap<Name, OfIssuer>,
    workloads: HashMap<SpiffeId, Entry>,
    certificates: HashMap<CertificateHash, Entry>,
    idle: Vec<Idle>,
}

/// An entry that revokes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    pub line: usize,
    /// As "since …".
    pub why: String,
}

/// What is revoked of one issuer's.
#[derive(Clone, Debug, Default, PartialEq)]
struct OfIssuer {
    tokens: HashMap<Arc<str>, Entry>,
    subjects: HashMap<Arc<str>, Entry>,
    clients: HashMap<Arc<str>, Entry>,
}

/// What is said of one thing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// From then on it is revoked no longer.
    pub until: Option<Timestamp>,
    /// For the record.
    pub reason: Option<Arc<str>>,
}

/// One thing that can be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `jti`. A token without one cannot be revoked by it.
    Token {
        issuer: Name,
        id: Arc<str>,
    },
    Subject {
        issuer: Name,
        name: Arc<str>,
    },
    Client {
        issuer: Name,
        name: Arc<str>,
    },
    Workload(SpiffeId),
    Certificate(CertificateHash),
}

/// How many entries there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tokens: usize,
    pub subjects: usize,
    pub clients: usize,
    pub workloads: usize,
    pub certificates: usize,
}

/// Why somebody is refused: what of his is on the list, and what the list says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    what: &'static str,
    reason: Option<Arc<str>>,
}

impl Revocations {
    /// The later entry counts, of two for one thing.
    pub fn add(&mut self, target: Target, entry: Entry) {
        match target {
            Target::Token { issuer, id } => self.of(issuer).tokens.insert(id, entry),
            Target::Subject { issuer, name } => self.of(issuer).subjects.insert(name, entry),
            Target::Client { issuer, name } => self.of(issuer).clients.insert(name, entry),
            Target::Workload(id) => self.workloads.insert(id, entry),
            Target::Certificate(hash) => self.certificates.insert(hash, entry),
        };
    }

    pub fn add_idle(&mut self, idle: Idle) {
        self.idle.push(idle);
    }

    /// The entries that revoke nothing.
    pub fn idle(&self) -> &[Idle] {
        &self.idle
    }

    fn of(&mut self, issuer: Name) -> &mut OfIssuer {
        self.issuers.entry(issuer).or_default()
    }

    pub fn counts(&self) -> Counts {
        let of_issuers = |count: fn(&OfIssuer) -> usize| self.issuers.values().map(count).sum();
        Counts {
            tokens: of_issuers(|of| of.tokens.len()),
            subjects: of_issuers(|of| of.subjects.len()),
            clients: of_issuers(|of| of.clients.len()),
            workloads: self.workloads.len(),
            certificates: self.certificates.len(),
        }
    }

    /// Then nobody needs to ask.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty() && self.workloads.is_empty() && self.certificates.is_empty()
    }

    /// Whether the service is revoked: by its certificate or by its name.
    pub fn peer(&self, peer: &Peer, now: Timestamp) -> Option<Revoked> {
        let id = match &peer.name {
            PeerName::Spiffe(id) => Some(id),
            PeerName::Dns { .. } => None,
        };
        self.holder(&peer.certificate, id, now)
    }

    /// The same of whoever holds a certificate, in which he may be called by a SPIFFE ID.
    pub fn holder(
        &self,
        certificate: &CertificateHash,
        id: Option<&SpiffeId>,
        now: Timestamp,
    ) -> Option<Revoked> {
        let certificate = found(&self.certificates, certificate, now, "the certificate");
        certificate.or_else(|| found(&self.workloads, id?, now, "the SPIFFE ID"))
    }

    /// Whether the caller is revoked: the token, whom it is for, who acts for her, the client that it was issued to, or
    /// the certificate that it is bound to, whoever has taken that one's place. `first` are those who may have named the
    /// caller first, where another Countersign vouches for it.
    pub fn caller<'n>(
        &self,
        caller: &'n Caller,
        first: impl IntoIterator<Item = &'n Name>,
        now: Timestamp,
    ) -> Option<Revoked> {
        let mut issuers = [&caller.issuer].into_iter().chain(first);
        issuers.find_map(|issuer| self.named(issuer, caller, now)).or_else(|| {
            let Some(Confirmation::Certificate(bound)) = caller.confirmation else { return None };
            let what = "the certificate that the token is bound to";
            found(&self.certificates, &CertificateHash(bound), now, what)
        })
    }

    /// By what its own issuer says, or the one that named it first.
    fn named(&self, issuer: &Name, caller: &Caller, now: Timestamp) -> Option<Revoked> {
        let OfIssuer { tokens, subjects, clients } = self.issuers.get(issuer)?;
        let token = caller.token_id.as_deref().and_then(|id| found(tokens, id, now, "the token's `jti`"));
        let subject = || found(subjects, caller.subject.as_deref()?, now, "the token's subject");
        let client = || found(clients, caller.client.as_deref()?, now, "the token's client");
        let actor =
            || caller.actors().find_map(|actor| found(subjects, actor, now, "one who acts in the token"));
        token.or_else(subject).or_else(client).or_else(actor)
    }
}

fn found<K, Q>(entries: &HashMap<K, Entry>, key: &Q, now: Timestamp, what: &'static str) -> Option<Revoked>
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    let entry = entries.get(key).filter(|entry| entry.until.is_none_or(|until| now < until))?;
    Some(Revoked { what, reason: entry.reason.clone() })
}

impl Counts {
    pub fn sum(&self) -> usize {
        let Counts { tokens, subjects, clients, workloads, certificates } = self;
        tokens + subjects + clients + workloads + certificates
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: it revokes nothing{}", self.line, self.why)
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is on the revocation list", self.what)?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}
