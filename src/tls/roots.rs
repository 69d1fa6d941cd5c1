//! The CAs that vouch for servers by their DNS names.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::domain::{BadCa, Cas};
use super::{PemSource, TrustError};

/// Equal where the CAs are.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// By these nobody is believed.
    pub fn none() -> Roots {
        Roots(Arc::new(RootCertStore::empty()))
    }

    /// Those of the operating system's store as it is now, unless there are none. It is some hundred files.
    pub fn system() -> Option<Roots> {
        let mut roots = RootCertStore::empty();
        // The store of an operating system has oddities that are not ours to judge.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        (!roots.is_empty()).then(|| Roots(Arc::new(roots)))
    }

    /// Those that stand there, each one that can vouch for others.
    pub fn load(source: &PemSource) -> Result<Roots, TrustError> {
        Roots::new(&source.certificates()?).map_err(|bad| bad.of(source.clone()))
    }

    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Roots, BadCa> {
        Ok(Roots(Arc::new(RootCertStore { roots: Cas::new(certificates)?.anchors })))
    }

    pub(super) fn store(&self) -> &Arc<RootCertStore> {
        &self.0
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Roots) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.roots == other.0.roots
    }
}

impl Eq for Roots {}
