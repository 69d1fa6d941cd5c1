//! How a question comes by its peer: the part of a TLS handshake that decides who is there.

use std::sync::Arc;

use super::question::{Presented, Question, STAND_IN};
use super::{Trial, Unaskable};
use crate::audit::{Claimed, Reason, RefusedHandshake};
use crate::clock::Timestamp;
use crate::config::ListenerSettings;
use crate::identity::{CertificateHash, Direction, Hop, Name, Peer, PeerName, Signature};
use crate::policy::pattern::HostPattern;
use crate::policy::role::{PeerPattern, Service};
use crate::tls::peer::certificate_hash;
use crate::tls::{ClientCertificates, PeerError, Unverified};

/// Who is there, and to which listener it came.
pub struct Handshake {
    /// `None` where the configuration has none: it then takes what it is told.
    pub listener: Option<usize>,
    pub direction: Direction,
    /// What every request of the connection finds there, where it is made at all.
    pub peer: Result<Result<Signature<Peer>, PeerError>, RefusedHandshake>,
}

impl Trial {
    pub(super) fn handshake(&self, question: &Question) -> Result<Handshake, Unaskable> {
        let listener = self.choose_listener(question)?;
        let direction = match listener {
            Some(at) => self.listeners[at].direction,
            None => question.hop.direction(),
        };
        if direction == Direction::Outbound {
            let peer = Ok(self.local_peer(listener, question)?);
            return Ok(Handshake { listener, direction, peer });
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
                return Ok(Handshake { listener, direction, peer: peer.map(Ok).map_err(refused) });
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
        Ok(Handshake { listener, direction, peer: peer.map(Ok).map_err(refused) })
    }

    /// Whom the local application speaks as: this proxy, or the workload that a question puts in its place, as
    /// if the configuration were that one's.
    fn local_peer(
        &self,
        listener: Option<usize>,
        question: &Question,
    ) -> Result<Result<Signature<Peer>, PeerError>, Unaskable> {
        let own = self.generation.own_peer.as_ref();
        let name = match &question.peer {
            // An outbound listener has an identity, known or not.
            Presented::Nothing if own.is_none() && listener.is_some() => {
                return Err(Unaskable::AwaitedIdentity);
            }
            Presented::Nothing => return Ok(self.generation.ourselves(self.at(question))),
            Presented::Service(name) => {
                let service = self.service(name)?;
                let is_ours = |own: &&Arc<Peer>| service.identities.iter().any(|id| id.matches(&own.name));
                match own.filter(is_ours) {
                    Some(_) => return Ok(self.generation.ourselves(self.at(question))),
                    None => self.workload_of(name)?,
                }
            }
            Presented::Named(name) => name.clone(),
            Presented::Chain(_) => return Err(Unaskable::LocalCertificate),
        };
        let local = Question { hop: Hop::Local, ..question.clone() };
        Ok(Ok(verified(&name, &local)))
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
        let fits = |listener: &ListenerSettings| match (clients(listener), &question.peer) {
            (ClientCertificates::Required(_), peer) => !matches!(peer, Presented::Nothing),
            (ClientCertificates::Optional(_), _) => true,
            (ClientCertificates::Off, peer) => matches!(peer, Presented::Nothing),
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
