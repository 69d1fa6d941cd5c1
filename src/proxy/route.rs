//! What a `[route]` says beyond its choice: how its requests are carried.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method, Response, StatusCode};

use super::body::Body;
use super::generation::Generation;
use super::normalize::{Asked, Kind};
use crate::identity::Direction;
use crate::policy::NormalPath;
use crate::token::Target;

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

/// What the page that sent a request, if a page did, may do with it: as its route's `cors` says.
pub struct CrossOrigin<'g> {
    cors: Option<&'g Cors>,
    /// The request's `Origin`, if it is one that may read answers.
    origin: Option<HeaderValue>,
    /// Whether more comes of the request than an answer, which its page may not get to read.
    acts: bool,
}

pub const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// How long a browser may keep a preflight's answer, in seconds.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("600");

impl<'g> CrossOrigin<'g> {
    pub fn of(
        generation: &'g Generation,
        direction: Direction,
        asked: &Asked,
        headers: &HeaderMap,
    ) -> CrossOrigin<'g> {
        let acts = asked.kind == Kind::WebSocket || !asked.method.is_safe();
        if !headers.contains_key(ORIGIN) {
            return CrossOrigin { cors: None, origin: None, acts };
        }
        let route = generation.policy.route_for(&asked.action(headers), direction);
        let settings = route.and_then(|route| generation.routes.get(route.index()));
        CrossOrigin::new(settings.and_then(|route| route.cors.as_ref()), headers, acts)
    }

    fn new(cors: Option<&'g Cors>, headers: &HeaderMap, acts: bool) -> CrossOrigin<'g> {
        let mut given = headers.get_all(ORIGIN).iter();
        let origin = match (given.next(), given.next(), cors) {
            (Some(origin), None, Some(cors)) => {
                let allowed = cors.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes());
                allowed.then(|| origin.clone())
            }
            _ => None,
        };
        CrossOrigin { cors, origin, acts }
    }

    /// Whether a request may act upon a login that its browser adds by itself: not if a page of another origin sent it,
    /// unless the route's `cors` names that. Browsers tell by `Origin` or `Sec-Fetch-Site`; what sends neither is none.
    pub fn may_act(&self, request: &Target<'_>) -> bool {
        if !self.acts || self.origin.is_some() {
            return true;
        }
        let mut origins = request.headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) => {
                let scheme: &[u8] = if request.secure { b"https://" } else { b"http://" };
                origin.as_bytes().strip_prefix(scheme) == Some(request.authority.as_bytes())
            }
            (Some(_), Some(_)) => false,
            (None, _) => {
                let mut sites = request.headers.get_all(SEC_FETCH_SITE).iter();
                sites.all(|site| site == "same-origin" || site == "none")
            }
        }
    }

    /// The answer to a preflight (Fetch §3.2.2), if this is one from an allowed origin.
    pub fn preflight(&self, asked: &Asked, headers: &HeaderMap) -> Option<Response<Body>> {
        self.preflight_headers(&asked.method, headers).map(|headers| {
            let mut answer = Response::new(Body::default());
            *answer.status_mut() = StatusCode::NO_CONTENT;
            *answer.headers_mut() = headers;
            answer
        })
    }

    fn preflight_headers(&self, method: &Method, asked: &HeaderMap) -> Option<HeaderMap> {
        if method != Method::OPTIONS {
            return None;
        }
        let asked_method = asked.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let mut answer = HeaderMap::new();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone()?);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, asked_method.clone());
        if let Some(asked_headers) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked_headers.clone());
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
        answer.insert(VARY, PREFLIGHT_VARY);
        Some(answer)
    }

    /// Lets the page read an answer, a refusal too; never one of an origin that the upstream alone names.
    pub fn expose(&self, answer: &mut HeaderMap) {
        if self.cors.is_none() {
            return;
        }
        answer.append(VARY, HeaderValue::from_static("origin"));
        answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        if let Some(origin) = &self.origin {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(
                ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("www-authenticate, dpop-nonce"),
            );
        }
    }
}

const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    fn cors() -> Cors {
        Cors { origins: vec!["https://app.example".into()] }
    }

    #[test]
    fn a_preflight_is_answered_only_to_an_exact_origin() {
        let cors = cors();
        let answer = |method, asked: &HeaderMap| {
            CrossOrigin::new(Some(&cors), asked, false).preflight_headers(&method, asked)
        };
        let asked = |origin| headers(&[("origin", origin), ("access-control-request-method", "PUT")]);
        let good = asked("https://app.example");
        let allowed = answer(Method::OPTIONS, &good).unwrap();
        assert_eq!(allowed[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(allowed[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        for other in ["https://app.example.evil", "http://app.example", "https://APP.example", "null"] {
            assert!(answer(Method::OPTIONS, &asked(other)).is_none(), "{other}");
        }
        assert!(answer(Method::GET, &good).is_none());
        assert!(answer(Method::OPTIONS, &headers(&[("origin", "https://app.example")])).is_none());
        assert!(CrossOrigin::new(None, &good, false).preflight_headers(&Method::OPTIONS, &good).is_none());
    }

    #[test]
    fn an_upstream_cannot_open_its_answers_to_other_origins() {
        let cors = cors();
        let mut answer = headers(&[("access-control-allow-origin", "*")]);
        CrossOrigin::new(Some(&cors), &headers(&[("origin", "https://other.example")]), false)
            .expose(&mut answer);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        let mut untouched = headers(&[("access-control-allow-origin", "*")]);
        CrossOrigin::new(None, &HeaderMap::new(), false).expose(&mut untouched);
        assert_eq!(untouched[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}
