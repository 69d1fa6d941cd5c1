//! Acting upon a permit: the request goes upstream, the answer comes back, the record is finished with
//! the answer's last byte.

use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until, timeout_at};
use ulid::ULID_LEN;

use super::assertion::Signed;
use super::body::{Body, Meter, RequestBody, ResponseBody};
use super::connection::Connection;
use super::exchange::refuse;
use super::generation::Generation;
use super::headers::{self, Authorization, Introduction};
use super::normalize::{Asked, Kind};
use super::refusal::{Form, Refusal};
use super::route::RouteSettings;
use super::worker::Worker;
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::metrics::Limit;
use crate::policy::Permit;
use crate::token::Credential as Presented;
use crate::upstream::credential::{Credential, CredentialKind, Subject};
use crate::upstream::{self, Pool, Switched, TunnelEnd, Upgrade};

/// A request that was permitted, with all that it rests on.
pub struct Passage {
    pub asked: Asked,
    pub permit: Permit,
    /// Whom it is permitted to.
    pub who: Arc<headers::Identity>,
    /// The same, signed.
    pub assertion: Option<Arc<Signed>>,
    /// When the caller's token ends, if there is one.
    pub caller_until: Option<Timestamp>,
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
    pub who: &'a Arc<headers::Identity>,
    pub assertion: Option<&'a Signed>,
    pub authorization: Authorization,
}

/// One request on its way.
struct Journey<'a> {
    worker: &'a Rc<Worker>,
    connection: &'a Rc<Connection>,
    pool: Rc<Pool>,
    /// For the answer's head and body.
    deadline: Instant,
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
    let permit = &passage.permit;
    let settings = generation.routes.get(permit.route().index());
    let credential = generation.credentials.get(permit.upstream().index());
    let pool = worker.pool(generation, permit.upstream());
    let (Some(route), Some(pool), Some(credential)) = (settings, pool, credential) else {
        return refuse(draft, form, &Refusal::of(Reason::Internal)).await;
    };
    let journey = Journey { worker, connection, pool, deadline: Instant::now() + route.total_timeout };
    let meter = Rc::new(Meter::default());
    let body = RequestBody::new(body, Rc::clone(&meter), route.body_bytes_max, connection.pulse.upload());
    let carried = carries(route, passage.asked.kind, body.is_too_large());
    let shown = carried.and_then(|()| shown(credential.kind, route, passage.caller_until.is_some()));
    let authorization = match shown {
        Ok(Shown::Nothing) => Ok(Authorization::Stripped),
        Ok(Shown::Callers) => Ok(Authorization::Forwarded),
        Ok(Shown::Ours) => {
            // Boxed: it waits seldom, and would make every request's future large.
            let obtained = Box::pin(obtain(credential, &head.headers, passage.caller_until));
            let obtained = timeout_at(journey.deadline, obtained).await;
            obtained.unwrap_or_else(|_| Err(Refusal::over(Limit::TotalTimeout)))
        }
        Err(refusal) => Err(refusal),
    };
    let carried = authorization
        .and_then(|authorization| {
            let Passage { asked, permit, who, assertion, .. } = &passage;
            let told = Told { asked, permit, who, assertion: assertion.as_deref(), authorization };
            rewrite(&connection.origin, route, &mut head, told, &mut draft)
        })
        // Last: from here on the record says that the request was passed on.
        .and_then(|()| draft.forwarding(permit).map_err(|_| Refusal::of(Reason::AuditUnavailable)));
    if let Err(refusal) = carried {
        return refuse(draft, form, &refusal).await;
    }
    match passage.asked.kind {
        Kind::Plain => journey.plain(head, body, meter, form, draft).await,
        Kind::WebSocket => {
            let ends = Instant::now() + permit.deadline().since(worker.shared.clock.now());
            Box::pin(journey.websocket(head, form, ends, draft)).await
        }
    }
}

/// Whether the route carries such a request at all.
pub fn carries(route: &RouteSettings, kind: Kind, is_too_large: bool) -> Result<(), Refusal> {
    if kind == Kind::WebSocket && !route.websocket {
        return Err(Refusal::of(Reason::NoRoute).because("the route has no `upgrade`"));
    }
    if is_too_large { Err(Refusal::over(Limit::BodyBytesMax)) } else { Ok(()) }
}

/// What `kind` comes to on this route, for a request with or without a caller.
pub fn shown(kind: CredentialKind, route: &RouteSettings, has_caller: bool) -> Result<Shown, Refusal> {
    match kind {
        CredentialKind::ByRoute if route.forward_authorization => Ok(Shown::Callers),
        CredentialKind::ByRoute | CredentialKind::None => Ok(Shown::Nothing),
        CredentialKind::Forward => Ok(Shown::Callers),
        CredentialKind::ClientCredentials => Ok(Shown::Ours),
        CredentialKind::Exchange if has_caller => Ok(Shown::Ours),
        CredentialKind::Exchange => Err(Refusal::of(Reason::TokenMissing)
            .because("the upstream takes a token that is exchanged for the caller's, and there is none")),
    }
}

/// Gets what the upstream is shown; the caller's token is good until `until`.
async fn obtain(
    credential: &Credential,
    headers: &HeaderMap,
    until: Option<Timestamp>,
) -> Result<Authorization, Refusal> {
    let subject = match (Presented::from_headers(headers), until) {
        (Ok(Presented::Bearer(token)), Some(expires)) => Some(Subject { token, expires }),
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
        who: Arc::clone(who),
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
    async fn plain(
        self,
        head: Parts,
        body: RequestBody,
        meter: Rc<Meter>,
        form: Form,
        draft: Draft,
    ) -> Response<Body> {
        let answer = timeout_at(self.deadline, self.pool.send(Request::from_parts(head, body))).await;
        if meter.trailers.get() {
            // hyper takes some bytes for their end that are none, and lets go of what stands behind those.
            self.connection.ending.set(true);
        }
        match answer {
            Ok(Ok(answer)) => self.deliver(answer, meter, draft),
            failed => {
                let refusal = match (meter.fault.get(), failed) {
                    (Some(fault), _) => {
                        // Nobody knows where the next request would begin.
                        self.connection.ending.set(true);
                        Refusal::from(fault)
                    }
                    (None, Ok(Err(error))) => Refusal::from(&error),
                    (None, _) => Refusal::over(Limit::TotalTimeout),
                };
                let mut draft = draft;
                draft.moved(meter.request_bytes.get(), 0);
                refuse(draft, form, &refusal).await
            }
        }
    }

    /// Passes an answer on; its body finishes the record.
    fn deliver(
        self,
        answer: Response<upstream::ResponseBody>,
        meter: Rc<Meter>,
        mut draft: Draft,
    ) -> Response<Body> {
        let (mut head, body) = answer.into_parts();
        headers::for_client(&mut head.headers);
        draft.answered(head.status);
        // The version is hyper's business, on each side of us.
        head.version = Version::default();
        Response::from_parts(
            head,
            Body::Streamed(Box::new(ResponseBody::new(body, meter, self.deadline, draft))),
        )
    }

    /// A WebSocket handshake, by HTTP/1.1 upgrade or HTTP/2 extended CONNECT; upstream always by the
    /// former.
    async fn websocket(self, mut head: Parts, form: Form, ends: Instant, draft: Draft) -> Response<Body> {
        let Some(client) = head.extensions.remove::<OnUpgrade>() else {
            return refuse(draft, form, &Refusal::of(Reason::Internal)).await;
        };
        let by_connect = head.version == Version::HTTP_2;
        let accept = match by_connect.then(|| add_handshake(&mut head.headers)).transpose() {
            Ok(accept) => accept,
            Err(refusal) => return refuse(draft, form, &refusal).await,
        };
        let asking = self.pool.upgrade(Request::from_parts(head, ()), "websocket");
        match timeout_at(self.deadline, asking).await {
            Ok(Ok(Upgrade::Switched(switched))) => {
                let accepted = switched.response.headers().get(SEC_WEBSOCKET_ACCEPT);
                if accept.is_some() && accepted != accept.as_ref() {
                    let refusal = Refusal::of(Reason::UpstreamUnavailable);
                    let refusal = refusal.because("it did not accept the WebSocket handshake");
                    return refuse(draft, form, &refusal).await;
                }
                self.switch(client, switched, by_connect, ends, draft)
            }
            // To a CONNECT any 2xx says that the tunnel stands (RFC 9110 §9.3.6).
            Ok(Ok(Upgrade::Answered(answer))) if by_connect && answer.status().is_success() => {
                let refusal = Refusal::of(Reason::UpstreamUnavailable);
                let refusal = refusal.because("it answered the WebSocket handshake without a switch");
                refuse(draft, form, &refusal).await
            }
            Ok(Ok(Upgrade::Answered(answer))) => self.deliver(answer, Rc::default(), draft),
            Ok(Err(error)) => refuse(draft, form, &Refusal::from(&error)).await,
            Err(_) => refuse(draft, form, &Refusal::over(Limit::TotalTimeout)).await,
        }
    }

    /// Answers the handshake and copies both ways in a task of its own, which finishes the record.
    fn switch(
        self,
        client: OnUpgrade,
        switched: Switched,
        by_connect: bool,
        ends: Instant,
        mut draft: Draft,
    ) -> Response<Body> {
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
        let cut = self.worker.shared.stopped.child_token();
        // On h2 the connection goes on, and is not idle while the tunnel is there.
        let busy = self.connection.busy(false);
        let (connection, shared) = (Rc::clone(self.connection), Arc::clone(&self.worker.shared));
        self.worker.tasks.spawn_local(async move {
            let _busy = busy;
            let Ok(client) = client.await else { return drop(draft) };
            let tunnel = switched.tunnel(TokioIo::new(client), &cut);
            let mut tunnel = std::pin::pin!(tunnel);
            let tunnel = tokio::select! {
                tunnel = tunnel.as_mut() => tunnel,
                () = sleep_until(ends) => {
                    draft.detail("the token, certificate or rule behind it has ended");
                    cut.cancel();
                    tunnel.await
                }
                error = connection.refused(&shared) => {
                    draft.because(Reason::from(&error));
                    draft.detail(&error.to_string());
                    cut.cancel();
                    tunnel.await
                }
            };
            draft.moved(tunnel.bytes_up, tunnel.bytes_down);
            match tunnel.end {
                TunnelEnd::Closed | TunnelEnd::Cut => {}
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
