//! Whether what discovery documents name moves to another host: an issuer may do so, but seldom does.

use std::sync::{Mutex, PoisonError};

use url::Url;

/// What an issuer's discovery document last named.
#[derive(Debug, Default)]
pub struct Moved(Mutex<Option<Url>>);

impl Moved {
    /// It names `url` for its `named` now.
    pub fn to(&self, url: &Url, issuer: &str, named: &'static str) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(url.clone());
        if let Some(before) = before
            && before.host() != url.host()
        {
            let [before, now] = [&before, url].map(|url| url.host_str().unwrap_or_default());
            tracing::warn!(issuer, named, before, now, "an issuer's discovery document names another host");
        }
    }
}
