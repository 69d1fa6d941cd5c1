//! One draft, one record.

use super::*;
use crate::audit::Output;
use crate::audit::record::tests::{audit_to, lines};
use crate::policy::{PolicyParts, UpstreamId};
use serde_json::Value;

fn begin(audit: &Audit) -> Draft {
    audit.begin(Arrival {
        method: Some(&Method::GET),
        listener: &"mesh".parse().unwrap(),
        protocol: Protocol::Http2,
        peer_ip: None,
        client_ip: None,
        cut: &Arc::default(),
    })
}

/// The one record that `exchange` leaves behind.
fn record(exchange: impl FnOnce(&Audit, Draft)) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit_to(Output::File(dir.path().join("audit")), false);
    exchange(&audit, begin(&audit));
    let mut records = lines(&audit, &dir.path().join("audit"));
    assert_eq!(records.len(), 1);
    records.remove(0)
}

/// `verdict reason status`.
fn outcome(record: &Value) -> String {
    assert_eq!(record["also"], Value::Array(Vec::new()));
    format!("{} {} {}", record["verdict"], record["reason"], record["status"]).replace('"', "")
}

fn permit(draft: &mut Draft, enforced: bool) {
    draft.permitted(&PolicyParts::default(), UpstreamId(0), enforced);
}

#[test]
fn a_draft_is_written_once_whether_finished_or_dropped() {
    let finished = record(|_, mut draft| {
        permit(&mut draft, true);
        draft.reserve().unwrap();
        draft.answered(StatusCode::OK);
        draft.moved(3, 1000);
        draft.moved(0, 24);
        draft.finish();
    });
    assert_eq!(outcome(&finished), "allow allowed 200");
    assert_eq!([&finished["request_bytes"], &finished["response_bytes"]], [3, 1024]);

    let gone = record(|_, mut draft| {
        permit(&mut draft, true);
        draft.reserve().unwrap();
        draft.answered(StatusCode::OK);
    });
    assert_eq!(outcome(&gone), "allow client_gone 200");

    let never_decided = record(|_, draft| drop(draft));
    assert_eq!(outcome(&never_decided), "deny client_gone null");
}

#[test]
fn a_panic_is_our_failure_and_not_the_clients() {
    let record = record(|_, draft| {
        let held = std::panic::AssertUnwindSafe(draft);
        let caught = std::panic::catch_unwind(move || {
            let _held = held;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(caught.is_err());
    });
    assert_eq!(outcome(&record), "deny internal 500");
}

#[test]
fn both_signatures_are_recorded_and_the_first_reason_wins() {
    let record = record(|audit, mut draft| {
        draft.caller(Err(Reason::TokenExpired));
        draft.peer(Err(Reason::PeerRevoked));
        assert_eq!(draft.reason(), Reason::PeerRevoked);
        draft.answered(StatusCode::FORBIDDEN);
        draft.finish();
        assert_eq!(audit.0.requests.get((Verdict::Deny, Reason::PeerRevoked)), 1);
    });
    assert_eq!((&record["verdict"], &record["reason"]), (&"deny".into(), &"peer_revoked".into()));
    assert_eq!(record["also"], serde_json::json!(["peer_revoked", "token_expired"]));
    assert_eq!(record["checks"], serde_json::json!({"peer": "peer_revoked", "caller": "token_expired"}));
}

#[test]
fn a_permit_that_was_not_acted_upon_is_no_allow() {
    let unsaid = record(|_, draft| draft.finish());
    assert_eq!(outcome(&unsaid), "deny internal null");
    let held = record(|_, mut draft| {
        permit(&mut draft, true);
        draft.because(Reason::LimitExceeded);
        draft.finish();
    });
    assert_eq!(outcome(&held), "deny limit_exceeded null");
    let preflight = record(|_, mut draft| {
        draft.because(Reason::Preflight);
        draft.finish();
    });
    assert_eq!(outcome(&preflight), "allow preflight null");
    let unenforced = record(|_, mut draft| {
        permit(&mut draft, false);
        draft.reserve().unwrap();
        draft.finish();
    });
    assert_eq!(outcome(&unenforced), "allow unenforced null");
    let causeless = record(|_, mut draft| {
        draft.denied(&[]);
        draft.finish();
    });
    assert_eq!(outcome(&causeless), "deny internal null");
}

#[test]
fn without_a_place_for_its_record_nothing_is_forwarded() {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit_to(Output::File(dir.path().join("audit")), true);
    let mut first = begin(&audit);
    permit(&mut first, true);
    first.reserve().unwrap();
    let mut second = begin(&audit);
    permit(&mut second, true);
    assert_eq!(second.reserve(), Err(AuditUnavailable));
    assert_eq!(second.reason(), Reason::AuditUnavailable);
    second.finish();
    first.finish();
    let records = lines(&audit, &dir.path().join("audit"));
    let reasons: Vec<_> = records.iter().map(|r| &r["reason"]).collect();
    assert_eq!(reasons, ["audit_unavailable", "allowed"]);
    assert_eq!(audit.metrics().audit_dropped.get(), 0);
    assert_eq!(audit.0.requests.get((Verdict::Deny, Reason::AuditUnavailable)), 1);
}
