//! What an upstream is shown in `Authorization`: nothing, what the caller presented, or a token that this proxy
//! gets for it, so that no application holds a secret.
//!
//! Invariants:
//! - The caller's token and one of ours never go together, and a token that is wanted and cannot be had is a
//!   refusal: nothing is forwarded without it.
//! - A token goes to the upstream that it was got for and to nobody else. Neither it nor what it was got with
//!   is in a log, a record or a status.
//! - What a token endpoint says is taken strictly: a token that is no bearer token, or cannot be sent as one, is
//!   none.

mod answer;
mod authentication;
mod endpoint;
mod exchange;
mod own;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::HeaderValue;

pub use authentication::{AssertionKey, Authentication};
pub use endpoint::EndpointSettings;
pub use exchange::{ExchangeSettings, Exchanges};
pub use own::{OwnSettings, OwnToken, Wanted};

use crate::clock::Timestamp;

/// What an upstream is shown, and where it comes from.
#[derive(Clone, Debug)]
pub struct UpstreamCredential {
    pub kind: CredentialKind,
    /// None where there is nothing to get, where our certificate for it is awaited, and where requests are only
    /// asked about.
    source: Option<Source>,
}

/// `[upstream.x.credential] kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CredentialKind {
    /// There is no such table: the route's `forward_authorization` decides.
    #[default]
    ByRoute,
    None,
    Forward,
    ClientCredentials,
    Exchange,
}

#[derive(Clone, Debug)]
enum Source {
    Own(Arc<OwnToken>),
    Exchange(Arc<Exchanges>),
}

/// What is asked for, and of whom. Equal where tokens may be kept over a reload.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum CredentialSettings {
    #[default]
    ByRoute,
    None,
    Forward,
    ClientCredentials(OwnSettings),
    Exchange(ExchangeSettings),
}

/// The caller's own token, verified, and when it ends.
#[derive(Clone, Copy)]
pub struct Subject<'r> {
    pub token: &'r str,
    pub expires: Timestamp,
}

/// Why there is no token for an upstream. Details are for records, never for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The token endpoint cannot be asked, or does not know us.
    #[error("no token for the upstream: {0}")]
    Unavailable(Arc<str>),
    /// The token endpoint does not exchange this caller's token.
    #[error("the caller's token is not exchanged for the upstream: {0}")]
    Refused(Arc<str>),
}

impl CredentialError {
    /// A proof of possession was made for us, and what a hop tells is for us: nobody else would take them.
    pub fn no_bearer_token() -> CredentialError {
        CredentialError::Refused("it did not come as `Authorization: Bearer`".into())
    }
}

/// For status and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialStatus {
    /// Of our own token: when it ends.
    pub expires: Option<Timestamp>,
    /// Of our own token: when the next one is asked for.
    pub refresh: Option<Timestamp>,
    /// Exchanged tokens that are remembered.
    pub entries: u64,
    /// Why the last attempt failed, if it did.
    pub failure: Option<Arc<str>>,
}

impl UpstreamCredential {
    /// With nothing to get a token by.
    pub fn of_kind(kind: CredentialKind) -> UpstreamCredential {
        UpstreamCredential { kind, source: None }
    }

    pub fn own(token: Arc<OwnToken>) -> UpstreamCredential {
        UpstreamCredential { kind: CredentialKind::ClientCredentials, source: Some(Source::Own(token)) }
    }

    pub fn exchange(exchanges: Arc<Exchanges>) -> UpstreamCredential {
        UpstreamCredential { kind: CredentialKind::Exchange, source: Some(Source::Exchange(exchanges)) }
    }

    /// The value of `Authorization` for a request of `subject`.
    pub async fn obtain(&self, subject: Option<Subject<'_>>) -> Result<HeaderValue, CredentialError> {
        match (&self.source, subject) {
            (Some(Source::Own(own)), _) => own.current().await,
            (Some(Source::Exchange(exchanges)), Some(subject)) => exchanges.token_for(subject).await,
            (Some(Source::Exchange(_)), None) => Err(CredentialError::no_bearer_token()),
            (None, _) => Err(CredentialError::Unavailable("there is nothing to get one by yet".into())),
        }
    }

    /// Starts with what `before` got, which asked for the same: by another certificate of ours, or under other CAs.
    pub fn take_over(&self, before: &UpstreamCredential) {
        match (&self.source, &before.source) {
            (Some(Source::Own(own)), Some(Source::Own(before))) => own.take_over(before),
            (Some(Source::Exchange(exchanges)), Some(Source::Exchange(before))) => {
                exchanges.take_over(before)
            }
            _ => {}
        }
    }

    /// Of what gets tokens.
    pub fn status(&self) -> Option<CredentialStatus> {
        match self.source.as_ref()? {
            Source::Own(own) => Some(own.status()),
            Source::Exchange(exchanges) => Some(exchanges.status()),
        }
    }
}

impl CredentialSettings {
    pub fn kind(&self) -> CredentialKind {
        match self {
            CredentialSettings::ByRoute => CredentialKind::ByRoute,
            CredentialSettings::None => CredentialKind::None,
            CredentialSettings::Forward => CredentialKind::Forward,
            CredentialSettings::ClientCredentials(_) => CredentialKind::ClientCredentials,
            CredentialSettings::Exchange(_) => CredentialKind::Exchange,
        }
    }

    /// Of the token endpoint, where one is asked.
    pub fn endpoint(&self) -> Option<&EndpointSettings> {
        match self {
            CredentialSettings::ClientCredentials(own) => Some(&own.endpoint),
            CredentialSettings::Exchange(exchange) => Some(&exchange.endpoint),
            CredentialSettings::ByRoute | CredentialSettings::None | CredentialSettings::Forward => None,
        }
    }

    pub fn endpoint_mut(&mut self) -> Option<&mut EndpointSettings> {
        match self {
            CredentialSettings::ClientCredentials(own) => Some(&mut own.endpoint),
            CredentialSettings::Exchange(exchange) => Some(&mut exchange.endpoint),
            CredentialSettings::ByRoute | CredentialSettings::None | CredentialSettings::Forward => None,
        }
    }

    /// Whether the same is asked for, of the same endpoint, if perhaps with another certificate of ours, and whoever
    /// vouches for it.
    pub fn asks_as(&self, other: &CredentialSettings) -> bool {
        let mut same = self.clone();
        if let (Some(mine), Some(other)) = (same.endpoint_mut(), other.endpoint()) {
            mine.own.clone_from(&other.own);
            mine.ca.clone_from(&other.ca);
        }
        same == *other
    }
}

impl CredentialKind {
    /// As it is configured; nothing where it is not.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            CredentialKind::ByRoute => None,
            CredentialKind::None => Some("none"),
            CredentialKind::Forward => Some("forward"),
            CredentialKind::ClientCredentials => Some("client_credentials"),
            CredentialKind::Exchange => Some("exchange"),
        }
    }
}
