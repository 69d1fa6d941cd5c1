//! A request on its way: choose an address, get a connection, send, wait for the head of the response.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{Exchange, RequestBody, ResponseBody};
use super::connect::{HEADS_BYTES_MAX, Offer};
use super::head::HeadBudget;
use super::pool::Pool;
use super::refusal::refused;
use super::served::Errand;
use super::settings::{ServerSettings, Transport};
use super::slot::{Lease, Link, NoLease, Slot};
use super::tunnel::{Tunnel, copy};
use super::websocket::Close;
use super::{UpstreamError, Wait};

/// Dials and give-backs together, per request.
const ATTEMPTS_MAX: usize = 3;

/// What became of a request for another protocol.
pub enum Upgrade {
    Switched(Switched),
    /// The upstream answered in HTTP instead.
    Answered(Response<ResponseBody>),
}

/// The upstream switched protocols (101); the connection is a tunnel from here on.
pub struct Switched {
    /// The head to pass on.
    pub response: Response<()>,
    io: TokioIo<Upgraded>,
    idle_timeout: Duration,
    /// Keeps the tunnel among the requests in flight.
    lease: Lease,
}

/// An attempt that brought no response.
struct Broken {
    error: UpstreamError,
    /// The request, if not one byte of it was sent.
    unsent: Option<Request<RequestBody>>,
}

impl Pool {
    /// Sends `request` and returns with the head of the response; both bodies stream.
    ///
    /// The path stands in the URI and the authority in the URI or in `Host`; hop-by-hop fields are the
    /// caller's business. `Host`, the form of the URI and the version are made to fit the connection.
    /// A trailer goes over h1 only if it is announced in `Trailer` (hyper's condition).
    ///
    /// # Errors
    /// See [`UpstreamError`]; the same errors come out of the response's body if it breaks later. A
    /// response whose body is delimited by the end of a connection in the clear cannot be told from a
    /// broken one (RFC 9112 §8).
    pub async fn send<B>(
        &self,
        request: Request<B>,
        errand: &Errand<'_>,
    ) -> Result<Response<ResponseBody>, UpstreamError>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let exchange = Exchange::begin();
        let request = request.map(|body| RequestBody::new(body, Rc::clone(&exchange)));
        let (response, lease) = self.exchange(request, &exchange, Offer::Any, errand).await?;
        if response.status().is_informational() {
            return Err(UpstreamError::Unavailable(format!("answered {} unasked", response.status())));
        }
        Ok(self.streaming(response, exchange, lease))
    }

    /// Asks for `protocol` by an h1 upgrade (RFC 9110 §7.8). Nothing follows the head of the request
    /// before the upstream's 101.
    pub async fn upgrade(
        &self,
        mut request: Request<()>,
        protocol: &'static str,
        errand: &Errand<'_>,
    ) -> Result<Upgrade, UpstreamError> {
        let headers = request.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(protocol));
        let exchange = Exchange::begin();
        let request = request.map(|()| RequestBody::new(Empty::new(), Rc::clone(&exchange)));
        let (mut response, mut lease) = self.exchange(request, &exchange, Offer::H1, errand).await?;
        lease.reusable = false;
        if !response.status().is_informational() {
            return Ok(Upgrade::Answered(self.streaming(response, exchange, lease)));
        }
        let chosen = response.headers().get(UPGRADE).map(HeaderValue::as_bytes).unwrap_or_default();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS
            || !chosen.eq_ignore_ascii_case(protocol.as_bytes())
        {
            return Err(UpstreamError::Unavailable("switched to a protocol not asked for".to_owned()));
        }
        let upgraded = timeout(self.settings().connect_timeout, hyper::upgrade::on(&mut response)).await;
        let io = match upgraded {
            Ok(Ok(upgraded)) => TokioIo::new(upgraded),
            Ok(Err(error)) => return Err(refused(&error, "upgrade")),
            Err(_) => return Err(UpstreamError::Timeout(Wait::Connect)),
        };
        let idle_timeout = self.settings().idle_timeout;
        Ok(Upgrade::Switched(Switched { response: response.map(|_| ()), io, idle_timeout, lease }))
    }

    fn streaming(
        &self,
        response: Response<Incoming>,
        exchange: Rc<Exchange>,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let idle_timeout = self.settings().idle_timeout;
        response.map(|incoming| ResponseBody::new(incoming, exchange, lease, idle_timeout))
    }

    async fn exchange(
        &self,
        mut request: Request<RequestBody>,
        exchange: &Exchange,
        offer: Offer,
        errand: &Errand<'_>,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        let mut unreachable: SmallVec<[Rc<Slot>; ATTEMPTS_MAX]> = SmallVec::new();
        let mut last = None;
        let mut fresh = offer == Offer::H1;
        for _ in 0..ATTEMPTS_MAX {
            let Some(slot) = self.choose(&unreachable).await? else { break };
            let mut lease = match slot.lease(offer, fresh, errand).await {
                Ok(lease) => lease,
                Err(NoLease::Full(error)) => return Err(error),
                Err(NoLease::Dial(error)) => {
                    slot.failed();
                    // Somebody stands in for the server, or it knows who we are: to be told, not to be got around.
                    if matches!(error, UpstreamError::IdentityMismatch(_) | UpstreamError::RefusedUs(_)) {
                        return Err(error);
                    }
                    last = Some(error);
                    unreachable.push(slot);
                    continue;
                }
            };
            exchange.restart();
            match self.attempt(&mut lease, request, exchange, &slot.endpoint.server.settings).await {
                Ok(response) => {
                    slot.endpoint.succeeded();
                    return Ok((response, lease));
                }
                Err(Broken { error, unsent }) => match (lease.refusal(), unsent) {
                    (Some(identity), _) => {
                        slot.failed();
                        return Err(identity);
                    }
                    (None, Some(given_back)) => {
                        last = Some(error);
                        request = given_back;
                        fresh = true;
                    }
                    (None, None) => {
                        if !matches!(error, UpstreamError::ClientGone(_)) {
                            slot.failed();
                        }
                        return Err(error);
                    }
                },
            }
        }
        let none = || UpstreamError::Unavailable(format!("`{}` has no server", self.settings().name));
        Err(last.unwrap_or_else(none))
    }

    async fn attempt(
        &self,
        lease: &mut Lease,
        mut request: Request<RequestBody>,
        exchange: &Exchange,
        server: &ServerSettings,
    ) -> Result<Response<Incoming>, Broken> {
        if let Err(error) = address(&mut request, matches!(lease.link, Link::H2(_)), server) {
            return Err(Broken { error, unsent: None });
        }
        let budget = match &lease.link {
            Link::H1(h1) => Some(h1.budget.clone()),
            Link::H2(_) => None,
        };
        budget.iter().for_each(|budget| budget.begin(HEADS_BYTES_MAX));
        let mut answer = pin!(write(&mut lease.link, request));
        loop {
            let (deadline, _) = exchange.patience(self.settings());
            // Once the request is sent the deadline may come nearer, but by no more than this.
            let look_again = match exchange.is_sent() {
                true => deadline,
                false => deadline.min(Instant::now() + self.settings().first_byte_timeout),
            };
            match timeout_at(look_again, answer.as_mut()).await {
                Ok(Ok(response)) if has_other_framing(&response) || has_odd_length(&response) => {
                    let error = UpstreamError::Unavailable(format!("{server}: its answer has two framings"));
                    return Err(Broken { error, unsent: None });
                }
                Ok(Ok(response)) => {
                    budget.iter().for_each(HeadBudget::end);
                    return Ok(response);
                }
                Ok(Err(mut failure)) => {
                    let unsent = failure.take_message();
                    let error = exchange.client_gone();
                    let error = error.unwrap_or_else(|| refused(failure.error(), &server.to_string()));
                    return Err(Broken { error, unsent });
                }
                Err(_) => {
                    let (deadline, error) = exchange.patience(self.settings());
                    if deadline <= Instant::now() {
                        return Err(Broken { error, unsent: None });
                    }
                }
            }
        }
    }
}

impl Switched {
    /// Copies both ways until an end closes, nothing moves for `idle_timeout`, or `cut` with what both are to be told.
    pub async fn tunnel<D>(self, downstream: D, cut: impl Future<Output = Option<Close>>) -> Tunnel
    where
        D: AsyncRead + AsyncWrite + Unpin,
    {
        let _in_flight = self.lease;
        copy(downstream, self.io, self.idle_timeout, cut).await
    }
}

async fn write(
    link: &mut Link,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Box<TrySendError<Request<RequestBody>>>> {
    let expects = request.headers().contains_key(EXPECT);
    match link {
        Link::H1(h1) => {
            if expects {
                let continued = Arc::new(Notify::new());
                request.body_mut().wait_for(Arc::clone(&continued));
                hyper::ext::on_informational(&mut request, move |interim| {
                    if interim.status() == StatusCode::CONTINUE {
                        continued.notify_one();
                    }
                });
            }
            h1.sender.try_send_request(request).await.map_err(Box::new)
        }
        Link::H2(stream) => {
            // hyper does not tell of interim responses on h2, so nobody could be waited for.
            request.headers_mut().remove(EXPECT);
            stream.sender().try_send_request(request).await.map_err(Box::new)
        }
    }
}

/// A length beside the chunks, or a coding that nobody asked for: hyper reads the one and hides the other
/// (RFC 9112 §6.1, §6.3).
fn has_other_framing(response: &Response<Incoming>) -> bool {
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return false };
    codings.next().is_some()
        || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        || response.headers().contains_key(CONTENT_LENGTH)
}

/// More than one length, or none that is a number. hyper takes a list of equal ones, and any where there is no
/// body, as in the answer to a HEAD (RFC 9110 §8.6).
fn has_odd_length(response: &Response<Incoming>) -> bool {
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return false };
    let is_number = length.as_bytes().iter().all(u8::is_ascii_digit)
        && length.to_str().is_ok_and(|it| it.parse::<u64>().is_ok());
    lengths.next().is_some() || !is_number
}

/// Writes the target as the connection wants it: h1 origin-form and `Host`, h2 scheme and authority.
fn address(
    request: &mut Request<RequestBody>,
    h2: bool,
    server: &ServerSettings,
) -> Result<(), UpstreamError> {
    let unusable = || UpstreamError::Unavailable("the request's target cannot be written".to_owned());
    let host = match (request.uri().authority(), request.headers().get(HOST)) {
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()),
        (None, Some(host)) => Ok(host.clone()),
        (None, None) => HeaderValue::from_str(&server.to_string()),
    }
    .map_err(|_| unusable())?;
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    if h2 {
        let mut target = http::uri::Parts::default();
        target.path_and_query = Some(path);
        target.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| unusable())?);
        target.scheme = Some(match server.transport {
            Transport::Https { .. } | Transport::Awaited => Scheme::HTTPS,
            Transport::Http | Transport::H2c => Scheme::HTTP,
        });
        request.headers_mut().remove(HOST);
        request.headers_mut().remove(TRANSFER_ENCODING);
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(target).map_err(|_| unusable())?;
    } else {
        // Untold, hyper leaves such a body away where the method seldom has one, as GET.
        if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        request.headers_mut().insert(HOST, host);
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = path.into();
    }
    Ok(())
}
