//! What an upstream saw of a request, as it says it back.

use aws_lc_rs::digest;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{Error, hex};

/// Bodies up to here are said back in words.
const BODY_SHOWN_BYTES_MAX: usize = 4096;

/// A request as the upstream saw it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub version: String,
    /// In the order of arrival within one name; names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    pub body_bytes: u64,
    pub body_sha256: String,
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    /// Every value of a header, in order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// What stands before the body.
    pub fn head(head: &Parts) -> Seen {
        Seen {
            method: head.method.to_string(),
            uri: head.uri.to_string(),
            version: format!("{:?}", head.version),
            headers: listed(&head.headers),
            body: None,
            body_bytes: 0,
            body_sha256: String::new(),
            trailers: Vec::new(),
        }
    }

    /// Reads the whole request.
    pub async fn read(request: Request<Incoming>) -> Result<Seen, Error> {
        let (head, mut body) = request.into_parts();
        let mut hash = digest::Context::new(&digest::SHA256);
        let (mut shown, mut body_bytes, mut trailers) = (Vec::new(), 0, Vec::new());
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    hash.update(&data);
                    body_bytes += data.len() as u64;
                    if shown.len() <= BODY_SHOWN_BYTES_MAX {
                        shown.extend_from_slice(&data);
                    }
                }
                Err(frame) => trailers = frame.trailers_ref().map(listed).unwrap_or_default(),
            }
        }
        let whole = shown.len() <= BODY_SHOWN_BYTES_MAX;
        Ok(Seen {
            body: String::from_utf8(shown).ok().filter(|_| whole),
            body_bytes,
            body_sha256: hex(hash.finish()),
            trailers,
            ..Seen::head(&head)
        })
    }
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
