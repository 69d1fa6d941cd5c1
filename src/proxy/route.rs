//! What a `[route]` says beyond its choice: how its requests are carried.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method};

use crate::policy::NormalPath;

/// `[route.NAME]`, as far as it is not judged; by `RouteId` beside the policy's routes.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// Taken off the judged path before it is forwarded.
    pub strip_prefix: Option<NormalPath>,
    /// From the head of the request to the end of the answer; a WebSocket's tunnel is not counted.
    pub total_timeout: Duration,
    /// Of a request's body.
    pub body_bytes_max: u64,
    /// Whether `Authorization` reaches the upstream.
    pub forward_authorization: bool,
    /// `upgrade = ["websocket"]`.
    pub websocket: bool,
    pub cors: Option<Cors>,
}

/// `cors = { origins = […] }`: preflights are answered here and never forwarded.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Exact origins (RFC 6454), as `https://app.example`.
    pub origins: Vec<String>,
}

/// How long a browser may keep a preflight's answer.
const PREFLIGHT_MAX_AGE: &str = "600";

impl Cors {
    /// The request's `Origin`, if it is one that may read answers.
    pub fn origin<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let mut given = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (given.next(), given.next()) else { return None };
        self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then_some(origin)
    }

    /// The headers that answer a preflight (Fetch §3.2.2), if this is one from an allowed origin.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        if method != Method::OPTIONS {
            return None;
        }
        let asked_method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = self.origin(headers)?;
        let mut answer = HeaderMap::new();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, asked_method.clone());
        if let Some(asked_headers) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked_headers.clone());
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_MAX_AGE));
        answer.insert(
            VARY,
            HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
        );
        Some(answer)
    }

    /// Lets the origin of the request read the answer; an answer is never readable by an origin that the
    /// upstream alone names.
    pub fn expose(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        answer.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.origin(asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("www-authenticate"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_preflight_is_answered_only_to_an_exact_origin() {
        let cors = Cors { origins: vec!["https://app.example".into()] };
        let asked = |origin| headers(&[("origin", origin), ("access-control-request-method", "PUT")]);
        let answer = cors.preflight(&Method::OPTIONS, &asked("https://app.example")).unwrap();
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        for other in ["https://app.example.evil", "http://app.example", "https://APP.example", "null"] {
            assert!(cors.preflight(&Method::OPTIONS, &asked(other)).is_none(), "{other}");
        }
        assert!(cors.preflight(&Method::GET, &asked("https://app.example")).is_none());
        assert!(cors.preflight(&Method::OPTIONS, &headers(&[("origin", "https://app.example")])).is_none());
    }

    #[test]
    fn an_upstream_cannot_open_its_answers_to_other_origins() {
        let cors = Cors { origins: vec!["https://app.example".into()] };
        let mut answer = headers(&[("access-control-allow-origin", "*")]);
        cors.expose(&headers(&[("origin", "https://other.example")]), &mut answer);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
