//! The demo's upstreams: each answers with what reached it, so that one can see what the proxy adds
//! and takes away.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::DemoError;
use super::loopback::{self, Listening, LoopbackError};

/// The header that tells an upstream which decision let a request through.
pub const DECISION_HEADER: &str = "x-auth-decision";

const BODY_BYTES_MAX: usize = 64 * 1024;

/// Starts one that calls itself `name`.
pub async fn start(name: &'static str) -> Result<Listening, DemoError> {
    let listener = loopback::bind(loopback::ANY_PORT).await?;
    let listening = loopback::serve(listener, move |request| echo(name, request));
    listening.map_err(|error| LoopbackError::Bind(loopback::ANY_PORT, error).into())
}

async fn echo(name: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            let refused = json!({ "upstream": name, "error": format!("a body over {BODY_BYTES_MAX} bytes, or half of one") });
            return loopback::json(StatusCode::PAYLOAD_TOO_LARGE, &refused);
        }
    };
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (header, value) in &head.headers {
        headers
            .entry(header.as_str())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let headers: BTreeMap<_, _> =
        headers.into_iter().map(|(header, values)| (header, values.join(", "))).collect();
    let seen = json!({
        "upstream": name,
        "method": head.method.as_str(),
        "path": head.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    loopback::json(StatusCode::OK, &seen)
}
