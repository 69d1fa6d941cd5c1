//! The story of a request in one sentence: who, for whom, asked for what, and how it ended.
//!
//! Told from the record alone, so that sentence and fields cannot disagree. What came from outside
//! stands bare only if it cannot be mistaken for a word of the story; else it is quoted and escaped.

mod who;

use std::fmt::Write as _;

use who::{caller, service};

use super::Reason;
use super::event::RefusedHandshake;
use super::line::{bounded, cut, is_misleading};
use super::record::{ActionRecord, Check, NearMissRecord, RequestRecord, Verdict};

/// Bytes of one value in a story; the record's own field holds more.
const QUOTED_BYTES_MAX: usize = 256;

/// The sentence for `record`, whose own `story` is not read.
pub fn tell(record: &RequestRecord) -> String {
    format!(
        "{}{}, {}: {}{}",
        service(record.checks.peer, record.peer.as_deref()),
        caller(record.checks.caller, record.caller.as_deref()),
        action(&record.action),
        outcome(record),
        shadow(record),
    )
}

/// The sentence for a handshake that was refused.
pub fn handshake(refused: &RefusedHandshake) -> String {
    let who = match refused.claimed.as_ref().map(|claimed| &claimed.spiffe_id) {
        Some(Some(id)) => format!("somebody who claims to be {} (not verified)", plain(id)),
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

fn action(action: &ActionRecord) -> String {
    let Some(method) = action.method.as_deref().map(plain) else {
        return "sent a head that could not be read".to_owned();
    };
    match (&action.path, &action.route, &action.host) {
        (Some(path), Some(route), _) => format!("asked to {method} {} on {route}", plain(path)),
        (Some(path), None, Some(host)) => format!("asked to {method} {} at {host}", plain(path)),
        (Some(path), None, None) => format!("asked to {method} {}", plain(path)),
        (None, ..) => format!("asked to {method} something"),
    }
}

fn outcome(record: &RequestRecord) -> String {
    match (record.verdict, record.reason) {
        (Verdict::Allow, Reason::Preflight) => "answered as a CORS preflight, not forwarded".to_owned(),
        (Verdict::Allow, reason) => {
            let mut text = permission(record);
            if reason != Reason::Allowed && reason != Reason::Unenforced {
                let _ = write!(text, ", but {}", because(reason, record));
            }
            text
        }
        (Verdict::Deny, Reason::ClientGone) => "not decided, because the client went away".to_owned(),
        (Verdict::Deny, reason) => format!("denied, because {}{}", because(reason, record), nearest(record)),
    }
}

/// What let the request through.
fn permission(record: &RequestRecord) -> String {
    if let Some(&reason) = record.unenforced.first() {
        return format!(
            "let through unenforced, though to be denied, because {}{}",
            because(reason, record),
            nearest(record)
        );
    }
    let waived = match (record.checks.peer, record.checks.caller) {
        (Check::Absent, Check::Absent) => ", which asks for neither certificate nor token",
        (Check::Absent, _) => ", which asks for no certificate",
        (_, Check::Absent) => ", which asks for no token",
        _ => "",
    };
    format!("allowed by {}{waived}", rule(record))
}

fn rule(record: &RequestRecord) -> String {
    record.rule.as_deref().map_or_else(|| "no rule".to_owned(), quoted)
}

/// The clause that a reason is in this record.
fn because(reason: Reason, record: &RequestRecord) -> String {
    let upstream = || match &record.upstream {
        Some(name) => format!("upstream {name}"),
        None => "the upstream".to_owned(),
    };
    match reason {
        Reason::DeniedByRule => format!("{} forbids it", rule(record)),
        Reason::RequirementUnmet | Reason::StepUpRequired if record.rule.is_some() => {
            format!("{} is not met", rule(record))
        }
        Reason::ServiceNotAllowed
        | Reason::ActorNotAllowed
        | Reason::ScopeMissing
        | Reason::RoleMissing
        | Reason::ClaimMismatch
        | Reason::NoRule
        | Reason::RequirementUnmet
        | Reason::StepUpRequired => "no rule allows it".to_owned(),
        Reason::TokenNotIssuedToService => match record.caller.as_ref().and_then(|c| c.client.as_deref()) {
            Some(client) => {
                format!("the token was issued to {}, whose tokens this service may not carry", plain(client))
            }
            None => "the token names no client, and this service may carry only its own clients' tokens"
                .to_owned(),
        },
        Reason::UpstreamUnavailable => format!("{} could not be reached", upstream()),
        Reason::UpstreamTimeout => format!("{} did not answer in time", upstream()),
        Reason::UpstreamIdentityMismatch => format!("{} is not who it should be", upstream()),
        Reason::ClientGone => "the client went away before the answer was complete".to_owned(),
        Reason::AuditUnavailable => "this record could not be promised".to_owned(),
        other => match &record.detail {
            Some(detail) => format!("{} ({detail})", other.cause()),
            None => other.cause().to_owned(),
        },
    }
}

/// What the nearest rule lacked, with the semicolon before it.
fn nearest(record: &RequestRecord) -> String {
    let Some(NearMissRecord { lacks, seen, .. }) = &record.near_miss else { return String::new() };
    let needs: Vec<&str> = lacks.iter().map(|wanted| essence(wanted)).collect();
    format!("; the nearest needs {}, and {}", needs.join(" and "), seen.join(" and "))
}

/// A role's conditions without its name: `role order-reader: scope orders:read` is its scope.
fn essence(wanted: &str) -> &str {
    match wanted.split_once(": ") {
        Some((head, conditions)) if head.starts_with("role ") => conditions,
        _ => wanted,
    }
}

/// What rules without effect would have done.
fn shadow(record: &RequestRecord) -> String {
    let mut text = String::new();
    for (rules, verb) in [(&record.would_allow, "allow"), (&record.would_deny, "deny")] {
        for rule in rules {
            let _ = write!(text, "; {} in shadow would {verb} it", quoted(rule));
        }
    }
    text
}

/// A value from outside: bare if it is one plain word, else quoted.
fn plain(value: &str) -> String {
    let bare = |c: char| {
        c.is_ascii_graphic() && !matches!(c, '"' | '(' | ')' | ',' | ';' | '\\') || c.is_alphanumeric()
    };
    if !value.is_empty() && value.len() <= QUOTED_BYTES_MAX && value.chars().all(bare) {
        value.to_owned()
    } else {
        quoted(value)
    }
}

fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in cut(value, QUOTED_BYTES_MAX).chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if is_misleading(c) => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text.push('"');
    text
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
            (Reason::UpstreamUnavailable, "upstream orders could not be reached"),
            (Reason::UpstreamTimeout, "upstream orders did not answer in time"),
            (Reason::UpstreamIdentityMismatch, "upstream orders is not who it should be"),
            (Reason::ClientGone, "the client went away before the answer was complete"),
            (Reason::TokenExpired, "the token's time is over"),
        ] {
            let story = told(allowed(), |r| r.reason = reason);
            assert_eq!(story.split_once(ASKED).unwrap().1, format!(": allowed by {rule}, but {end}"));
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
