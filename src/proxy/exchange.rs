//! The path of one request, from its head to its answer and its record. This file only sequences.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::{FutureExt, TryFutureExt};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;

use super::assertion::{self, Asserted};
use super::body::Body;
use super::connection::{Connection, Known, Telling};
use super::forward::{Passage, forward};
use super::generation::Generation;
use super::headers::{Origin, given_traceparent};
use super::hop::{self, TrustedHop};
use super::judgement::{self, Holder, Whence};
use super::known_by::KnownBy;
use super::normalize::Asked;
use super::refusal::{Form, Refusal};
use super::route::CrossOrigin;
use super::worker::Worker;
use crate::audit::{Draft, Protocol, Reason};
use crate::clock::{Stopwatch, Timestamp};
use crate::identity::{CertificateHash, Direction};
use crate::policy::{Decision, Verdict};
use crate::token::Scheme;

/// Answers one request. Whatever happens, it leaves exactly one record: that is begun here and not at the
/// outcome's first poll, since hyper drops a request unpolled whose client has closed behind its head.
pub fn exchange(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Response<Body>> {
    let (head, body) = request.into_parts();
    let mut draft = worker.shared.audit.begin(connection.arrival(Some(&head.method), protocol(head.version)));
    // Of a head that is refused, too.
    if let Some(traceparent) = given_traceparent(&head.headers) {
        draft.trace(traceparent);
    }
    let (form, id) = (Form::of(&head), draft.id());
    // A panic ends this request alone; its draft has recorded it. What it may have left half done is its
    // own, or behind a lock that is not poisoned for others.
    let answering = AssertUnwindSafe(answer(worker, connection, head, body, form, draft)).catch_unwind();
    let panicked = move |_| Refusal::of(Reason::Internal).answer(form, &id.to_string()).map(Body::Fixed);
    answering.unwrap_or_else(panicked)
}

/// The path, step by step.
async fn answer(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    mut head: Parts,
    body: Incoming,
    form: Form,
    mut draft: Draft,
) -> Response<Body> {
    let generation = worker.shared.generation.load_full();
    let made_for = connection.made_for(&generation, worker.shared.clock.now());
    let asked = match judgement::read(&generation, &mut head, made_for) {
        Ok(asked) => asked,
        Err(refusal) => {
            if refusal.limit.is_none() {
                // RFC 9112 §6.3: who frames a head in its own way may frame in it what follows.
                connection.ending.set(true);
            }
            return refuse(draft, form, &refusal).await;
        }
    };
    draft.asked(&asked.host, &asked.path, form == Form::Grpc);
    if let Some(answer) = assertion::key_set(&generation, &asked, worker.shared.clock.now()) {
        draft.for_everybody();
        return finish(draft, answer.map(Body::Fixed)).await;
    }
    let cross_origin = CrossOrigin::of(&generation, connection.direction, &asked, &head.headers);
    if let Some(answer) = cross_origin.preflight(&asked, &head.headers) {
        draft.because(Reason::Preflight);
        return finish(draft, answer).await;
    }
    let mut answer =
        match judge(&worker, &generation, &connection, (asked, &cross_origin), &head, &mut draft).await {
            Ok(passage) => {
                let request = Request::from_parts(head, body);
                forward(&worker, &generation, &connection, request, passage, form, draft).await
            }
            Err(refusal) => refuse(draft, form, &refusal).await,
        };
    cross_origin.expose(answer.headers_mut());
    answer
}

/// Both signatures and one decision: what a request is forwarded upon.
async fn judge(
    worker: &Worker,
    generation: &Generation,
    connection: &Connection,
    (asked, page): (Asked, &CrossOrigin<'_>),
    head: &Parts,
    draft: &mut Draft,
) -> Result<Passage, Refusal> {
    let clock = &worker.shared.clock;
    let mut known = connection.known(generation);
    let verifier = &generation.verifier;
    let (from, told) = origin(generation, connection, &head.headers, clock.now(), draft)?;
    let (hop, origin) = told.unzip();
    // What goes out is all of one application, and of whom a hop does not tell nobody knows whose part it would be.
    let client = from.client.filter(|_| connection.direction == Direction::Inbound);
    let max = generation.limits.requests_per_client_max;
    let share =
        client.map(|client| worker.in_flight.enter(client, max)).transpose().map_err(Refusal::over)?;
    let peer = || connection.requester(generation, &head.headers, clock.now());
    let time = || clock.now();
    let replaced = |before: &CertificateHash| {
        connection.replaced(&worker.shared.leaves, generation, before, clock.now())
    };
    let address = from.client.or(from.peer);
    let holder = Holder { peer, replaced, hop, address, page };
    let seen = asked.seen(&head.headers, origin.as_ref().unwrap_or(&connection.origin).is_secure());
    let verified = judgement::verify(generation, verifier, seen, holder, time, &mut known.token, draft);
    let signatures = verified.await?;
    let now = clock.now();
    let watch = Stopwatch::start();
    let request = signatures.ask(&asked, &head.headers, &from, now);
    let (decision, judged, cache) = judgement::decide(generation, &request, known.judged.as_ref());
    let took = watch.elapsed();
    if let Some(told) = judged.told.get() {
        draft.signed_by(told.signers.clone());
    }
    draft.decided(&generation.policy, &decision, cache, took);
    let told = judged.told.get().map(|told| Arc::clone(&told.headers));
    let who = told.unwrap_or_else(|| {
        // Most often a connection's next caller comes through the same peer.
        let last = known.judged.as_ref().filter(|last| last.is_of_peer_of(&judged));
        let peer = last.and_then(|last| last.told.get()?.signers.peer.clone());
        let headers = Arc::new(signatures.introduce(generation, &decision));
        let signers = draft.signers(peer, &generation.policy);
        let telling = Telling { headers: Arc::clone(&headers), signers, assertion: Arc::default() };
        if telling.is_small() {
            // Another request of the same two may have been first.
            let _ = judged.told.set(telling);
        }
        headers
    });
    let Decision { verdict, evidence } = decision;
    let outcome = match verdict {
        Verdict::Permit(permit) => {
            let is_told = generation.tells(permit.upstream());
            let assertion = generation.assertions.as_ref().filter(|_| is_told).map(|assertions| {
                let id = draft.id().to_string();
                let asserted =
                    Asserted { signatures: &signatures, evidence: &evidence, permit: &permit, id: &id };
                assertions.of(&asserted, judged.told.get().map(|told| &*told.assertion), now)
            });
            let assertion = assertion.transpose().map_err(|_| Refusal::of(Reason::Internal));
            let vouched_until = connection.vouched_until(generation, &signatures.peer);
            let held_until = signatures.held_until(generation, connection, &worker.shared.leaves, now);
            let until = signatures.hold_until(&permit, &judged, vouched_until.min(held_until));
            let known_by = || KnownBy::of(&signatures, &head.headers, known.token.as_deref(), verifier);
            let who = is_told.then_some(who);
            let caller_until = signatures.token().map(|token| token.expires);
            assertion.map(|assertion| {
                let known_by = known_by();
                Passage { asked, permit, who, assertion, origin, known_by, caller_until, until, share }
            })
        }
        Verdict::Denial(denial) => Err(Refusal::from(&denial).in_scheme(Scheme::of(&head.headers))),
    };
    // What is made of a token that is too large to be kept is not kept either.
    if known.token.is_some() || signatures.caller.verified().is_none() {
        connection.keep(generation, Known { judged: Some(Arc::clone(&judged)), ..known });
    }
    outcome
}

/// A hop that tells of others than are at its end, and what its upstream is told of them.
type Told<'g> = (&'g TrustedHop, Origin);

/// From where a request comes, and what a trusted hop that it came through tells.
fn origin<'g>(
    generation: &'g Generation,
    connection: &Connection,
    headers: &HeaderMap,
    now: Timestamp,
    draft: &mut Draft,
) -> Result<(Whence, Option<Told<'g>>), Refusal> {
    // What is wrong with the other end is told where its signature is.
    let end = if generation.hops.is_empty() { None } else { connection.peer(generation, now).ok() };
    let through = end.as_ref().and_then(|end| connection.through(generation, end, headers));
    if let Some((through, end)) = through.as_ref().zip(end.as_ref()) {
        through.note(end.verified().map(|end| end.certificate), draft);
    }
    let hop = through.as_ref().map(|through| through.hop);
    let from = Whence::of(connection.peer_ip, through)?;
    let told = hop.map(|hop| (hop, connection.origin.told(from.client, hop::spoke_tls(headers))));
    Ok((from, told))
}

fn protocol(version: http::Version) -> Protocol {
    match version {
        http::Version::HTTP_2 => Protocol::Http2,
        http::Version::HTTP_11 => Protocol::Http11,
        _ => Protocol::Http10,
    }
}

/// Answers with a refusal.
pub async fn refuse(mut draft: Draft, form: Form, refusal: &Refusal) -> Response<Body> {
    note(&mut draft, refusal);
    let answer = refusal.answer(form, &draft.id().to_string());
    finish(draft, answer.map(Body::Fixed)).await
}

/// What a record says of a refusal, besides what was answered.
pub fn note(draft: &mut Draft, refusal: &Refusal) {
    draft.because(refusal.reason);
    if let Some(limit) = refusal.limit {
        draft.over(limit);
    }
    if let Some(detail) = &refusal.detail {
        draft.detail(detail);
    }
}

/// Writes the record and answers.
pub async fn finish(mut draft: Draft, answer: Response<Body>) -> Response<Body> {
    // Boxed: it waits seldom, and would make every request's future large.
    Box::pin(draft.room()).await;
    draft.answered(answer.status());
    draft.finish();
    answer
}
