//! Acting upon a permit: the request goes upstream, the answer comes back, the record is finished.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use http::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::body::{Ending, Meter, RequestBody, ResponseBody};
use super::connection::Connection;
use super::exchange::{Signatures, refuse};
use super::generation::Generation;
use super::headers::{self, Introduction};
use super::normalize::{Asked, Kind};
use super::refusal::Refusal;
use super::route::RouteSettings;
use super::worker::Worker;
use super::{Body, full};
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::policy::{Evidence, Permit};
use crate::upstream::{Pool, Switched, TunnelEnd, Upgrade, UpstreamError};

/// A request that was permitted, with all that it rests on.
pub struct Passage {
    pub asked: Asked,
    pub signatures: Signatures,
    pub permit: Permit,
    pub evidence: Evidence,
}

/// A preflight's answer, where its route has `cors` and the origin is allowed.
pub fn preflight(generation: &Generation, asked: &Asked, headers: &HeaderMap) -> Option<Response<Body>> {
    let route = generation.policy.route_for(&asked.host, &asked.path, headers)?;
    let cors = generation.routes.get(route.index())?.cors.as_ref()?;
    let mut answer = Response::new(full(http_body_util::Full::default()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    *answer.headers_mut() = cors.preflight(&asked.method, headers)?;
    Some(answer)
}

/// Forwards what `passage` permits. The record is finished with the answer's last byte.
pub async fn forward(
    worker: &Rc<Worker>,
    generation: &Generation,
    connection: &Connection,
    mut head: Parts,
    body: Incoming,
    passage: Passage,
    mut draft: Draft,
) -> Response<Body> {
    let permit = &passage.permit;
    let settings = generation.routes.get(permit.route().index());
    let (Some(route), Some(pool)) = (settings, worker.pool(generation, permit.upstream())) else {
        return refuse(draft, &head, &Refusal::of(Reason::Internal).because("a permit without a route"));
    };
    let asked_headers = route.cors.as_ref().map(|_| head.headers.clone());
    let outcome = match upstream_head(generation, connection, route, &mut head, &passage, &mut draft) {
        Err(refusal) => Err(refusal),
        Ok(request) => {
            let deadline = deadline(route, permit, worker.shared.clock.now());
            let sending = Sending { worker, pool: &pool, deadline, client_version: head.version };
            match passage.asked.kind {
                Kind::WebSocket => sending.websocket(request, &mut head, draft_of(&mut draft)).await,
                Kind::Plain | Kind::Grpc => sending.plain(request, body, route).await,
            }
        }
    };
    match outcome {
        Ok(answer) => answer.finish(draft, route, asked_headers.as_ref()),
        Err(refusal) => refuse(draft, &head, &refusal),
    }
}
