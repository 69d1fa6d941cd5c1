//! A configuration that is asked, and does not serve: what would become of a request, without a socket.
//!
//! There is no second judge here. A head is read, tokens and certificates are verified, the policy decides and
//! the answer is made by the very functions that serve traffic ([`judgement`](crate::proxy::judgement)); what is
//! recorded is filled into the same draft. A [`Trial`] only brings along what a question lacks: the time, a good
//! certificate for a service's name, and a token for claims by hand, signed with keys that it puts in place of the
//! issuers' own.
//!
//! Invariants: nothing is fetched, dialled, listened on or written; nothing is remembered from one question to
//! the next, so questions may be asked in any order and at any times.
//!
//! What only happens between two ends is not asked: bytes of bodies, timeouts, limits on connections, and what
//! the upstream answers. A client is taken to name the host it asks for in its handshake (SNI).

mod answer;
mod claims;
mod hearing;
mod peers;
mod question;
mod tokens;

use std::sync::Arc;

use futures_util::FutureExt;
use http::header::{AUTHORIZATION, HeaderValue};
use http::request::Parts;

pub use answer::{Answer, Answered, Case};
pub use question::{Bearer, Bound, Claims, Presented, Question, STAND_IN, Unsendable, head};

use crate::audit::{Arrival, Audit, Protocol, Sink};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, ListenerSettings};
use crate::decisions::{Decisions, DecisionsSettings};
use crate::identity::name::NameError;
use crate::identity::{Hop, Name, Peer, Signature, TrustDomain};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::proxy::Generation;
use crate::proxy::assertion::{AssertionKeys, Assertions};
use crate::proxy::headers::{ASSERTION, Origin, USER_CLAIMS};
use crate::proxy::hop::{self, spoke_tls};
use crate::proxy::judgement::{self, Whence};
use crate::proxy::normalize::Asked;
use crate::proxy::refusal::Refusal;
use crate::tls::{Own, OwnCertificate};
use crate::token::{
    DPOP, IssuerSettings, KeysError, Proofs, SameIssuer, Scheme, Shown, SigningError, Step, TokenError,
    Trace, Verifier, is_nobody,
};
use crate::upstream::credential::UpstreamCredential;
use hearing::Hearing;
use peers::Handshake;
use tokens::{Credential, Tokens};

/// The listener of records where the configuration has none.
const NOWHERE: &str = "no-listener";

/// A configuration to ask. It has one clock, so it answers one question at a time.
pub struct Trial {
    clock: Clock,
    /// When questions are asked that do not say.
    now: Timestamp,
    generation: Generation,
    listeners: Vec<ListenerSettings>,
    tokens: Tokens,
    audit: Audit,
    nowhere: Name,
}

/// Why a configuration cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error(transparent)]
    Issuers(#[from] SameIssuer),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Signing(#[from] SigningError),
}

/// Why a question has no answer: it speaks of what the configuration does not have.
#[derive(Debug, thiserror::Error)]
pub enum Unaskable {
    #[error("there is no listener `{0}`")]
    Listener(Name),
    #[error(
        "there is no hop `{0}`: it is `direct`, `local`, or a `[trusted_hop]` that tells who is behind it"
    )]
    Hop(Name),
    #[error("there is no service `{0}`")]
    Service(Name),
    #[error("no workload can be thought of that service `{0}` names")]
    Nobody(Name),
    #[error("there is no issuer `{0}`")]
    Issuer(Name),
    #[error("issuer `{0}` takes no algorithm that can be signed with")]
    Algorithm(Name),
    #[error("a certificate can only be verified for a `[listener]`, and there is none")]
    NoListener,
    #[error("no certificate is presented by the local application: it speaks with this proxy's own")]
    LocalCertificate,
    #[error(
        "this proxy's own SPIFFE ID comes from the source of `[identity]`, which is not asked here: name the service \
         that the local application speaks as"
    )]
    AwaitedIdentity,
    #[error(
        "the CAs of trust domain `{0}` come from the source of `[identity]`, which is not asked here: name the peer \
         by its SPIFFE ID instead"
    )]
    Awaited(TrustDomain),
    #[error(
        "through hop `{0}` comes that hop's own certificate, and this is another; whom it speaks for stands in its \
         assertion (`via`)"
    )]
    OtherThanHop(Name),
    #[error("what stands in `{0}` cannot be sent")]
    Token(&'static str),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("keys for the token: {0}")]
    Keys(#[from] KeysError),
    #[error("the answer depends on something that has to be waited for")]
    Waits,
}

/// How far what presents the caller gets.
#[derive(Debug)]
pub enum Traced {
    /// Nothing is presented, but perhaps in the header fields that are asked with.
    Nothing,
    /// The word of somebody whose word is not taken: nobody looks at it.
    Unread(Word),
    Told(Box<Trace>),
}

/// What one hop tells of a caller, and a stranger might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Assertion,
    UserClaims,
}

impl Trial {
    /// `now` is the time of questions that do not say otherwise.
    pub fn new(config: Config, now: Timestamp) -> Result<Trial, TrialError> {
        let clock = Clock::manual(now);
        let metrics = Arc::new(Metrics::new());
        let tokens = Tokens::new(&config.issuers, config.limits.token, config.tokens, &clock)?;
        let decisions = DecisionsSettings { entries_max: 0, ..config.decisions };
        let own = config.own.as_ref().and_then(Own::known);
        let asserts = |settings| {
            let keys = Arc::new(AssertionKeys::new(now)?);
            Ok::<_, SigningError>(Assertions { settings, audiences: Vec::new(), keys })
        };
        let assertions = config.assertion.map(asserts).transpose()?;
        let generation = Generation {
            number: 1,
            policy: Arc::new(config.policy),
            // Each question brings the one that verifies its token.
            verifier: Arc::new(Verifier::new(
                Vec::new(),
                config.limits.token,
                config.tokens,
                Arc::<Proofs>::default(),
                metrics.tokens.clone(),
                clock.clone(),
            )?),
            standings: Arc::new(Decisions::new(decisions, metrics.decision_cache.clone())),
            revocations: Arc::new(config.revoked),
            routes: config.routes.into(),
            // Nothing is ever sent there, and nobody connects.
            upstreams: Vec::new(),
            credentials: config
                .upstreams
                .iter()
                .map(|upstream| UpstreamCredential::of_kind(upstream.credential.kind()))
                .collect(),
            told: config.upstreams.iter().map(|upstream| upstream.identity_headers).collect(),
            listeners: Vec::new(),
            own_id: own.and_then(|own| own.spiffe_id.clone()),
            own_peer: own.and_then(OwnCertificate::as_local_peer).map(Arc::new),
            own_former: None,
            hops: config.hops.into(),
            trust: config.trust,
            // Nothing is signed, but whoever asks for the keys is answered.
            assertions: assertions.map(Arc::new),
            limits: config.limits,
            odd_names: config.odd_names,
        };
        let audit = Audit::new(&config.name, clock.clone(), Sink::none(Arc::clone(&metrics)), metrics);
        let nowhere = NOWHERE.parse()?;
        Ok(Trial { clock, now, generation, listeners: config.listeners, tokens, audit, nowhere })
    }

    pub fn policy(&self) -> &Policy {
        &self.generation.policy
    }

    /// What tokens are read by.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerSettings> + Clone {
        self.tokens.issuers()
    }

    /// Where requests can come in, by name.
    pub fn listeners(&self) -> impl Iterator<Item = &Name> + Clone {
        self.listeners.iter().map(|listener| &listener.name)
    }

    /// Those that tell who is behind them, by name.
    pub fn hops(&self) -> impl Iterator<Item = &Name> + Clone {
        self.generation.hops.iter().map(|hop| &hop.name)
    }

    /// Gives the keys of an issuer, a JWK set (RFC 7517): what [`Bearer::Token`] is verified with. Those that the
    /// configuration has in a file are known already.
    pub fn give_keys(&mut self, issuer: &Name, document: &[u8]) -> Result<(), Unaskable> {
        self.tokens.give(issuer, document)
    }

    /// Reads a head as one that came: what the policy would judge.
    ///
    /// # Errors
    /// What is answered before anybody is judged.
    pub fn read(&self, head: &mut Parts) -> Result<Asked, Refusal> {
        judgement::read(&self.generation, head, None)
    }

    /// The same with one key of a load balancer: a public key in PEM, under its `kid`.
    pub fn give_key(&mut self, issuer: &Name, kid: &str, document: &[u8]) -> Result<(), Unaskable> {
        self.tokens.give_one(issuer, kid, document)
    }

    /// What becomes of a request.
    pub fn ask(&mut self, question: &Question) -> Result<Answer, Unaskable> {
        let now = self.at(question);
        self.clock.set(now);
        let Handshake { listener, direction, peer, hop } = self.handshake(question)?;
        let peer = match peer {
            Ok(peer) => peer,
            Err(refused) => return Ok(Answer::Handshake(refused)),
        };
        let shown = peer.as_ref().ok().and_then(Signature::verified).map(|peer| peer.certificate);
        let (credential, verifier) = self.tokens.present(&question.caller, &question.head, shown, now)?;
        let head = with(credential.as_ref(), &question.head)?;
        let name = listener.map_or(&self.nowhere, |at| &self.listeners[at].name);
        let secure = listener.is_some_and(|at| self.listeners[at].tls.is_some());
        let end = peer.as_ref().unwrap_or(&Signature::Absent);
        let is_told = hop.is_some() || hop::telling_assertions(&self.generation.hops, end).is_some();
        let here = question.peer_ip.filter(|_| !is_told);
        let from = Whence { hop: Hop::Direct, peer: question.peer_ip, client: question.client_ip.or(here) };
        let arrival = Arrival {
            method: Some(&head.method),
            listener: name,
            protocol: Protocol::Http11,
            peer_ip: from.peer,
            client_ip: from.client,
            cut: &Arc::default(),
        };
        let hearing = Hearing {
            generation: &self.generation,
            verifier,
            peer,
            hop,
            direction,
            origin: Origin::new(from.peer, secure),
            from,
            now,
            draft: self.audit.begin(arrival),
        };
        Ok(Answer::Http(Box::new(hearing.hear(head)?)))
    }

    /// When the question is asked.
    pub fn at(&self, question: &Question) -> Timestamp {
        question.at.unwrap_or(self.now)
    }

    /// How far the question's token gets in its verifier.
    pub fn trace(&mut self, question: &Question) -> Result<Traced, Unaskable> {
        let now = self.at(question);
        self.clock.set(now);
        let Handshake { listener, peer, hop, .. } = self.handshake(question)?;
        let secure = listener.is_some_and(|at| self.listeners[at].tls.is_some());
        let peer = peer.ok().and_then(Result::ok);
        let end = peer.as_ref().unwrap_or(&Signature::Absent);
        let is_told = hop.is_some() || hop::telling_assertions(&self.generation.hops, end).is_some();
        let told = spoke_tls(&question.head.headers).filter(|_| is_told);
        let secure = told.unwrap_or(secure);
        let peer = peer.as_ref().and_then(Signature::verified);
        let certificate = peer.map(|peer| peer.certificate);
        let (credential, verifier) =
            self.tokens.present(&question.caller, &question.head, certificate, now)?;
        let Some(credential) = credential else { return Ok(Traced::Nothing) };
        let mut head = with(Some(&credential), &question.head)?;
        let asked = judgement::read(&self.generation, &mut head, None).ok();
        let mut trace = match &credential {
            Credential::Token { scheme, token, .. } => {
                let shown = Shown {
                    request: asked.as_ref().map(|asked| asked.seen(&head.headers, secure)),
                    ..Shown::on(peer.map(|peer| &peer.certificate))
                };
                verifier.trace(*scheme, token, &shown).now_or_never()
            }
            Credential::Assertion(text) => {
                let read = |peer: &&Arc<Peer>| {
                    // More than one is refused before any is looked at.
                    hop::assertion(&self.generation.hops, peer, &head.headers).is_ok_and(|it| it.is_some())
                };
                let Some(peer) = peer.filter(read) else { return Ok(Traced::Unread(Word::Assertion)) };
                let trace = verifier.trace_assertion(text, Some(&peer.certificate)).now_or_never();
                trace.map(|trace| bound(trace, peer))
            }
            Credential::UserClaims(text) => {
                let hop = hop.and_then(|name| self.generation.hops.iter().find(|hop| hop.name == name));
                let is_read = hop::user_claims(hop, &head.headers).is_ok_and(|it| it.is_some());
                if !is_read || !verifier.takes_user_claims(None) {
                    return Ok(Traced::Unread(Word::UserClaims));
                }
                verifier.trace_user_claims(text).now_or_never()
            }
        }
        .ok_or(Unaskable::Waits)?;
        if let Ok(caller) = &trace.outcome {
            trace.last = Step::Revocation;
            if let Some(revoked) = judgement::caller_revoked(&self.generation, caller, now) {
                trace.outcome = Err(TokenError::Revoked(revoked.to_string().into()));
            }
        }
        Ok(Traced::Told(Box::new(trace)))
    }

    fn listener_name(&self, listener: Option<usize>) -> &Name {
        listener.map_or(&self.nowhere, |at| &self.listeners[at].name)
    }
}

/// What is asked of an assertion beyond its verifier.
fn bound(mut trace: Trace, peer: &Peer) -> Trace {
    if let Ok(caller) = &trace.outcome
        && !is_nobody(caller)
        && let Err(error) = judgement::check_bound(caller, peer)
    {
        trace.outcome = Err(error);
    }
    trace
}

/// The head with what the question presents besides.
fn with(credential: Option<&Credential>, head: &Parts) -> Result<Parts, Unaskable> {
    let mut head = head.clone();
    let field =
        |name: &'static str, text: &str| HeaderValue::from_str(text).map_err(|_| Unaskable::Token(name));
    match credential {
        None => {}
        Some(Credential::Assertion(text)) => {
            head.headers.append(ASSERTION, field("x-auth-assertion", text)?);
        }
        Some(Credential::UserClaims(text)) => {
            head.headers.append(USER_CLAIMS, field("x-amzn-oidc-data", text)?);
        }
        Some(Credential::Token { scheme, token, proof }) => {
            let scheme = match scheme {
                Scheme::Bearer => "Bearer",
                Scheme::Dpop => "DPoP",
            };
            head.headers.append(AUTHORIZATION, field("Authorization", &format!("{scheme} {token}"))?);
            if let Some(proof) = proof {
                head.headers.append(DPOP, field("DPoP", proof)?);
            }
        }
    }
    Ok(head)
}
