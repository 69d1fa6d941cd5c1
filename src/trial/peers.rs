//! How a question comes by its peer: the part of a TLS handshake that decides who is there.

use std::sync::Arc;

use super::question::{Presented, Question, STAND_IN};
use super::{Trial, Unaskable};
use crate::audit::{Claimed, Reason, RefusedHandshake};
use crate::clock::Timestamp;
use crate::config::ListenerSettings;
use crate::identity::{CertificateHash, Direction, Hop, Name, Peer, PeerName, Signature, SpiffePattern};
use crate::policy::pattern::HostPattern;
use crate::policy::role::{PeerPattern, Service};
use crate::proxy::hop::{self, CertificateHeader, HopKind, KnownBy, Learned, TrustedHop};
use crate::proxy::refusal::Refusal;
use crate::tls::peer::certificate_hash;
use crate::tls::{ClientCertificates, PeerError, Unverified};

/// Who is there, and to which listener it came.
pub struct Handshake {
    /// `None` where the configuration has none: it then takes what it is told.
    pub listener: Option<usize>,
    pub direction: Direction,
    /// Whose its requests are, where it is made at all.
    pub peer: Result<Result<Signature<Peer>, Refusal>, RefusedHandshake>,
    /// The hop at its other end, where that tells whose they are.
    pub hop: Option<Name>,
}

impl Trial {
    pub(super) fn handshake(&self, question: &Question) -> Result<Handshake, Unaskable> {
        if let Hop::Trusted(name) = &question.hop
            && !self.hops().any(|hop| hop == name)
        {
            return Err(Unaskable::Hop(name.clone()));
        }
        if let Some(hop) = self.countersign(question) {
            return self.beyond(question, hop);
        }
        let listener = self.choose_listener(question)?;
        let direction = match listener {
            Some(at) => self.listeners[at].direction,
            None => question.hop.direction(),
        };
        if direction == Direction::Outbound {
            let peer = Ok(self.local_peer(listener, question)?);
            return Ok(Handshake { listener, direction, peer, hop: None });
        }
        if let Some(hop) = self.hop(question) {
            return self.told(question, hop, listener, direction);
        }
        let clients = listener.map(|at| clients(&self.listeners[at]));
        let presented = match &question.peer {
            Presented::Nothing => None,
            Presented::Service(name) => Some(self.workload_of(name)?),
            Presented::Named(name) => Some(name.clone()),
            Presented::Chain(chain) => {
                let clients = clients.ok_or(Unaskable::NoListener)?;
                if let Some((domain, _)) = clients.trust().and_then(|trust| trust.awaited().next()) {
                    return Err(Unaskable::Awaited(domain.clone()));
                }
                let peer = clients.verify(chain, self.at(question));
                let claimed = chain.first().map(|leaf| Unverified::read(leaf));
                let claimed = claimed.map(|it| Claimed { spiffe_id: it.uri, certificate: it.certificate });
                let refused = |error| self.refused(question, listener, &error, claimed);
                return Ok(Handshake { listener, direction, peer: peer.map(Ok).map_err(refused), hop: None });
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
        Ok(Handshake { listener, direction, peer: peer.map(Ok).map_err(refused), hop: None })
    }

    /// The hop that a question comes through, where that is another Countersign.
    fn countersign(&self, question: &Question) -> Option<&TrustedHop> {
        let Hop::Trusted(name) = &question.hop else { return None };
        self.generation.hops.iter().find(|hop| hop.kind == HopKind::Countersign && hop.name == *name)
    }

    /// From another Countersign, which is the peer itself: with its own certificate.
    fn beyond(&self, question: &Question, hop: &TrustedHop) -> Result<Handshake, Unaskable> {
        let own = |patterns: &[SpiffePattern]| patterns.iter().find_map(|it| it.example(STAND_IN));
        let peer = match (&question.peer, &hop.known_by) {
            (Presented::Nothing, KnownBy::SpiffeId(patterns)) => {
                let id = own(patterns).ok_or_else(|| Unaskable::Nobody(hop.name.clone()))?;
                Presented::Named(PeerName::Spiffe(id))
            }
            (presented, _) => presented.clone(),
        };
        let handshake = self.handshake(&Question { peer, hop: Hop::Direct, ..question.clone() })?;
        match &handshake.peer {
            Ok(Ok(Signature::Verified(peer))) if !hop.is_at_the_end(None, Some(peer)) => {
                Err(Unaskable::OtherThanHop(hop.name.clone()))
            }
            _ => Ok(handshake),
        }
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
        direction: Direction,
    ) -> Result<Handshake, Unaskable> {
        let settings = listener.map(|at| &self.listeners[at]);
        let is_known = match (&hop.known_by, settings.map(clients)) {
            (KnownBy::Address(_), Some(ClientCertificates::Required(_))) => {
                let refused = self.refused(question, listener, &PeerError::Missing, None);
                return Ok(Handshake { listener, direction, peer: Err(refused), hop: None });
            }
            (KnownBy::SpiffeId(_), Some(clients)) => *clients != ClientCertificates::Off,
            (KnownBy::Address(_), Some(_)) => settings.is_none_or(|it| it.proxy_hops.is_none()),
            (_, None) => true,
        };
        if !is_known {
            return Ok(Handshake { listener, direction, peer: Ok(Ok(Signature::Absent)), hop: None });
        }
        let (trust, now) = (self.generation.trust.as_ref(), self.at(question));
        if let Some((domain, _)) = trust.and_then(|trust| trust.awaited().next()) {
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
        Ok(Handshake { listener, direction, peer: Ok(peer), hop: Some(hop.name.clone()) })
    }

    /// Whom the local application speaks as: this proxy, or the workload that a question puts in its place, as
    /// if the configuration were that one's.
    fn local_peer(
        &self,
        listener: Option<usize>,
        question: &Question,
    ) -> Result<Result<Signature<Peer>, Refusal>, Unaskable> {
        let own = self.generation.own_peer.as_ref();
        let name = match &question.peer {
            // An outbound listener has an identity, known or not.
            Presented::Nothing if own.is_none() && listener.is_some() => {
                return Err(Unaskable::AwaitedIdentity);
            }
            Presented::Nothing => return Ok(self.ourselves(question)),
            Presented::Service(name) => {
                let service = self.service(name)?;
                let is_ours = |own: &&Arc<Peer>| service.identities.iter().any(|id| id.matches(&own.name));
                match own.filter(is_ours) {
                    Some(_) => return Ok(self.ourselves(question)),
                    None => self.workload_of(name)?,
                }
            }
            Presented::Named(name) => name.clone(),
            Presented::Chain(_) => return Err(Unaskable::LocalCertificate),
        };
        let local = Question { hop: Hop::Local, ..question.clone() };
        Ok(Ok(verified(&name, &local)))
    }

    fn ourselves(&self, question: &Question) -> Result<Signature<Peer>, Refusal> {
        self.generation.ourselves(self.at(question)).map_err(|error| Refusal::from(&error))
    }

    fn service(&self, name: &Name) -> Result<&Service, Unaskable> {
        let mut services = self.policy().parts().services.iter();
        services.find(|service| service.name == *name).ok_or_else(|| Unaskable::Service(name.clone()))
    }

    fn workload_of(&self, service: &Name) -> Result<PeerName, Unaskable> {
        let found = self.service(service)?.identities.iter().find_map(example);
        found.ok_or_else(|| Unaskable::Nobody(service.clone()))
    }

    fn choose_listener(&self, question: &Question) -> Result<Option<usize>, Unaskable> {
        if let Some(name) = &question.listener {
            let found = self.listeners.iter().position(|listener| listener.name == *name);
            return found.map(Some).ok_or_else(|| Unaskable::Listener(name.clone()));
        }
        let local = question.hop.direction();
        let mut of_direction = self.listeners.iter().enumerate().filter(|(_, it)| it.direction == local);
        if local == Direction::Outbound {
            return Ok(of_direction.next().map(|(at, _)| at));
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
        let fitting = of_direction.clone().find(|(_, listener)| fits(listener));
        Ok(fitting.or_else(|| of_direction.next()).map(|(at, _)| at))
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
