//! The record of one request while the request is under way.
//!
//! A draft is filled as the exchange goes and written exactly once: by [`Draft::finish`] when the
//! answer is complete, or, if the request's future goes away before that, by its drop, as
//! `client_gone`, or if we broke its connection off, by why we did: [`Cut`], or `limit_exceeded` at the
//! drain's deadline. What the draft was told by the steps themselves decides verdict and reason; the exchange states neither, so what is
//! logged cannot differ from what was done.

mod decided;

use std::mem;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use ulid::Ulid;

use super::line::bounded;
use super::part::Part;
use super::record::{
    ActionRecord, Check, Checks, ConnectionRecord, HopRecord, PeerRecord, Protocol, RequestRecord, Signers,
    Verdict,
};
use super::sink::{AuditUnavailable, Slot};
use super::{Audit, Reason};
use crate::clock::Stopwatch;
use crate::identity::{Caller, Name, Peer, Signature};
use crate::metrics::Limit;
use crate::policy::{Host, NormalPath, Permit, Policy};

/// What is known of a request when its head is complete.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Absent if the head could not be read.
    pub method: Option<&'a Method>,
    pub listener: &'a Name,
    pub protocol: Protocol,
    /// The other end of the connection, after the PROXY protocol.
    pub peer_ip: Option<IpAddr>,
    /// The client as trusted hops tell it.
    pub client_ip: Option<IpAddr>,
    pub cut: &'a Arc<Cut>,
}

/// Why we broke a connection off, in a reason and in words; nothing as long as we did not.
pub type Cut = OnceLock<(Reason, String)>;

/// The record of a request under way.
#[derive(Debug)]
#[must_use = "dropping a draft records that the client went away"]
pub struct Draft {
    audit: Audit,
    id: Ulid,
    /// Absent once it is handed over.
    record: Option<Box<RequestRecord>>,
    peer: Option<Arc<Peer>>,
    services: Option<Arc<[Name]>>,
    caller: Option<Arc<Caller>>,
    roles: Option<Arc<[Name]>>,
    /// What the record says of them, once that is made.
    signers: Option<Signers>,
    /// Everything that speaks against the request, in the order it was found.
    reasons: Vec<Reason>,
    /// Of a permit: the reason that stands if nothing speaks against it.
    granted: Option<Reason>,
    /// A permit was acted upon, or what we answered is for everybody.
    passed: bool,
    slot: Option<Slot>,
    watch: Stopwatch,
    cut: Arc<Cut>,
}

impl Draft {
    pub(super) fn new(audit: Audit, arrival: Arrival<'_>) -> Draft {
        let head = audit.head();
        let record = RequestRecord {
            time: head.time,
            id: head.id,
            proxy: head.proxy,
            verdict: Verdict::Deny,
            reason: Reason::Internal,
            also: Vec::new(),
            detail: None,
            rule: None,
            owner: None,
            ticket: None,
            near_miss: None,
            would_allow: Vec::new(),
            would_deny: Vec::new(),
            unenforced: Vec::new(),
            checks: Checks { peer: Check::NotReached, caller: Check::NotReached },
            peer: None,
            caller: None,
            action: ActionRecord {
                method: arrival.method.map(|method| bounded(method.as_str())),
                ..ActionRecord::default()
            },
            connection: ConnectionRecord {
                listener: arrival.listener.clone(),
                protocol: arrival.protocol,
                peer_ip: arrival.peer_ip,
                client_ip: arrival.client_ip,
                hop: None,
            },
            status: None,
            upstream: None,
            request_bytes: 0,
            response_bytes: 0,
            policy: None,
            ended_by: None,
            cache: None,
            decision_us: None,
            total_us: 0,
            trace: None,
        };
        Draft {
            audit,
            id: record.id,
            record: Some(Box::new(record)),
            peer: None,
            services: None,
            caller: None,
            roles: None,
            signers: None,
            reasons: Vec::new(),
            granted: None,
            passed: false,
            slot: None,
            watch: Stopwatch::start(),
            cut: Arc::clone(arrival.cut),
        }
    }

    /// The decision's id: in the record, in refusals, and upstream.
    pub fn id(&self) -> Ulid {
        self.id
    }

    fn note(&mut self, what: impl FnOnce(&mut RequestRecord)) {
        if let Some(record) = &mut self.record {
            what(record);
        }
    }

    /// The `traceparent` that came, and then the one that goes upstream.
    pub fn trace(&mut self, traceparent: &str) {
        self.note(|record| record.trace = Some(bounded(traceparent)));
    }

    /// The `traceparent` so far, if there is one.
    pub fn traced(&self) -> Option<&str> {
        self.record.as_ref()?.trace.as_deref()
    }

    /// What is asked for, in normal form, and whether its content type is gRPC's.
    pub fn asked(&mut self, host: &Host, path: &NormalPath, grpc: bool) {
        self.note(|record| {
            record.action.grpc = grpc;
            record.action.host = Some(host.clone());
            record.action.path = Some(bounded(path.as_str()));
        });
    }

    /// The request is not of whoever is at the other end of its connection: that is a trusted hop, which tells of
    /// others. `client_ip` is not known where it tells none.
    pub fn came_through(&mut self, hop: HopRecord, client_ip: Option<IpAddr>) {
        self.note(|record| {
            record.connection.client_ip = client_ip;
            record.connection.hop = Some(hop);
        });
    }

    /// From where the client asked, as the Countersign tells it that is at the other end.
    pub fn client(&mut self, client_ip: Option<IpAddr>) {
        self.note(|record| record.connection.client_ip = client_ip);
    }

    /// What became of the certificate; a failure is a reason.
    pub fn peer(&mut self, outcome: Result<&Signature<Peer>, Reason>) {
        let check = self.check(&outcome);
        self.note(|record| record.checks.peer = check);
        self.peer = verified(outcome);
    }

    /// What the policy calls the peer.
    pub fn named(&mut self, services: &Arc<[Name]>) {
        self.services = Some(Arc::clone(services));
    }

    /// What became of the token; a failure is a reason.
    pub fn caller(&mut self, outcome: Result<&Signature<Caller>, Reason>) {
        let check = self.check(&outcome);
        self.note(|record| record.checks.caller = check);
        self.caller = verified(outcome);
    }

    /// Who was verified is on the revocation list: a reason, but the record says all the same who it is.
    pub fn revoked(&mut self, peer: bool, caller: bool) {
        for (is_revoked, reason) in [(peer, Reason::PeerRevoked), (caller, Reason::TokenRevoked)] {
            if is_revoked {
                self.reasons.push(reason);
                self.note(|record| match reason {
                    Reason::PeerRevoked => record.checks.peer = Check::Failed(reason),
                    _ => record.checks.caller = Check::Failed(reason),
                });
            }
        }
    }

    /// What the record says of both signatures, for later ones that rest on the same standing. `same_peer` is what
    /// an earlier one said of this peer.
    ///
    /// To be called once both are told, and the decision if there is one: without it, the record says nothing of them.
    pub fn signers(&mut self, same_peer: Option<Part<PeerRecord>>, policy: &Policy) -> Signers {
        let Draft { peer, services, caller, roles, .. } = self;
        let (services, roles) =
            (services.as_deref().unwrap_or_default(), roles.as_deref().unwrap_or_default());
        let made = || Signers::new(peer.as_deref(), same_peer, services, caller.as_deref(), roles, policy);
        self.signers.get_or_insert_with(made).clone()
    }

    /// From an earlier record that rested on the same standing.
    pub fn signed_by(&mut self, signers: Signers) {
        self.signers = Some(signers);
    }

    fn check<T>(&mut self, outcome: &Result<&Signature<T>, Reason>) -> Check {
        match outcome {
            Ok(Signature::Verified(_)) => Check::Ok,
            Ok(Signature::Absent) => Check::Absent,
            Err(reason) => {
                self.reasons.push(*reason);
                Check::Failed(*reason)
            }
        }
    }

    /// To be called before the permit is acted upon: takes the record's place in the queue.
    /// Without one nothing may be forwarded, and that is this request's reason.
    pub fn forwarding(&mut self, _: &Permit) -> Result<(), AuditUnavailable> {
        self.reserve()
    }

    /// To be called before a refusal is answered: waits until there is room for its record.
    pub async fn room(&mut self) {
        if self.slot.is_none() {
            self.slot = Some(self.audit.sink().await_refusal().await);
        }
    }

    fn reserve(&mut self) -> Result<(), AuditUnavailable> {
        match self.audit.sink().reserve() {
            Ok(slot) => {
                self.slot = Some(slot);
                self.passed = true;
                Ok(())
            }
            Err(unavailable) => {
                self.because(Reason::AuditUnavailable);
                Err(unavailable)
            }
        }
    }

    /// Something besides signatures and decision that ends the request, or answers it.
    pub fn because(&mut self, reason: Reason) {
        self.reasons.push(reason);
    }

    /// The answer is our own, for whoever asks: nobody is judged.
    pub fn for_everybody(&mut self) {
        (self.granted, self.passed) = (Some(Reason::Allowed), true);
    }

    /// What exactly was wrong, in words that hold no secret.
    pub fn detail(&mut self, detail: &str) {
        self.note(|record| record.detail = Some(bounded(detail)));
    }

    /// Counts that the request was over a limit.
    pub fn over(&self, limit: Limit) {
        self.audit.metrics().limit_hit(limit);
    }

    /// The reason as it stands: what a refusal says.
    pub fn reason(&self) -> Reason {
        self.reasons.iter().min().copied().or(self.granted).unwrap_or(Reason::Internal)
    }

    /// The head of the answer is on its way.
    pub fn answered(&mut self, status: StatusCode) {
        self.note(|record| record.status = Some(status.as_u16()));
    }

    /// Body bytes that came from the client, and that went to it.
    pub fn moved(&mut self, request_bytes: u64, response_bytes: u64) {
        self.note(|record| {
            record.request_bytes += request_bytes;
            record.response_bytes += response_bytes;
        });
    }

    /// The answer is complete.
    pub fn finish(mut self) {
        self.write();
    }

    /// The record as it would be written now; it is not.
    pub fn into_record(mut self) -> Option<Box<RequestRecord>> {
        self.complete()
    }

    fn write(&mut self) {
        let total = self.watch.elapsed();
        let Some(mut record) = self.complete() else { return };
        record.total_us = whole_us(total);
        self.audit.request_finished(record.verdict, record.reason, total);
        let slot = self.slot.take().unwrap_or_else(|| self.audit.sink().refusal());
        slot.send(record);
    }

    fn complete(&mut self) -> Option<Box<RequestRecord>> {
        let signers = self.signers.take().unwrap_or_default();
        let reason = self.reason();
        let mut record = self.record.take()?;
        self.reasons.sort_unstable();
        self.reasons.dedup();
        if self.reasons.len() > 1 {
            record.also = mem::take(&mut self.reasons);
        }
        record.reason = reason;
        record.verdict =
            if self.passed || reason == Reason::Preflight { Verdict::Allow } else { Verdict::Deny };
        (record.peer, record.caller) = (signers.peer, signers.caller);
        Some(record)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.record.is_some() {
            if std::thread::panicking() {
                self.because(Reason::Internal);
                // What the client is told unless it was told another.
                let status = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
                self.note(|record| _ = record.status.get_or_insert(status));
            } else if self.audit.0.is_cut.load(Ordering::Relaxed) {
                self.because(Reason::LimitExceeded);
                self.detail("cut when the drain was over");
            } else if let Some((reason, detail)) = Arc::clone(&self.cut).get() {
                self.because(*reason);
                self.detail(detail);
            } else {
                self.because(Reason::ClientGone);
            }
            self.write();
        }
    }
}

fn verified<T>(outcome: Result<&Signature<T>, Reason>) -> Option<Arc<T>> {
    outcome.ok().and_then(Signature::verified).map(Arc::clone)
}

fn whole_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
