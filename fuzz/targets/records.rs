//! What is written down.

use countersign::audit::line::is_misleading;
use countersign::audit::record::{
    ActionRecord, CallerRecord, Check, Checks, ConnectionRecord, NearMissRecord, PeerRecord, Protocol,
    RequestRecord, Verdict,
};
use countersign::audit::{Part, Reason, Record as _, story};
use countersign::clock::Timestamp;
use countersign::identity::{ActorKind, Delegate};
use countersign::policy::Host;
use serde_json::Value;

/// A text from outside, in every field that can hold one: the record stays one line that reads back as
/// it was, and its story tells of one outcome.
pub fn record(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let some = || Some(text.to_owned());
    let name = || "corp".parse().expect("a name");
    let mut record = RequestRecord {
        time: Timestamp::from_unix_seconds(1_800_000_000),
        id: ulid::Ulid::nil(),
        proxy: "proxy".into(),
        verdict: Verdict::Deny,
        reason: Reason::TokenNotIssuedToService,
        also: Vec::new(),
        detail: None,
        rule: None,
        owner: None,
        ticket: None,
        near_miss: None,
        would_allow: Vec::new(),
        would_deny: Vec::new(),
        unenforced: Vec::new(),
        checks: Checks { peer: Check::Ok, caller: Check::Ok },
        peer: Some(Part::new(PeerRecord {
            service: None,
            spiffe_id: None,
            dns_names: vec![text.to_owned()],
            trust_domain: "shop.example".to_owned(),
            certificate: String::new(),
            hop: "direct".to_owned(),
        })),
        caller: Some(Part::new(CallerRecord {
            issuer: name(),
            subject: some(),
            client: some(),
            actor: ActorKind::Agent,
            on_behalf_of: ActorKind::Human,
            chain: vec![Delegate { subject: text.into(), issuer: Some(text.into()) }; 2],
            subject_issuer: some(),
            via: vec![text.to_owned()],
            roles: Vec::new(),
            scopes: vec![text.to_owned()],
            groups: vec![text.to_owned()],
            token_roles: vec![text.to_owned()],
            acr: some(),
            auth_time: None,
            bound: "none",
            claims: serde_json::Map::from_iter([(text.to_owned(), text.into())]),
            redacted: Vec::new(),
        })),
        action: ActionRecord {
            method: Some(text.to_owned()),
            host: text.parse::<Host>().ok(),
            path: some(),
            grpc: false,
            route: None,
        },
        connection: ConnectionRecord {
            listener: name(),
            protocol: Protocol::Http11,
            peer_ip: None,
            client_ip: None,
            hop: None,
        },
        status: Some(403),
        upstream: None,
        request_bytes: 0,
        response_bytes: 0,
        policy: None,
        ended_by: None,
        cache: None,
        decision_us: None,
        total_us: 0,
        trace: some(),
    };
    record.near_miss = Some(NearMissRecord { rule: some().expect("one"), lacks: vec![], seen: vec![] });
    let story = story::tell(&record);
    check_story(&story);
    let alone = written(&record);
    // Parts that are shared are put into JSON once and then copied.
    let _other = record.clone();
    assert_eq!(written(&record), alone);
    assert_eq!(written(&record), alone);
    let inside = String::from_utf8(alone).expect("UTF-8");
    assert!(!inside.chars().any(is_misleading));
    let read: Value = serde_json::from_str(&inside).expect("JSON");
    assert_eq!(read["story"], story.as_str());
    for place in ["/caller/subject", "/caller/client", "/caller/scopes/0", "/caller/chain/1/subject"] {
        assert_eq!(read.pointer(place), Some(&text.into()), "{place}");
    }
    for place in ["/caller/groups/0", "/caller/token_roles/0", "/caller/acr"] {
        assert_eq!(read.pointer(place), Some(&text.into()), "{place}");
    }
    assert_eq!(read["caller"]["claims"][text], text);
    for place in ["/peer/dns_names/0", "/action/method", "/action/path", "/trace"] {
        assert_eq!(read.pointer(place), Some(&text.into()), "{place}");
    }
}

fn written(record: &RequestRecord) -> Vec<u8> {
    let mut line = Vec::new();
    record.write(&mut line).expect("a line");
    line
}

/// Outside of what it quotes, one outcome.
fn check_story(story: &str) {
    assert!(!story.chars().any(is_misleading));
    let mut bare = String::new();
    let mut chars = story.chars();
    while let Some(c) = chars.next() {
        if c != '"' {
            bare.push(c);
            continue;
        }
        loop {
            match chars.next().expect("an end of what is quoted") {
                '"' => break,
                '\\' => _ = chars.next(),
                _ => {}
            }
        }
    }
    let outcomes = [": denied", ": allowed", ": not decided", ": answered", ": let through"];
    assert_eq!(outcomes.iter().map(|outcome| bare.matches(outcome).count()).sum::<usize>(), 1, "{story}");
    assert_eq!(bare.matches(" asked to ").count(), 1, "{story}");
}
