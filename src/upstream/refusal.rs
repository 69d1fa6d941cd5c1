//! Telling who refused whom: a mismatch of identities must never look like a network error.
//!
//! Under TLS 1.3 an upstream refuses our certificate only after our handshake has ended, and hyper keeps
//! that error to itself if no request is on its way. So the stream below hyper notes it down.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{UpstreamError, in_full};
use crate::tls::client::in_words;

/// What TLS said about identities on one connection, if it did. (`Send`, since it lies under upgrades.)
pub(super) type Refusal = Arc<OnceLock<UpstreamError>>;

/// A TLS stream that notes down an error about identities.
pub(super) struct Watched<T> {
    io: T,
    refusal: Refusal,
    whom: String,
}

impl<T> Watched<T> {
    pub fn new(io: T, refusal: &Refusal, whom: String) -> Watched<T> {
        Watched { io, refusal: Arc::clone(refusal), whom }
    }

    fn noting<R>(&self, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if let Poll::Ready(Err(error)) = &polled
            && let Some(told) = over_identity(error, &self.whom)
        {
            // The first one counts.
            let _ = self.refusal.set(told);
        }
        polled
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.noting(polled)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.noting(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.noting(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.noting(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What a failure of a connection means: about identity, if TLS says so anywhere in the chain of causes,
/// else unavailable.
pub(super) fn refused(error: &(dyn std::error::Error + 'static), whom: &str) -> UpstreamError {
    let unavailable = || UpstreamError::Unavailable(format!("{whom}: {}", in_full(error)));
    over_identity(error, whom).unwrap_or_else(unavailable)
}

/// Who refused whom, if that is what broke the connection.
fn over_identity(error: &(dyn std::error::Error + 'static), whom: &str) -> Option<UpstreamError> {
    let mut next = Some(error);
    while let Some(cause) = next {
        match cause.downcast_ref() {
            Some(rustls::Error::AlertReceived(alert)) if let Some(said) = said_of_ours(*alert) => {
                let told = format!("{whom}: the server refused our certificate ({said})");
                return Some(UpstreamError::RefusedUs(told));
            }
            Some(told) if is_about_identity(told) => {
                return Some(UpstreamError::IdentityMismatch(format!("{whom}: {}", in_words(told))));
            }
            _ => {}
        }
        // An `io::Error` is transparent: its `source` skips what it holds.
        let held = cause.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = match held {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

fn is_about_identity(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidCertRevocationList(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType
            | rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)
    )
}

/// What an alert says of our certificate, if it is about that (RFC 8446 §6.2).
fn said_of_ours(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::BadCertificate => "it is broken",
        AlertDescription::UnsupportedCertificate => "it is of no kind that is taken there",
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::CertificateUnknown => "it is not acceptable there",
        AlertDescription::UnknownCA => "unknown CA",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::CertificateRequired => "one is demanded, and none was shown",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{CertificateError, OtherError};

    #[test]
    fn who_refused_whom_is_told_apart_wherever_it_stands_in_the_chain() {
        let alert = rustls::Error::AlertReceived;
        let mut seen = 0;
        for (error, told) in [
            (
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "identity mismatch: x: invalid peer certificate: UnknownIssuer",
            ),
            (rustls::Error::NoCertificatesPresented, "identity mismatch: x: peer sent no certificates"),
            (
                alert(AlertDescription::CertificateRequired),
                "unavailable: x: the server refused our certificate (one is demanded, and none was shown)",
            ),
            (
                alert(AlertDescription::UnknownCA),
                "unavailable: x: the server refused our certificate (unknown CA)",
            ),
            (alert(AlertDescription::InternalError), "unavailable: x: received fatal alert: InternalError"),
            (rustls::Error::HandshakeNotComplete, "unavailable: x: handshake not complete"),
        ] {
            let wrapped = std::io::Error::other(std::io::Error::other(error.clone()));
            for refusal in [refused(&error, "x"), refused(&wrapped, "x")] {
                assert_eq!(refusal.to_string(), format!("upstream {told}"));
                seen += 1;
            }
        }
        assert_eq!(seen, 12);
    }

    #[test]
    fn who_was_found_is_said_in_words() {
        let ours = OtherError(Arc::new(io::Error::other("the server is `billing`")));
        let error = rustls::Error::InvalidCertificate(CertificateError::Other(ours));
        let told = refused(&io::Error::other(error), "https://orders:443").to_string();
        assert_eq!(told, "upstream identity mismatch: https://orders:443: the server is `billing`");
    }
}
