//! The answer to a refused request, in the form that its client understands.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body as _;
use http_body_util::Full;

use super::Refusal;
use crate::policy::action::is_grpc;

const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// In what form the client understands a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// A page, for a browser that navigates.
    Page,
    /// Trailers-only `grpc-status`.
    Grpc,
    /// The header fields of `Problem` alone, for a HEAD (RFC 9110 §9.3.2): hyper withholds the content on
    /// HTTP/1.1 only.
    Head,
}

impl Form {
    pub fn of(head: &Parts) -> Form {
        let header = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
        let navigates = || header(SEC_FETCH_MODE) == Some(b"navigate");
        let wants_page = || header(ACCEPT).is_some_and(|accept| accept.starts_with(b"text/html"));
        if head.method == Method::HEAD {
            Form::Head
        } else if is_grpc(&head.headers) {
            Form::Grpc
        } else if head.method == Method::GET && (navigates() || wants_page()) {
            Form::Page
        } else {
            Form::Problem
        }
    }
}

impl Refusal {
    pub fn answer(&self, form: Form, id: &str) -> Response<Full<Bytes>> {
        let mut response = match form {
            Form::Problem => self.problem(id),
            Form::Page => self.page(id),
            Form::Grpc => self.grpc(id),
            Form::Head => without_content(self.problem(id)),
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = &self.challenge
            && let Ok(challenge) = HeaderValue::from_str(challenge)
        {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(nonce) = &self.nonce
            && let Ok(nonce) = HeaderValue::from_str(nonce)
        {
            headers.insert(DPOP_NONCE, nonce);
        }
        response
    }

    fn problem(&self, id: &str) -> Response<Full<Bytes>> {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Refused"),
            "status": self.status.as_u16(),
            "reason": self.reason.as_str(),
            "decision": id,
        });
        answer(self.status, "application/problem+json", body.to_string())
    }

    fn page(&self, id: &str) -> Response<Full<Bytes>> {
        let title = self.status.canonical_reason().unwrap_or("Refused");
        let mut body = String::new();
        // Status texts, reason codes and ids are made of letters, digits and `_`: nothing to escape.
        let _ = write!(
            body,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
             <body><h1>{title}</h1><p>This request was refused: <code>{reason}</code>.</p>\n\
             <p>If you think that it should not have been, quote this decision: <code>{id}</code></p></body></html>\n",
            reason = self.reason.as_str()
        );
        let mut response = answer(self.status, "text/html; charset=utf-8", body);
        response.headers_mut().insert(
            HeaderName::from_static("content-security-policy"),
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        );
        response
    }

    fn grpc(&self, id: &str) -> Response<Full<Bytes>> {
        let mut response = answer(StatusCode::OK, "application/grpc", String::new());
        response.headers_mut().extend(self.trailers(id));
        response
    }

    /// What ends a gRPC call.
    pub fn trailers(&self, id: &str) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(grpc_status(self.status)));
        if let Ok(message) = HeaderValue::from_str(&format!("{}, decision {id}", self.reason.as_str())) {
            trailers.insert("grpc-message", message);
        }
        trailers
    }
}

/// gRPC's own mapping of HTTP statuses, as far as refusals have them.
fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::MISDIRECTED_REQUEST => 3,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 8,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 13,
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn without_content(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let content = std::mem::take(response.body_mut());
    if let Some(length) = content.size_hint().exact() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Reason;

    #[test]
    fn grpc_is_refused_in_its_own_terms() {
        for (reason, status) in
            [(Reason::TokenMissing, "16"), (Reason::NoRule, "7"), (Reason::Internal, "13")]
        {
            let response = Refusal::of(reason).answer(Form::Grpc, "01J");
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["grpc-status"], status);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
        }
    }
}
