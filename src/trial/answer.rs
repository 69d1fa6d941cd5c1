//! What becomes of a [`Question`](super::Question): what the client gets, what the upstream gets, what is
//! recorded, and what the policy judged.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::response::Parts as AnswerParts;
use http::{HeaderMap, StatusCode};

use crate::audit::record::RequestRecord;
use crate::audit::{Reason, RefusedHandshake, Verdict};
use crate::clock::Timestamp;
use crate::decisions::Judged;
use crate::policy::{self, Decision, Standing};
use crate::proxy::connection::Telling;
use crate::proxy::judgement::{Signatures, Whence};
use crate::proxy::normalize::Asked;

#[derive(Debug)]
pub enum Answer {
    /// The TLS handshake fails: no HTTP is spoken, and the record is one of a handshake.
    Handshake(RefusedHandshake),
    Http(Box<Answered>),
}

#[derive(Debug)]
pub struct Answered {
    /// As it would be written; `id`, times and `cache` mean nothing.
    pub record: RequestRecord,
    /// The head of the proxy's own answer; `None` where the request is passed on.
    pub answer: Option<AnswerParts>,
    /// Of a request that is passed on: its head as the upstream gets it.
    pub onward: Option<Parts>,
    /// What the policy was asked, unless the request ended before.
    pub case: Option<Case>,
}

/// What the policy was asked, and what it said: for whoever wants to read more out of it.
#[derive(Debug)]
pub struct Case {
    pub asked: Asked,
    /// As the request had them when it was judged.
    pub headers: HeaderMap,
    pub signatures: Signatures,
    pub from: Whence,
    pub now: Timestamp,
    pub decision: Decision,
    pub(super) judged: Arc<Judged<Telling>>,
}

impl Case {
    pub fn request(&self) -> policy::Request<'_> {
        self.signatures.ask(&self.asked, &self.headers, &self.from, self.now)
    }

    pub fn standing(&self) -> &Standing {
        &self.judged.standing
    }
}

impl Answer {
    pub fn verdict(&self) -> Verdict {
        match self {
            Answer::Handshake(_) => Verdict::Deny,
            Answer::Http(answered) => answered.record.verdict,
        }
    }

    pub fn reason(&self) -> Reason {
        match self {
            Answer::Handshake(refused) => refused.reason,
            Answer::Http(answered) => answered.record.reason,
        }
    }

    /// Where several reasons apply, all of them.
    pub fn also(&self) -> &[Reason] {
        self.record().map_or(&[], |record| &record.also)
    }

    /// What exactly was wrong with what was presented.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Answer::Handshake(refused) => Some(&refused.detail),
            Answer::Http(answered) => answered.record.detail.as_deref(),
        }
    }

    /// The allow that permits, or the deny or require that denies.
    pub fn rule(&self) -> Option<&str> {
        self.record()?.rule.as_deref()
    }

    /// What the client gets; `None` where the handshake fails, or where it is up to the upstream.
    pub fn status(&self) -> Option<StatusCode> {
        self.http()?.answer.as_ref().map(|answer| answer.status)
    }

    /// `WWW-Authenticate`.
    pub fn challenge(&self) -> Option<&str> {
        self.http()?.answer.as_ref()?.headers.get(WWW_AUTHENTICATE)?.to_str().ok()
    }

    pub fn record(&self) -> Option<&RequestRecord> {
        self.http().map(|answered| &answered.record)
    }

    pub fn case(&self) -> Option<&Case> {
        self.http()?.case.as_ref()
    }

    pub fn http(&self) -> Option<&Answered> {
        match self {
            Answer::Handshake(_) => None,
            Answer::Http(answered) => Some(answered),
        }
    }
}
