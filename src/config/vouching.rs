//! Whether the CAs of the trust domains vouch for anybody at present, and for ourselves.
//!
//! A CA or a list that has ended is no error by itself: it may be that of one federated domain among several, and
//! must not keep a change of the policy from all others. Where nobody at all could get in, it is.

use super::error::{Diagnostic, Diagnostics};
use super::file::File;
use super::lints::{self, Subject};
use super::listeners::ListenerSettings;
use super::names::entries;
use super::source::Span;
use crate::clock::Timestamp;
use crate::identity::TrustDomain;
use crate::policy::lint::{Code, Severity};
use crate::tls::{ClientCertificates, Own, OwnCertificate, Trust, Why};

/// What is looked at.
#[derive(Clone, Copy)]
pub struct Vouching<'a> {
    pub file: &'a File,
    pub own: Option<&'a Own>,
    pub trust: &'a Trust,
    pub listeners: &'a [ListenerSettings],
    pub now: Timestamp,
}

impl Vouching<'_> {
    /// Adds what is found, but for what the file allows.
    pub fn look(self, found: &mut Diagnostics) {
        let severity = if self.is_everybody_refused() { Severity::Error } else { Severity::Finding };
        for (name, typed) in entries(&self.file.trust_domain) {
            let standing = self.trust.standings().find(|(known, _)| **known == name.value);
            for idle in standing.into_iter().flat_map(|(_, standing)| standing.idle(self.now)) {
                let (ca, crl) = (typed.value.ca.as_ref(), typed.value.crl.as_ref());
                let (code, place, remedy) = match idle.why {
                    Why::Expired(_) => {
                        ("expired_certificate", ca, "name the CA that is valid now, or take this one out")
                    }
                    Why::NoList => {
                        ("bad_crl", crl, "add its list: each CA that issues needs one, the root too")
                    }
                    Why::ListExpired(_) => {
                        ("bad_crl", crl, "put the list there that the CA has issued since")
                    }
                };
                let span = place.map_or(name.span, |place| place.span);
                let message = format!("{idle}: whoever it vouches for is refused");
                match severity {
                    Severity::Error => found.error(code, span, message, remedy),
                    _ => self.tell(Code::CaIdle, span, &name.value, message, remedy, found),
                }
            }
        }
        for (own, span) in self.own_certificates() {
            let Some((id, why)) = own.spiffe_id.as_ref().zip(self.trust.refuses(own, self.now)) else {
                continue;
            };
            let domain = id.trust_domain();
            let message = format!("workloads of `{domain}` will refuse us by what stands here: {why}");
            let remedy = "name the CA that issued it, or have it issued by the one that is named";
            self.tell(Code::OwnUntrusted, span, domain, message, remedy, found);
        }
    }

    /// Whether each listener demands a certificate, and no CA vouches for any.
    fn is_everybody_refused(self) -> bool {
        let demands = |listener: &ListenerSettings| {
            let clients = listener.tls.as_ref().map(|tls| &tls.clients);
            matches!(clients, Some(ClientCertificates::Required(_)))
        };
        !self.listeners.is_empty()
            && self.listeners.iter().all(demands)
            && self.trust.standings().all(|(_, standing)| standing.is_idle(self.now))
    }

    /// Those that files give, with their places.
    fn own_certificates(&self) -> impl Iterator<Item = (&OwnCertificate, Span)> {
        let identity = self.file.identity.as_ref().and_then(|identity| identity.value.certificate.as_ref());
        let identity = self.own.and_then(Own::known).zip(identity);
        let listeners = entries(&self.file.listener).iter().filter_map(|(name, typed)| {
            let listener = self.listeners.iter().find(|listener| listener.name == name.value)?;
            listener.tls.as_ref()?.own.known().zip(typed.value.certificate.as_ref())
        });
        identity.into_iter().chain(listeners).map(|(own, certificate)| (own, certificate.span))
    }

    fn tell(
        self,
        code: Code,
        span: Span,
        domain: &TrustDomain,
        message: String,
        remedy: &str,
        found: &mut Diagnostics,
    ) {
        if !lints::is_allowed(self.file, code.as_str(), Some(Subject::TrustDomain(domain))) {
            let (severity, code, remedy) = (code.severity(), code.as_str(), remedy.to_owned());
            found.push(Diagnostic { severity, code, span, message, remedy, related: None });
        }
    }
}
