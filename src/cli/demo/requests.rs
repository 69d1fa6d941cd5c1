//! The demo's story: who asks for what, and what must come of it under the sample policy.
//!
//! Each rule of the sample is needed by at least one of these, so that none can be taken out, or
//! loosened, without a line that tells. A test holds this file to that.

use std::fmt;

use http::Method;
use rustls::AlertDescription;

use super::issuer::Login;
use super::workloads::Workload;
use crate::audit::Reason;

/// One request, and what is said of it.
#[derive(Debug)]
pub struct Line {
    pub title: &'static str,
    /// Whose certificate is presented, if any.
    pub workload: Option<Workload>,
    /// Whose token is presented, if any.
    pub login: Option<Login>,
    pub method: Method,
    pub path: &'static str,
    pub answer: Answer,
    pub reason: Reason,
    /// The upstream that answers, where the request is allowed.
    pub upstream: Option<&'static str>,
}

/// What comes back over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The status of an HTTP answer.
    Status(u16),
    /// The handshake ends with this alert, before there is any HTTP.
    Alert(AlertDescription),
}

/// As `401`, or `TLS alert certificate_required` with the name that RFC 8446 §6 has for it.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Status(status) => write!(f, "{status}"),
            Answer::Alert(alert) => write!(f, "TLS alert {}", alert_name(*alert)),
        }
    }
}

/// As RFC 8446 §6 writes it; rustls writes `CertificateRequired`.
pub fn alert_name(alert: AlertDescription) -> String {
    let camel = format!("{alert:?}");
    let mut name = String::new();
    let mut after_lower = false;
    for c in camel.chars() {
        if c.is_ascii_uppercase() && after_lower {
            name.push('_');
        }
        after_lower = c.is_ascii_lowercase();
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// The host that all requests are for.
pub const HOST: &str = "orders.shop.example";

const ALICES_ORDER: &str = "/customers/alice/orders/7";
const ALICES_REFUND: &str = "/customers/alice/orders/7/refund";

/// All lines, in the order in which they are told.
pub fn lines() -> Vec<Line> {
    use Workload::{Assistant, Reports, Storefront, Stranger};
    let allowed = |title, workload, login, method, path| Line {
        title,
        workload: Some(workload),
        login: Some(login),
        method,
        path,
        answer: Answer::Status(200),
        reason: Reason::Allowed,
        upstream: Some("orders"),
    };
    let denied = |title, workload, login, (method, path), status, reason| Line {
        title,
        workload,
        login,
        method,
        path,
        answer: Answer::Status(status),
        reason,
        upstream: None,
    };
    let read = || (Method::GET, ALICES_ORDER);
    let refused = |title, workload, alert, reason| Line {
        answer: Answer::Alert(alert),
        ..denied(title, workload, Some(Login::Alice), read(), 0, reason)
    };
    vec![
        allowed(
            "Alice reads her order in the storefront",
            Storefront,
            Login::Alice,
            Method::GET,
            ALICES_ORDER,
        ),
        allowed(
            "an agent reads it for her, through the assistant",
            Assistant,
            Login::Assistant,
            Method::GET,
            ALICES_ORDER,
        ),
        allowed(
            "Alice, freshly logged in, asks for a refund",
            Storefront,
            Login::Alice,
            Method::POST,
            ALICES_REFUND,
        ),
        Line {
            upstream: Some("orders-next"),
            ..allowed(
                "Bob tests what comes next: the same route, another upstream",
                Storefront,
                Login::Bob,
                Method::GET,
                "/customers/bob/orders/8",
            )
        },
        refused("no certificate", None, AlertDescription::CertificateRequired, Reason::PeerMissing),
        refused(
            "a certificate of a CA that nobody named",
            Some(Stranger),
            AlertDescription::UnknownCA,
            Reason::PeerUntrusted,
        ),
        denied(
            "a workload that no [service] names",
            Some(Reports),
            Some(Login::Alice),
            read(),
            403,
            Reason::PeerUnknown,
        ),
        denied("no token", Some(Storefront), None, read(), 401, Reason::TokenMissing),
        denied(
            "a token that is over",
            Some(Storefront),
            Some(Login::AliceExpired),
            read(),
            401,
            Reason::TokenExpired,
        ),
        denied(
            "the wrong service for this token: the storefront's, carried by the assistant",
            Some(Assistant),
            Some(Login::Alice),
            read(),
            403,
            Reason::TokenNotIssuedToService,
        ),
        denied(
            "a missing scope",
            Some(Storefront),
            Some(Login::AliceWithoutScope),
            read(),
            403,
            Reason::ScopeMissing,
        ),
        denied(
            "somebody else's order",
            Some(Storefront),
            Some(Login::Alice),
            (Method::GET, "/customers/bob/orders/8"),
            403,
            Reason::ClaimMismatch,
        ),
        denied(
            "an agent on a human route: in the storefront, which is for people",
            Some(Storefront),
            Some(Login::AliceThroughAgent),
            read(),
            403,
            Reason::ServiceNotAllowed,
        ),
        denied(
            "an agent that acts for nobody",
            Some(Assistant),
            Some(Login::AssistantAlone),
            (Method::GET, "/customers/assistant-7/orders/7"),
            403,
            Reason::ActorNotAllowed,
        ),
        denied(
            "an agent that writes",
            Some(Assistant),
            Some(Login::Assistant),
            (Method::DELETE, ALICES_ORDER),
            403,
            Reason::DeniedByRule,
        ),
        denied(
            "a refund with yesterday's login",
            Some(Storefront),
            Some(Login::AliceSinceYesterday),
            (Method::POST, ALICES_REFUND),
            401,
            Reason::StepUpRequired,
        ),
        denied(
            "somebody of support, who wants to read Alice's order",
            Some(Storefront),
            Some(Login::Sam),
            read(),
            403,
            Reason::ClaimMismatch,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_rfc() {
        assert_eq!(alert_name(AlertDescription::CertificateRequired), "certificate_required");
        assert_eq!(alert_name(AlertDescription::UnknownCA), "unknown_ca");
        assert_eq!(alert_name(AlertDescription::BadRecordMac), "bad_record_mac");
    }
}
