//! What of a configuration says who we are and whom we trust: all that a source of service identity may change
//! while the files stay as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::{IssuerServer, ListenerSettings, UpstreamConfig, UpstreamTls};
use crate::identity::{Name, Peer, SpiffeId, TrustDomain};
use crate::tls::client::ExpectedServer;
use crate::tls::source::Issued;
use crate::tls::{Cas, ClientCertificates, NoCas, Own, OwnCertificate, Standing, Trust};

#[derive(Clone)]
pub struct Identities {
    pub own: Option<Own>,
    /// All trust domains.
    pub trust: Option<Arc<Trust>>,
    pub listeners: Vec<ListenerSettings>,
    pub issuers: Vec<IssuerServer>,
    /// By `UpstreamId`.
    pub upstreams: Vec<UpstreamConfig>,
}

/// Our own trust domain is none that the configuration names, and those whose CAs were to come have none: nobody
/// will get in, and nobody will be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the source is of trust domain `{own}`, which no `[trust_domain]` names, and gives no CA of `{awaited}`; write its name as the source has it"
)]
pub struct Mismatch {
    own: TrustDomain,
    awaited: TrustDomain,
}

impl Identities {
    /// The same with what was issued in the place of what is awaited. Trust that did not change stays the one of
    /// `present`, with the chains that it has verified.
    pub fn with(&self, issued: Option<&Issued>, present: Option<&Identities>) -> Identities {
        let mut filled = self.clone();
        let Some(issued) = issued else { return filled };
        let mut known: Vec<Arc<Trust>> = present.into_iter().flat_map(Identities::trusts).cloned().collect();
        for trust in filled.trusts_mut() {
            let fresh = trust.issued(&issued.bundles, issued.trust_domain());
            *trust = match known.iter().find(|known| ***known == fresh) {
                Some(same) => Arc::clone(same),
                None => Arc::new(fresh),
            };
            known.push(Arc::clone(trust));
        }
        for own in filled.owns_mut().filter(|own| **own == Own::Awaited) {
            *own = Own::Known(issued.own.clone());
        }
        filled
    }

    /// The trust domains without CAs, and why.
    pub fn awaited(&self) -> BTreeMap<&TrustDomain, &NoCas> {
        self.trusts().flat_map(|trust| trust.awaited()).collect()
    }

    /// The CAs of the trust domains that have some.
    pub fn cas(&self) -> impl Iterator<Item = (&TrustDomain, &Cas)> {
        self.trust.iter().flat_map(|trust| trust.cas())
    }

    /// How all trust domains stand with their CAs and revocation lists.
    pub fn standings(&self) -> impl Iterator<Item = (&TrustDomain, &Standing)> {
        self.trust.iter().flat_map(|trust| trust.standings())
    }

    /// When the first revocation list of each trust domain that has some must have a successor.
    pub fn next_updates(&self) -> impl Iterator<Item = (&TrustDomain, Timestamp)> {
        self.standings().filter_map(|(name, standing)| Some((name, standing.next_update?)))
    }

    /// Whether the configuration means another trust domain than that which the source is of.
    pub fn mismatch(&self, issued: Option<&Issued>) -> Option<Mismatch> {
        let own = issued?.trust_domain()?;
        let is_none_of_them = |trust: &&Arc<Trust>| !trust.names(own) && trust.lacks_all_issued();
        let awaited = self.trusts().find(is_none_of_them)?.awaited().next()?.0.clone();
        Some(Mismatch { own: own.clone(), awaited })
    }

    pub fn own_id(&self) -> Option<SpiffeId> {
        self.own.as_ref()?.known()?.spiffe_id.clone()
    }

    /// Ourselves as a peer, where our certificate has a SPIFFE ID.
    pub fn own_peer(&self) -> Option<Arc<Peer>> {
        self.own.as_ref()?.known()?.as_local_peer().map(Arc::new)
    }

    /// Whom this issuer's keys are fetched from, where that is known by its SPIFFE ID.
    pub fn server_of(&self, issuer: &Name) -> Option<&UpstreamTls> {
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
            ExpectedServer::Named(_) => None,
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
            ExpectedServer::Named(_) => None,
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
