//! The servers that we send to, for as long as a connection to one is used: judged in the handshake, and again by
//! what it showed there whenever that may come out otherwise.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName};

use super::client::{ClientTlsError, ExpectedServer, Judge, WrongServer, in_words};
use super::peer::{PeerError, certificate_hash, validity};
use super::{Alpn, OwnCertificate, provider, unix_time};
use crate::clock::{Clock, Timestamp};
use crate::identity::{CertificateHash, PeerName, SpiffeId};

/// How connections to the servers of one upstream are made, and who may be at their other end.
#[derive(Debug)]
pub struct ServerTls {
    pub config: Arc<ClientConfig>,
    judge: Judge,
    clock: Clock,
}

/// What a server showed when it was dialled by a name.
#[derive(Debug)]
pub struct Shown {
    /// The leaf first.
    chain: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

/// Who a server was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub certificate: CertificateHash,
    /// Where that is what it is known by.
    pub id: Option<SpiffeId>,
    /// From then on it is to be judged again.
    pub until: Timestamp,
}

impl ServerTls {
    /// See [`client_config`](super::client::client_config).
    pub fn new(
        expected: &ExpectedServer,
        own: Option<&OwnCertificate>,
        alpn: &[Alpn],
        clock: &Clock,
    ) -> Result<Arc<ServerTls>, ClientTlsError> {
        let judge = Judge::of(expected)?;
        Ok(Arc::new(ServerTls { config: judge.config(own, alpn, clock)?, judge, clock: clock.clone() }))
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Judges a server by what it showed, as of now.
    pub fn find(&self, shown: &Shown) -> Result<Found, WrongServer> {
        let now = self.now();
        let (leaf, others) = shown.chain.split_first().ok_or(PeerError::Missing)?;
        match &self.judge {
            Judge::Workload(workload) => {
                let peer = workload.judge(leaf, others, now)?;
                let id = match &peer.name {
                    PeerName::Spiffe(id) => Some(id.clone()),
                    PeerName::Dns { .. } => None,
                };
                let until = workload.trust.vouched_until(&peer);
                Ok(Found { certificate: peer.certificate, id, until })
            }
            Judge::Roots(roots) => {
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider()).build();
                let verifier = verifier.map_err(|error| WrongServer::Named(error.to_string()))?;
                verifier
                    .verify_server_cert(leaf, others, &shown.name, &[], unix_time(now))
                    .map_err(|error| WrongServer::Named(in_words(&error)))?;
                // Which of the others are of its path is not told; where one is not, it is judged once more.
                let ends = shown.chain.iter().filter_map(|it| Some(validity(it)?.not_after));
                let until = ends.filter(|end| now < *end).min().unwrap_or(now);
                Ok(Found { certificate: certificate_hash(leaf), id: None, until })
            }
        }
    }
}

impl Shown {
    /// In this handshake, which has ended well.
    pub fn of(handshake: &rustls::ClientConnection, name: &ServerName<'static>) -> Shown {
        let chain = handshake.peer_certificates().unwrap_or_default();
        let chain = chain.iter().map(|it| it.clone().into_owned()).collect();
        Shown { chain, name: name.clone() }
    }
}
