//! How a question comes by its peer: the part of a TLS handshake that decides who is there.

use std::sync::Arc;

use super::question::{Presented, Question, STAND_IN};
use super::{Trial, Unaskable};
use crate::audit::{Claimed, Reason, RefusedHandshake};
use crate::clock::Timestamp;
use crate::config::ListenerSettings;
use crate::identity::{CertificateHash, Hop, Name, Peer, PeerName, Signature};
use crate::policy::pattern::HostPattern;
use crate::policy::role::PeerPattern;
use crate::proxy::hop::{self, CertificateHeader, HopKind, KnownBy, Learned, TrustedHop};
use crate::proxy::refusal::Refusal;
use crate::tls::peer::certificate_hash;
use crate::tls::{ClientCertificates, PeerError, Unverified};

/// Who is there, and to which listener it came.
pub struct Handshake {
    /// `None` where the configuration has none: it then takes what it is told.
    pub listener: Option<usize>,
    /// Whose its requests are, where it is made at all.
    pub peer: Result<Result<Signature<Peer>, Refusal>, RefusedHandshake>,
    /// The hop at its other end, where that tells whose they are.
    pub hop: Option<Name>,
}

impl Trial {
    pub(super) fn handshake(&self, question: &Question) -> Result<Handshake, Unaskable> {
        let listener = self.choose_listener(question)?;
        if let Some(hop) = self.hop(question) {
            return self.told(question, hop, listener);
        }
        let clients = listener.map(|at| clients(&self.listeners[at]));
        let presented = match &question.peer {
            Presented::Nothing => None,
            Presented::Service(name) => Some(self.workload_of(name)?),
            Presented::Named(name) => Some(name.clone()),
            Presented::Chain(chain) => {
                let clients = clients.ok_or(Unaskable::NoListener)?;
                if let Some(domain) = clients.trust().and_then(|trust| trust.awaited().next()) {
                    return Err(Unaskable::Awaited(domain.clone()));
                }
                let peer = clients.verify(chain, self.at(question));
                let claimed = chain.first().map(|leaf| Unverified::read(leaf));
                let claimed = claimed.map(|it| Claimed { spiffe_id: it.uri, certificate: it.certificate });
                let refused = |error| self.refused(question, listener, &error, claimed);
                return Ok(Handshake { listener, peer: peer.map(Ok).map_err(refused), hop: None });
            }
        };
        let peer = match (clients, &presented) {
            // Where no certificate is asked for, none comes.
            (Some(ClientCertificates::Off), _) => Ok(Signature::Absent),
            (Some(ClientCertificates::Required(_)), None) => Err(PeerError::Missing),
            (Some(ClientCertificates::Optional(_)) | None, None) => Ok(Signature::Absent),
            (Some(ClientCertificates::Required(trust) | ClientCertificates::Optional(trust)), Some(name)) => {
                trust.check_name(name).map(|()| verified(name, question))
            }
            (None, Some(name)) => Ok(verified(name, question)),
        };
        let claimed = presented.map(|name| Claimed {
            certificate: certificate_of(&name),
            spiffe_id: match name {
                PeerName::Spiffe(id) => Some(id.to_string()),
                PeerName::Dns { .. } => None,
            },
        });
        let refused = |error| self.refused(question, listener, &error, claimed);
        Ok(Handshake { listener, peer: peer.map(Ok).map_err(refused), hop: None })
    }

    /// The hop that a question comes through, where that is one that tells certificates.
    fn hop(&self, question: &Question) -> Option<(&TrustedHop, CertificateHeader)> {
        let Hop::Trusted(name) = &question.hop else { return None };
        self.generation.hops.iter().find_map(|hop| match hop.kind {
            HopKind::Certificate(header) if hop.name == *name => Some((hop, header)),
            HopKind::Certificate(_) | HopKind::Countersign => None,
        })
    }

    /// What a hop tells: of whoever is presented, or what stands in the header fields that it is asked with.
    fn told(
        &self,
        question: &Question,
        (hop, header): (&TrustedHop, CertificateHeader),
        listener: Option<usize>,
    ) -> Result<Handshake, Unaskable> {
        let settings = listener.map(|at| &self.listeners[at]);
        let is_known = match (&hop.known_by, settings.map(clients)) {
            (KnownBy::Address(_), Some(ClientCertificates::Required(_))) => {
                let refused = self.refused(question, listener, &PeerError::Missing, None);
                return Ok(Handshake { listener, peer: Err(refused), hop: None });
            }
            (KnownBy::SpiffeId(_), Some(clients)) => *clients != ClientCertificates::Off,
            (KnownBy::Address(_), Some(_)) => settings.is_none_or(|it| it.proxy_hops.is_none()),
            (_, None) => true,
        };
        if !is_known {
            return Ok(Handshake { listener, peer: Ok(Ok(Signature::Absent)), hop: None });
        }
        let (trust, now) = (self.generation.trust.as_ref(), self.at(question));
        if let Some(domain) = trust.and_then(|trust| trust.awaited().next()) {
            return Err(Unaskable::Awaited(domain.clone()));
        }
        let no_trust = || Refusal::of(Reason::Internal);
        let named = |name: &PeerName| {
            let checked = trust.ok_or_else(no_trust)?.check_name(name);
            checked.map(|()| verified(name, question)).map_err(|error| Refusal::from(&error))
        };
        let peer = match &question.peer {
            Presented::Nothing => Learned::default().peer((hop, header), trust, &question.head.headers, now),
            Presented::Chain(chain) => trust.ok_or_else(no_trust).and_then(|trust| {
                let peer = hop::vouched(trust, chain, &hop.name, now).map(Signature::Verified);
                peer.map_err(|error| Refusal::from(&error))
            }),
            Presented::Service(name) => named(&self.workload_of(name)?),
            Presented::Named(name) => named(name),
        };
        Ok(Handshake { listener, peer: Ok(peer), hop: Some(hop.name.clone()) })
    }

    fn workload_of(&self, name: &Name) -> Result<PeerName, Unaskable> {
        let services = &self.policy().parts().services;
        let service = services.iter().find(|service| service.name == *name);
        let service = service.ok_or_else(|| Unaskable::Service(name.clone()))?;
        let name_of_it = service.identities.iter().find_map(example);
        name_of_it.ok_or_else(|| Unaskable::Nobody(name.clone()))
    }

    fn choose_listener(&self, question: &Question) -> Result<Option<usize>, Unaskable> {
        if let Some(name) = &question.listener {
            let found = self.listeners.iter().position(|listener| listener.name == *name);
            return found.map(Some).ok_or_else(|| Unaskable::Listener(name.clone()));
        }
        let shows_one = match self.hop(question) {
            Some((hop, _)) => matches!(hop.known_by, KnownBy::SpiffeId(_)),
            None => !matches!(question.peer, Presented::Nothing),
        };
        let fits = |listener: &ListenerSettings| match clients(listener) {
            ClientCertificates::Required(_) => shows_one,
            ClientCertificates::Optional(_) => true,
            ClientCertificates::Off => !shows_one,
        };
        let first = (!self.listeners.is_empty()).then_some(0);
        Ok(self.listeners.iter().position(fits).or(first))
    }

    fn refused(
        &self,
        question: &Question,
        listener: Option<usize>,
        error: &PeerError,
        claimed: Option<Claimed>,
    ) -> RefusedHandshake {
        RefusedHandshake {
            listener: self.listener_name(listener).clone(),
            peer_ip: question.peer_ip,
            client_ip: question.peer_ip,
            reason: Reason::from(error),
            detail: error.to_string(),
            claimed,
        }
    }
}

/// What a listener does about certificates; plain text has none.
fn clients(listener: &ListenerSettings) -> &ClientCertificates {
    listener.tls.as_ref().map_or(&ClientCertificates::Off, |tls| &tls.clients)
}

/// The certificate of somebody of whom only a name is given.
fn certificate_of(name: &PeerName) -> CertificateHash {
    certificate_hash(name.to_string().as_bytes())
}

fn verified(name: &PeerName, question: &Question) -> Signature<Peer> {
    Signature::Verified(Arc::new(Peer {
        name: name.clone(),
        certificate: certificate_of(name),
        not_after: Timestamp::MAX,
        hop: question.hop.clone(),
    }))
}

/// A workload that the pattern matches.
fn example(pattern: &PeerPattern) -> Option<PeerName> {
    match pattern {
        PeerPattern::Spiffe(pattern) => Some(PeerName::Spiffe(pattern.example(STAND_IN)?)),
        PeerPattern::Dns { name, trust_domain } => {
            let name = match name {
                HostPattern::Exact(host) => host.as_str().into(),
                HostPattern::Wildcard(parent) => format!("{STAND_IN}.{parent}").into(),
            };
            Some(PeerName::Dns { names: vec![name], trust_domain: trust_domain.clone() })
        }
    }
}
