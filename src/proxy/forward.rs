//! Acting upon a permit: the request goes upstream, the answer comes back, the record is finished with
//! the answer's last byte.

use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use ulid::ULID_LEN;

use super::assertion::Signed;
use super::basis::Basis;
use super::body::{self, Body, Farewell, RequestBody, ResponseBody};
use super::connection::Connection;
use super::exchange::{finish, refuse};
use super::generation::Generation;
use super::headers::{self, Authorization, Introduction};
use super::hop;
use super::in_flight::Share;
use super::normalize::{Asked, Kind};
use super::refusal::{Form, Refusal};
use super::route::RouteSettings;
use super::underway::Underway;
use super::worker::Worker;
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::metrics::Limit;
use crate::policy::Permit;
use crate::policy::action::is_grpc;
use crate::revocation::Revocations;
use crate::token::Credential;
use crate::upstream::credential::{CredentialError, CredentialKind, Subject, UpstreamCredential};
use crate::upstream::{self, Close, Errand, Pool, Served, Switched, TunnelEnd, Upgrade};

/// A request that was permitted, with all that it rests on.
pub struct Passage {
    pub asked: Asked,
    pub permit: Permit,
    /// Whom it is permitted to, where the upstream is told.
    pub who: Option<Arc<headers::Identity>>,
    /// The same, signed.
    pub assertion: Option<Arc<Signed>>,
    /// From where it comes for the upstream, as a trusted hop tells it; without, from where its connection does.
    pub origin: Option<headers::Origin>,
    pub known_by: super::known_by::KnownBy,
    /// When the caller's token ends, if there is one.
    pub caller_until: Option<Timestamp>,
    /// When it is to be judged again.
    pub until: Timestamp,
    /// What it takes of its client's share, if it has one.
    pub share: Option<Share>,
}

/// What an upstream is shown, as far as that is known before anybody is asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    /// The caller's own token.
    Callers,
    /// A token that this proxy gets for it.
    Ours,
}

/// What a head is rewritten by.
pub struct Told<'a> {
    pub asked: &'a Asked,
    pub permit: &'a Permit,
    pub who: Option<&'a Arc<headers::Identity>>,
    pub assertion: Option<&'a Signed>,
    pub authorization: Authorization,
}

/// One request on its way.
struct Journey<'a> {
    worker: &'a Rc<Worker>,
    generation: &'a Generation,
    connection: &'a Rc<Connection>,
    pool: Rc<Pool>,
    underway: Rc<Underway>,
    /// For the answer's head and body.
    deadline: Instant,
    form: Form,
    draft: Draft,
}

/// Forwards what `passage` permits.
pub async fn forward(
    worker: &Rc<Worker>,
    generation: &Generation,
    connection: &Rc<Connection>,
    request: Request<Incoming>,
    passage: Passage,
    form: Form,
    mut draft: Draft,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let Passage { asked, permit, who, assertion, origin, known_by, caller_until, until, share } = passage;
    let settings = generation.routes.get(permit.route().index());
    let source = generation.credentials.get(permit.upstream().index());
    let pool = worker.pool(generation, permit.upstream());
    let upstream = generation.policy.parts().upstreams.get(permit.upstream().index());
    let (Some(route), Some(pool), Some(source), Some(upstream)) = (settings, pool, source, upstream) else {
        return refuse(draft, form, &Refusal::of(Reason::Internal)).await;
    };
    let chosen_by = generation.policy.parts().routes.get(permit.route().index());
    let mut headers = chosen_by.map_or_else(Vec::new, |route| route.header.clone());
    headers.extend(hop::fields(&generation.hops, &head.headers));
    let origin = origin.as_ref().unwrap_or(&connection.origin);
    let basis = Basis { asked, headers, grpc: form == Form::Grpc, known_by, upstream: upstream.clone() };
    let underway = Underway::new(worker, connection, basis, (generation.number, until), share);
    let (asked, deadline) = (underway.asked(), Instant::now() + route.total_timeout);
    let carried = carries(route, asked.kind, body::is_too_large(&body, route.body_bytes_max));
    let shown =
        carried.and_then(|()| shown(source.kind, route, caller_until.is_some(), || is_bearer(&head.headers)));
    let authorization = match shown {
        Ok(Shown::Nothing) => Ok(Authorization::Stripped),
        Ok(Shown::Callers) => Ok(Authorization::Forwarded),
        Ok(Shown::Ours) => {
            // Boxed: it waits seldom, and would make every request's future large.
            let obtained = Box::pin(obtain(source, &head.headers, caller_until));
            let obtained = timeout_at(deadline, obtained).await;
            obtained.unwrap_or_else(|_| Err(Refusal::over(Limit::TotalTimeout)))
        }
        Err(refusal) => Err(refusal),
    };
    let carried = authorization
        .and_then(|authorization| {
            let (permit, who, assertion) = (&permit, who.as_ref(), assertion.as_deref());
            let told = Told { asked, permit, who, assertion, authorization };
            rewrite(origin, route, &mut head, told, &mut draft)
        })
        // Last: from here on the record says that the request was passed on.
        .and_then(|()| draft.forwarding(&permit).map_err(|_| Refusal::of(Reason::AuditUnavailable)));
    if let Err(refusal) = carried {
        return refuse(draft, form, &refusal).await;
    }
    let kind = asked.kind;
    let body = RequestBody::new(body, &underway, route.body_bytes_max, connection.pulse.upload());
    let journey = Journey { worker, generation, connection, pool, underway, deadline, form, draft };
    match kind {
        Kind::Plain => journey.plain(head, body).await,
        Kind::WebSocket => Box::pin(journey.websocket(head)).await,
    }
}

/// Whether the route carries such a request at all.
pub fn carries(route: &RouteSettings, kind: Kind, is_too_large: bool) -> Result<(), Refusal> {
    if kind == Kind::WebSocket && !route.websocket {
        return Err(Refusal::of(Reason::NoRoute).because("the route has no `upgrade`"));
    }
    if is_too_large { Err(Refusal::over(Limit::BodyBytesMax)) } else { Ok(()) }
}

/// What `kind` comes to on this route, for a request with these headers, with or without a caller.
pub fn shown(
    kind: CredentialKind,
    route: &RouteSettings,
    has_caller: bool,
    is_bearer: impl FnOnce() -> bool,
) -> Result<Shown, Refusal> {
    match kind {
        CredentialKind::ByRoute if route.forward_authorization => Ok(Shown::Callers),
        CredentialKind::ByRoute | CredentialKind::None => Ok(Shown::Nothing),
        CredentialKind::Forward => Ok(Shown::Callers),
        CredentialKind::ClientCredentials => Ok(Shown::Ours),
        CredentialKind::Exchange if has_caller => match is_bearer() {
            true => Ok(Shown::Ours),
            false => Err(Refusal::from(&CredentialError::no_bearer_token())),
        },
        CredentialKind::Exchange => Err(Refusal::of(Reason::TokenMissing)
            .because("the upstream takes a token that is exchanged for the caller's, and there is none")),
    }
}

/// Whether these headers present a token that can be exchanged.
pub fn is_bearer(headers: &HeaderMap) -> bool {
    matches!(Credential::from_headers(headers), Ok(Credential::Bearer(_)))
}

/// Gets what the upstream is shown; the caller's token is good until `until`.
async fn obtain(
    credential: &UpstreamCredential,
    headers: &HeaderMap,
    until: Option<Timestamp>,
) -> Result<Authorization, Refusal> {
    let subject = match (Credential::from_headers(headers), until) {
        (Ok(Credential::Bearer(token)), Some(expires)) => Some(Subject { token, expires }),
        _ => None,
    };
    let obtained = credential.obtain(subject).await;
    obtained.map(Authorization::Ours).map_err(|error| Refusal::from(&error))
}

/// Turns the head that was judged into the one that goes upstream.
pub fn rewrite(
    origin: &headers::Origin,
    route: &RouteSettings,
    head: &mut Parts,
    told: Told<'_>,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let Told { asked, permit, who, assertion, authorization } = told;
    let given = head.uri.path_and_query();
    let target = match &route.strip_prefix {
        Some(prefix) => asked.target(&asked.path.strip_prefix(prefix)?, given),
        None => asked.target(&asked.path, given),
    };
    head.uri = target.map_err(|_| Refusal::of(Reason::RequestMalformed))?.into();
    head.method.clone_from(&asked.method);
    let (traceparent, trace_continued) = match draft.traced() {
        Some(given) => (given.to_owned(), true),
        // Its trace is found by the record's id, and the other way around.
        None => (headers::new_traceparent(draft.id().0, fastrand::u64(..)), false),
    };
    if !trace_continued {
        draft.trace(&traceparent);
    }
    let mut id = [0; ULID_LEN];
    let introduction = Introduction {
        id: draft.id().array_to_str(&mut id),
        who: who.cloned(),
        assertion: assertion.map(|signed| &signed.value),
        enforced: permit.enforced(),
        origin,
        authority: &asked.authority,
        traceparent: &traceparent,
        trace_continued,
        authorization,
    };
    headers::for_upstream(&mut head.headers, &introduction);
    Ok(())
}

impl Journey<'_> {
    fn revocations(&self) -> (u64, &Revocations) {
        (self.generation.number, &self.generation.revocations)
    }

    async fn plain(self, head: Parts, body: RequestBody) -> Response<Body> {
        let version = head.version;
        let reached = |server: Option<&Rc<Served>>| self.underway.reached(server, self.generation.number);
        let errand = Errand { revocations: self.revocations(), reached: &reached };
        let sending = timeout_at(self.deadline, self.pool.send(Request::from_parts(head, body), &errand));
        let answer = tokio::select! {
            biased;
            answer = sending => Some(answer),
            _ = self.underway.ends_uploading() => None,
        };
        if self.underway.trailers.get() {
            // hyper takes some bytes for their end that are none, and lets go of what stands behind those.
            self.connection.ending.set(true);
        }
        match answer {
            Some(Ok(Ok(answer))) => self.deliver(answer, version),
            failed => {
                let Journey { connection, underway, form, mut draft, .. } = self;
                draft.moved(underway.request_bytes.get(), 0);
                let refusal = match (underway.fault.get(), failed) {
                    (Some(fault), _) => Refusal::from(fault),
                    (None, Some(Ok(Err(error)))) => return refuse(draft, form, &Refusal::from(&error)).await,
                    (None, Some(_)) => {
                        return refuse(draft, form, &Refusal::over(Limit::TotalTimeout)).await;
                    }
                    (None, None) => return end(draft, form, &underway, connection).await,
                };
                // Nobody knows where the next request would begin.
                connection.ending.set(true);
                refuse(draft, form, &refusal).await
            }
        }
    }

    /// Passes an answer to a request of this version on; its body finishes the record.
    fn deliver(self, answer: Response<upstream::ResponseBody>, version: Version) -> Response<Body> {
        let Journey { underway, deadline, form, mut draft, .. } = self;
        let (mut head, body) = answer.into_parts();
        headers::for_client(&mut head.headers);
        draft.answered(head.status);
        // The version is hyper's business, on each side of us.
        head.version = Version::default();
        let grpc = form == Form::Grpc && is_grpc(&head.headers);
        let farewell = if grpc && version == Version::HTTP_2 { Farewell::Grpc } else { Farewell::Abort };
        let deadline = (!grpc && !is_event_stream(&head.headers)).then_some(deadline);
        let body = ResponseBody::new(body, underway, deadline, farewell, draft);
        Response::from_parts(head, Body::Streamed(Box::new(body)))
    }

    /// A WebSocket handshake, by HTTP/1.1 upgrade or HTTP/2 extended CONNECT; upstream always by the
    /// former.
    async fn websocket(self, mut head: Parts) -> Response<Body> {
        let version = head.version;
        let refused = |journey: Self, refusal: Refusal| async move {
            refuse(journey.draft, journey.form, &refusal).await
        };
        let Some(client) = head.extensions.remove::<OnUpgrade>() else {
            return refused(self, Refusal::of(Reason::Internal)).await;
        };
        let by_connect = version == Version::HTTP_2;
        let accept = match by_connect.then(|| add_handshake(&mut head.headers)).transpose() {
            Ok(accept) => accept,
            Err(refusal) => return refused(self, refusal).await,
        };
        let reached = |server: Option<&Rc<Served>>| self.underway.reached(server, self.generation.number);
        let errand = Errand { revocations: self.revocations(), reached: &reached };
        let asking = self.pool.upgrade(Request::from_parts(head, ()), "websocket", &errand);
        match timeout_at(self.deadline, asking).await {
            Ok(Ok(Upgrade::Switched(switched))) => {
                let accepted = switched.response.headers().get(SEC_WEBSOCKET_ACCEPT);
                if accept.is_some() && accepted != accept.as_ref() {
                    let refusal = Refusal::of(Reason::UpstreamUnavailable);
                    let refusal = refusal.because("it did not accept the WebSocket handshake");
                    return refused(self, refusal).await;
                }
                self.switch(client, switched, by_connect)
            }
            // To a CONNECT any 2xx says that the tunnel stands (RFC 9110 §9.3.6).
            Ok(Ok(Upgrade::Answered(answer))) if by_connect && answer.status().is_success() => {
                let refusal = Refusal::of(Reason::UpstreamUnavailable);
                let refusal = refusal.because("it answered the WebSocket handshake without a switch");
                refused(self, refusal).await
            }
            Ok(Ok(Upgrade::Answered(answer))) => self.deliver(answer, version),
            Ok(Err(error)) => refused(self, Refusal::from(&error)).await,
            Err(_) => refused(self, Refusal::over(Limit::TotalTimeout)).await,
        }
    }

    /// Answers the handshake and copies both ways in a task of its own, which finishes the record.
    fn switch(self, client: OnUpgrade, switched: Switched, by_connect: bool) -> Response<Body> {
        let Journey { worker, connection, underway, mut draft, .. } = self;
        let mut answer = Response::new(Body::default());
        *answer.headers_mut() = switched.response.headers().clone();
        headers::for_client(answer.headers_mut());
        if by_connect {
            answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        draft.answered(answer.status());
        underway.answers();
        let stopped = worker.shared.stopped.clone();
        // On h2 the connection goes on, and is not idle while the tunnel is there.
        let busy = connection.busy(false);
        worker.tasks.spawn_local(async move {
            let _busy = busy;
            let Ok(client) = client.await else { return drop(draft) };
            let cut = async {
                tokio::select! {
                    () = stopped.cancelled() => None,
                    ending = underway.ends() => {
                        let reason = ending.refusal.reason.as_str();
                        Some(Close { code: Close::POLICY_VIOLATION, reason })
                    }
                }
            };
            let tunnel = switched.tunnel(TokioIo::new(client), cut).await;
            draft.moved(tunnel.bytes_up, tunnel.bytes_down);
            match tunnel.end {
                TunnelEnd::Closed => {}
                TunnelEnd::Cut => underway.ended().into_iter().for_each(|ending| ending.note(&mut draft)),
                TunnelEnd::Idle => draft.because(Reason::UpstreamTimeout),
                TunnelEnd::ClientBroke(_) => draft.because(Reason::ClientGone),
                TunnelEnd::UpstreamBroke(error) => {
                    draft.because(Reason::UpstreamUnavailable);
                    draft.detail(&error);
                }
            }
            draft.finish();
        });
        answer
    }
}

/// Answers a request that was permitted no longer before all of it had come.
async fn end(mut draft: Draft, form: Form, underway: &Underway, connection: &Connection) -> Response<Body> {
    connection.ending.set(true);
    let Some(ending) = underway.ended() else {
        return refuse(draft, form, &Refusal::of(Reason::Internal)).await;
    };
    ending.note(&mut draft);
    let answer = ending.refusal.answer(form, &draft.id().to_string());
    finish(draft, answer.map(Body::Fixed)).await
}

/// Whether an answer goes on for as long as somebody listens.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// What extended CONNECT leaves out and an HTTP/1.1 handshake has (RFC 8441 §5). The outcome is what the
/// upstream must answer in `Sec-WebSocket-Accept` (RFC 6455 §4.2.2).
fn add_handshake(headers: &mut HeaderMap) -> Result<HeaderValue, Refusal> {
    let internal = |_| Refusal::of(Reason::Internal);
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).map_err(|_| Refusal::of(Reason::Internal))?;
    let key = STANDARD.encode(nonce);
    let proof =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).map_err(internal)?);
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    HeaderValue::from_str(&STANDARD.encode(proof)).map_err(internal)
}
