//! How long the CAs of a trust domain can vouch for anybody. What is found out once is of no moment; whether a
//! CA has ended is then asked of the present one.

use std::fmt;

use rustls::DistinguishedName;
use rustls::crypto::WebPkiSupportedAlgorithms;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::domain::Domain;
use crate::clock::Timestamp;

/// The CAs of a trust domain, and those that its revocation lists are of.
#[derive(Debug)]
pub struct Standing {
    cas: Vec<Ca>,
    /// When the first of its revocation lists must have a successor; `None` without lists.
    pub next_update: Option<Timestamp>,
}

#[derive(Debug)]
struct Ca {
    name: String,
    /// Every path ends at one of these, where they are known.
    is_anchor: bool,
    not_after: Timestamp,
    list: List,
}

#[derive(Clone, Copy, Debug)]
enum List {
    NotAskedFor,
    Missing,
    Until(Timestamp),
}

/// A CA that vouches for nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Its subject.
    pub ca: String,
    pub why: Why,
}

/// Why a CA vouches for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Expired(Timestamp),
    /// Lists are given, and none of them has its name and its signature.
    NoList,
    ListExpired(Timestamp),
}

impl Standing {
    pub(super) fn of(domain: &Domain, algorithms: &WebPkiSupportedAlgorithms) -> Standing {
        let lists = &domain.lists;
        let mut cas = Vec::new();
        for (anchor, not_after) in domain.cas.iter().flat_map(|cas| cas.ends()) {
            let list = match lists.end_of(anchor, algorithms) {
                _ if lists.crls.is_empty() => List::NotAskedFor,
                Some(end) => List::Until(end),
                None => List::Missing,
            };
            cas.push(Ca { name: name(&anchor.subject), is_anchor: true, not_after, list });
        }
        let anchors = domain.anchors();
        let below = lists.ends().filter(|(issuer, _)| anchors.iter().all(|it| *it.subject != **issuer));
        cas.extend(below.map(|(issuer, end)| Ca {
            name: name(issuer),
            is_anchor: false,
            not_after: Timestamp::MAX,
            list: List::Until(end),
        }));
        let next_update = lists.ends().map(|(_, end)| end).min();
        Standing { cas, next_update }
    }

    /// The CAs that vouch for nobody now. One that has ended is left beside others without harm: what it issued
    /// has ended, too.
    pub fn idle(&self, now: Timestamp) -> impl Iterator<Item = Idle> {
        let all = self.is_idle(now);
        let idle =
            self.cas.iter().filter_map(move |ca| Some(Idle { ca: ca.name.clone(), why: ca.idle(now)? }));
        idle.filter(move |idle| all || !matches!(idle.why, Why::Expired(_)))
    }

    /// Whether no CA vouches for anybody now, whatever it issued.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        let knows_anchors = self.cas.iter().any(|ca| ca.is_anchor);
        let mut counting = self.cas.iter().filter(|ca| ca.is_anchor || !knows_anchors).peekable();
        counting.peek().is_some() && counting.all(|ca| ca.idle(now).is_some())
    }
}

impl Ca {
    fn idle(&self, now: Timestamp) -> Option<Why> {
        match self.list {
            _ if self.not_after <= now => Some(Why::Expired(self.not_after)),
            List::Missing => Some(Why::NoList),
            List::Until(end) if end <= now => Some(Why::ListExpired(end)),
            List::Until(_) | List::NotAskedFor => None,
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Idle { ca, why } = self;
        match why {
            Why::Expired(at) => write!(f, "CA `{ca}` expired at {at}"),
            Why::NoList => write!(f, "CA `{ca}` has no revocation list here, and needs one"),
            Why::ListExpired(at) => {
                write!(f, "the revocation list of CA `{ca}` should have been renewed at {at}")
            }
        }
    }
}

/// As people read it. `subject` is DER without its tag.
fn name(subject: &[u8]) -> String {
    let whole = DistinguishedName::in_sequence(subject);
    let name = X509Name::from_der(whole.as_ref()).map(|(_, name)| name.to_string());
    name.unwrap_or_default().escape_debug().to_string()
}
