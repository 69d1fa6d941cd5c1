//! What of a configuration says who we are and whom we trust: all that a source of service identity may change
//! while the files stay as they are.

use std::sync::Arc;

use crate::config::{IssuerServer, ListenerSettings, ServerTls, UpstreamConfig};
use crate::identity::{Name, Peer, SpiffeId};
use crate::tls::client::ExpectedServer;
use crate::tls::source::Issued;
use crate::tls::{ClientCertificates, Own, OwnCertificate, Trust, TrustError};

#[derive(Clone)]
pub struct Identities {
    pub own: Option<Own>,
    /// For certificates that hops tell.
    pub trust: Option<Arc<Trust>>,
    pub listeners: Vec<ListenerSettings>,
    pub issuers: Vec<IssuerServer>,
    /// By `UpstreamId`.
    pub upstreams: Vec<UpstreamConfig>,
}

impl Identities {
    /// The same with what was issued in the place of what is awaited. Trust that did not change stays the one of
    /// `present`, with the chains that it has verified.
    pub fn with(
        &self,
        issued: Option<&Issued>,
        present: Option<&Identities>,
    ) -> Result<Identities, TrustError> {
        let mut filled = self.clone();
        let Some(issued) = issued else { return Ok(filled) };
        let mut known: Vec<Arc<Trust>> = present.into_iter().flat_map(Identities::trusts).cloned().collect();
        for trust in filled.trusts_mut() {
            let fresh = trust.issued(&issued.bundles)?;
            *trust = match known.iter().find(|known| ***known == fresh) {
                Some(same) => Arc::clone(same),
                None => Arc::new(fresh),
            };
            known.push(Arc::clone(trust));
        }
        for own in filled.owns_mut().filter(|own| **own == Own::Awaited) {
            *own = Own::Known(issued.own.clone());
        }
        Ok(filled)
    }

    pub fn own_id(&self) -> Option<SpiffeId> {
        self.own.as_ref()?.known()?.spiffe_id.clone()
    }

    /// Ourselves as a peer, where our certificate has a SPIFFE ID.
    pub fn own_peer(&self) -> Option<Arc<Peer>> {
        self.own.as_ref()?.known()?.as_local_peer().map(Arc::new)
    }

    /// Whom this issuer's keys are fetched from, where that is known by its SPIFFE ID.
    pub fn server_of(&self, issuer: &Name) -> Option<&ServerTls> {
        self.issuers.iter().find(|server| server.issuer == *issuer).map(|server| &server.tls)
    }

    /// Our own certificates, by their place in the configuration.
    pub fn certificates(&self) -> impl Iterator<Item = (String, &OwnCertificate)> {
        let identity = self.own.iter().filter_map(|own| Some(("identity".to_owned(), own.known()?)));
        let listeners = self.listeners.iter().filter_map(|listener| {
            let own = &listener.tls.as_ref()?.own;
            let differs = self.own.as_ref() != Some(own);
            Some((format!("listener.{}", listener.name), own.known().filter(|_| differs)?))
        });
        identity.chain(listeners)
    }

    fn trusts(&self) -> impl Iterator<Item = &Arc<Trust>> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()?.clients.trust());
        let servers = self.upstreams.iter().map(|upstream| &upstream.tls);
        let servers = servers.chain(self.issuers.iter().map(|server| &server.tls));
        listeners.chain(&self.trust).chain(servers.filter_map(|server| match &server.expected {
            ExpectedServer::Workload { trust, .. } => Some(trust),
            ExpectedServer::PublicCa | ExpectedServer::Ca(_) => None,
        }))
    }

    fn trusts_mut(&mut self) -> impl Iterator<Item = &mut Arc<Trust>> {
        let listeners =
            self.listeners.iter_mut().filter_map(|listener| match &mut listener.tls.as_mut()?.clients {
                ClientCertificates::Required(trust) | ClientCertificates::Optional(trust) => Some(trust),
                ClientCertificates::Off => None,
            });
        let servers = self.upstreams.iter_mut().map(|upstream| &mut upstream.tls);
        let servers = servers.chain(self.issuers.iter_mut().map(|server| &mut server.tls));
        listeners.chain(&mut self.trust).chain(servers.filter_map(|server| match &mut server.expected {
            ExpectedServer::Workload { trust, .. } => Some(trust),
            ExpectedServer::PublicCa | ExpectedServer::Ca(_) => None,
        }))
    }

    fn owns_mut(&mut self) -> impl Iterator<Item = &mut Own> {
        let listeners =
            self.listeners.iter_mut().filter_map(|listener| Some(&mut listener.tls.as_mut()?.own));
        let upstreams = self.upstreams.iter_mut().flat_map(|upstream| {
            let shown = upstream.credential.endpoint_mut().and_then(|endpoint| endpoint.own.as_mut());
            upstream.tls.own.iter_mut().chain(shown)
        });
        let issuers = self.issuers.iter_mut().flat_map(|server| server.tls.own.iter_mut());
        self.own.iter_mut().chain(listeners).chain(upstreams).chain(issuers)
    }
}
