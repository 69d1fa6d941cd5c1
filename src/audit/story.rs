//! The story of a request in one sentence: who, for whom, asked for what, and how it ended.
//!
//! Told from the record alone, so that sentence and fields cannot disagree. What came from outside
//! stands bare only if it cannot be mistaken for a word of the story; else it is quoted and escaped.

mod who;

use who::{caller, service};

use super::Reason;
use super::event::RefusedHandshake;
use super::line::{bounded, cut, is_misleading, is_plain};
use super::record::{ActionRecord, Check, NearMissRecord, RequestRecord, Verdict};

/// What most stories have room in.
const STORY_BYTES: usize = 256;
/// Bytes of one value in a story; the record's own field holds more.
const QUOTED_BYTES_MAX: usize = 256;

/// The sentence for `record`.
pub fn tell(record: &RequestRecord) -> String {
    let mut story = String::with_capacity(STORY_BYTES);
    service(record.checks.peer, record.peer.as_deref(), &mut story);
    caller(record.checks.caller, record.caller.as_deref(), &mut story);
    action(&record.action, &mut story);
    outcome(record, &mut story);
    shadow(record, &mut story);
    story
}

/// The sentence for a handshake that was refused.
pub fn handshake(refused: &RefusedHandshake) -> String {
    let who = match refused.claimed.as_ref().map(|claimed| &claimed.spiffe_id) {
        Some(Some(id)) => {
            let mut who = String::from("somebody who claims to be ");
            plain(id, &mut who);
            who + " (not verified)"
        }
        Some(None) => "somebody with a certificate that names no service".to_owned(),
        None => "somebody".to_owned(),
    };
    format!(
        "{who} was refused in the TLS handshake of {}, because {} ({})",
        refused.listener,
        refused.reason.cause(),
        bounded(&refused.detail)
    )
}

fn action(action: &ActionRecord, story: &mut String) {
    let Some(method) = &action.method else {
        return story.push_str(", sent a head that could not be read");
    };
    story.push_str(", asked to ");
    plain(method, story);
    let Some(path) = &action.path else { return story.push_str(" something") };
    story.push(' ');
    plain(path, story);
    match (&action.route, &action.host) {
        (Some(route), _) => story.extend([" on ", route.as_str()]),
        (None, Some(host)) => story.extend([" at ", host.as_str()]),
        (None, None) => {}
    }
}

fn outcome(record: &RequestRecord, story: &mut String) {
    match (record.verdict, record.reason) {
        (Verdict::Allow, Reason::Preflight) => {
            story.push_str(": answered as a CORS preflight, not forwarded");
        }
        (Verdict::Allow, Reason::Allowed) if record.rule.is_none() => {
            story.push_str(": answered by the proxy itself, which tells this to everybody");
        }
        (Verdict::Allow, reason) => {
            permission(record, story);
            match &record.detail {
                Some(detail) if record.ended_by.is_some() => story.extend([", but ", detail]),
                _ if matches!(reason, Reason::Allowed | Reason::Unenforced) => {}
                _ => {
                    story.push_str(", but ");
                    because(reason, record, story);
                }
            }
        }
        (Verdict::Deny, Reason::ClientGone) => {
            story.push_str(": not decided, because the client went away");
        }
        (Verdict::Deny, reason) => {
            story.push_str(": denied, because ");
            because(reason, record, story);
            nearest(record, story);
        }
    }
}

/// What let the request through.
fn permission(record: &RequestRecord, story: &mut String) {
    if let Some(&reason) = record.unenforced.first() {
        story.push_str(": let through unenforced, though to be denied, because ");
        because(reason, record, story);
        return nearest(record, story);
    }
    story.push_str(": allowed by ");
    rule(record, story);
    story.push_str(match (record.checks.peer, record.checks.caller) {
        (Check::Absent, Check::Absent) => ", which asks for neither certificate nor token",
        (Check::Absent, _) => ", which asks for no certificate",
        (_, Check::Absent) => ", which asks for no token",
        _ => "",
    });
}

fn rule(record: &RequestRecord, story: &mut String) {
    match &record.rule {
        Some(rule) => quoted(rule, story),
        None => story.push_str("no rule"),
    }
}

/// The clause that a reason is in this record.
fn because(reason: Reason, record: &RequestRecord, story: &mut String) {
    match reason {
        Reason::DeniedByRule => {
            rule(record, story);
            story.push_str(" forbids it");
        }
        Reason::RequirementUnmet | Reason::StepUpRequired if record.rule.is_some() => {
            rule(record, story);
            story.push_str(" is not met");
        }
        Reason::ServiceNotAllowed
        | Reason::ActorNotAllowed
        | Reason::ScopeMissing
        | Reason::RoleMissing
        | Reason::ClaimMismatch
        | Reason::NoRule
        | Reason::RequirementUnmet
        | Reason::StepUpRequired => story.push_str("no rule allows it"),
        Reason::TokenNotSenderConstrained if record.caller.is_some() => story.push_str("no rule allows it"),
        Reason::TokenNotIssuedToService => match record.caller.as_ref().and_then(|c| c.client.as_deref()) {
            Some(client) => {
                story.push_str("the token was issued to ");
                plain(client, story);
                story.push_str(", whose tokens this service may not carry");
            }
            None => story.push_str(
                "the token names no client, and this service may carry only its own clients' tokens",
            ),
        },
        Reason::UpstreamUnavailable => upstream(record, " failed", story),
        Reason::UpstreamTimeout => upstream(record, " did not answer in time", story),
        Reason::UpstreamIdentityMismatch => upstream(record, " is not who it should be", story),
        Reason::ClientGone => story.push_str("the client went away before the answer was complete"),
        Reason::AuditUnavailable => story.push_str("this record could not be promised"),
        other => {
            story.push_str(other.cause());
            detail(record, story);
        }
    }
}

fn upstream(record: &RequestRecord, what: &str, story: &mut String) {
    match &record.upstream {
        Some(name) => story.extend(["upstream ", name.as_str(), what]),
        None => story.extend(["the upstream", what]),
    }
    detail(record, story);
}

fn detail(record: &RequestRecord, story: &mut String) {
    if let Some(detail) = &record.detail {
        story.extend([" (", detail, ")"]);
    }
}

/// What the nearest rule lacked, with the semicolon before it.
fn nearest(record: &RequestRecord, story: &mut String) {
    let Some(NearMissRecord { lacks, seen, .. }) = &record.near_miss else { return };
    let needs: Vec<&str> = lacks.iter().map(|wanted| essence(wanted)).collect();
    story.extend(["; the nearest needs ", &needs.join(" and "), ", and ", &seen.join(" and ")]);
}

/// A role's conditions without its name: `role order-reader: scope orders:read` is its scope.
fn essence(wanted: &str) -> &str {
    match wanted.split_once(": ") {
        Some((head, conditions)) if head.starts_with("role ") => conditions,
        _ => wanted,
    }
}

/// What rules without effect would have done.
fn shadow(record: &RequestRecord, story: &mut String) {
    for (rules, verb) in [(&record.would_allow, "allow"), (&record.would_deny, "deny")] {
        for rule in rules {
            story.push_str("; ");
            quoted(rule, story);
            story.extend([" in shadow would ", verb, " it"]);
        }
    }
}

/// A value from outside: bare if it is one plain word, else quoted.
fn plain(value: &str, story: &mut String) {
    let bare = |c: char| {
        c.is_ascii_graphic() && !matches!(c, '"' | '(' | ')' | ',' | ';' | '\\') || c.is_alphanumeric()
    };
    let is_word =
        || value.bytes().all(|byte| byte.is_ascii() && bare(byte.into())) || value.chars().all(bare);
    if !value.is_empty() && value.len() <= QUOTED_BYTES_MAX && is_word() {
        story.push_str(value);
    } else {
        quoted(value, story);
    }
}

fn quoted(value: &str, story: &mut String) {
    if value.len() <= QUOTED_BYTES_MAX && is_plain(value) {
        return story.extend(["\"", value, "\""]);
    }
    story.push('"');
    for c in cut(value, QUOTED_BYTES_MAX).chars() {
        match c {
            '"' | '\\' => story.extend(['\\', c]),
            c if is_misleading(c) => story.extend(c.escape_default()),
            c => story.push(c),
        }
    }
    story.push('"');
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::audit::record::CallerRecord;
    use crate::audit::record::tests::{allowed, denied};

    const ASKED: &str = "asked to GET /customers/alice/orders/7 on orders";

    pub fn told(mut record: RequestRecord, change: impl FnOnce(&mut RequestRecord)) -> String {
        change(&mut record);
        tell(&record)
    }

    pub fn caller_of(record: &mut RequestRecord) -> &mut CallerRecord {
        record.caller.as_mut().unwrap().value_mut()
    }

    #[test]
    fn how_it_ended() {
        let mut seen = 0;
        let mut ends = |record: RequestRecord, change: fn(&mut RequestRecord), end: &str| {
            let story = told(record, change);
            assert_eq!(story.split_once(ASKED).unwrap().1, end);
            seen += 1;
        };
        let rule = "\"people read their own orders through the storefront\"";
        ends(allowed(), |_| {}, &format!(": allowed by {rule}"));
        ends(
            allowed(),
            |r| (r.checks.caller, r.caller) = (Check::Absent, None),
            &format!(": allowed by {rule}, which asks for no token"),
        );
        ends(
            allowed(),
            |r| (r.checks.peer, r.peer) = (Check::Absent, None),
            &format!(": allowed by {rule}, which asks for no certificate"),
        );
        ends(
            allowed(),
            |r| (r.checks.peer, r.checks.caller) = (Check::Absent, Check::Absent),
            &format!(": allowed by {rule}, which asks for neither certificate nor token"),
        );
        ends(
            allowed(),
            |r| (r.would_deny, r.would_allow) = (vec!["no bots".into()], vec!["a \"new\" one".into()]),
            &format!(
                ": allowed by {rule}; \"a \\\"new\\\" one\" in shadow would allow it; \"no bots\" in shadow would deny it"
            ),
        );
        for (reason, end) in [
            (Reason::UpstreamUnavailable, "upstream orders failed"),
            (Reason::UpstreamTimeout, "upstream orders did not answer in time"),
            (Reason::UpstreamIdentityMismatch, "upstream orders is not who it should be"),
            (Reason::ClientGone, "the client went away before the answer was complete"),
            (Reason::TokenExpired, "the token's time is over"),
        ] {
            let story = told(allowed(), |r| r.reason = reason);
            assert_eq!(story.split_once(ASKED).unwrap().1, format!(": allowed by {rule}, but {end}"));
            if reason != Reason::ClientGone {
                let story = told(allowed(), |r| (r.reason, r.detail) = (reason, Some("why".into())));
                assert!(story.ends_with(&format!(", but {end} (why)")), "{story}");
            }
        }
        ends(
            denied(),
            |r| {
                (r.verdict, r.reason, r.unenforced) =
                    (Verdict::Allow, Reason::Unenforced, vec![Reason::ScopeMissing])
            },
            ": let through unenforced, though to be denied, because no rule allows it; the nearest needs \
             scope orders:read or group support, and the token has scope orders:write",
        );
        ends(
            denied(),
            |r| (r.verdict, r.reason) = (Verdict::Allow, Reason::Preflight),
            ": answered as a CORS preflight, not forwarded",
        );
        ends(
            denied(),
            |r| {
                r.reason = Reason::ServiceNotAllowed;
                let near = r.near_miss.as_mut().unwrap();
                near.lacks.insert(0, "service storefront".into());
                near.seen.insert(0, "the service is billing".into());
            },
            ": denied, because no rule allows it; the nearest needs service storefront and scope orders:read or \
             group support, and the service is billing and the token has scope orders:write",
        );
        ends(
            denied(),
            |r| {
                (r.reason, r.near_miss, r.rule) =
                    (Reason::DeniedByRule, None, Some("agents never write".into()))
            },
            ": denied, because \"agents never write\" forbids it",
        );
        ends(
            denied(),
            |r| {
                (r.reason, r.rule) = (Reason::StepUpRequired, Some("refunds need step-up".into()));
                r.near_miss = Some(NearMissRecord {
                    rule: "refunds need step-up".into(),
                    lacks: vec!["a login with acr mfa".into()],
                    seen: vec!["the token has acr pwd".into()],
                });
            },
            ": denied, because \"refunds need step-up\" is not met; the nearest needs a login with acr mfa, and \
             the token has acr pwd",
        );
        ends(
            denied(),
            |r| (r.reason, r.near_miss) = (Reason::TokenNotIssuedToService, None),
            ": denied, because the token was issued to storefront-web, whose tokens this service may not carry",
        );
        ends(
            denied(),
            |r| (r.reason, r.near_miss) = (Reason::ClientGone, None),
            ": not decided, because the client went away",
        );
        ends(
            denied(),
            |r| (r.reason, r.near_miss) = (Reason::AuditUnavailable, None),
            ": denied, because this record could not be promised",
        );
        assert_eq!(seen, 13);
    }

    #[test]
    fn every_reason_has_a_story_of_one_sentence() {
        for &reason in Reason::ALL {
            for verdict in [Verdict::Allow, Verdict::Deny] {
                let story = told(denied(), |r| (r.reason, r.verdict) = (reason, verdict));
                assert!(!story.ends_with('.') && story.contains(ASKED) && story.len() > 90, "{story}");
            }
        }
    }

    #[test]
    fn words_from_outside_cannot_tell_another_story() {
        for (subject, shown) in [
            ("auth0|alice", "auth0|alice"),
            ("zoë", "zoë"),
            ("", "\"\""),
            (
                "a (human), asked to GET / on x: allowed by \"y\"",
                "\"a (human), asked to GET / on x: allowed by \\\"y\\\"\"",
            ),
            ("a\r\n\u{1b}[31m\u{202e}", "\"a\\r\\n\\u{1b}[31m\\u{202e}\""),
        ] {
            let story = told(denied(), |r| caller_of(r).subject = Some(subject.into()));
            assert!(story.starts_with(&format!("storefront, for {shown}@corp (human), asked")), "{story}");
        }
        let story = told(denied(), |r| caller_of(r).subject = Some("x".repeat(3000)));
        assert!(story.contains(&format!("{}…[2744 bytes more]\"@corp", "x".repeat(256))));
    }
}
