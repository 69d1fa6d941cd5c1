//! One dial: TCP, TLS where configured, then the HTTP that ALPN or the scheme says.
//!
//! A peer that fails TLS verification is told apart from a network that fails: see `refusal.rs`.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::discovery::Upstream;
use super::early::Early;
use super::endpoint::Endpoint;
use super::head::{HeadBudget, Metered};
use super::refusal::{Refusal, Watched, refused};
use super::served::Served;
use super::settings::{ServerSettings, Transport};
use super::{UpstreamError, in_full};
use crate::fetch::address::is_metadata;
use crate::tls::servers::{ServerTls, Shown};

/// Of a response; longer heads are refused. (More than 100 fields are too, on h1: hyper's own limit, which
/// costs no allocation as long as it is not set.)
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Of interim responses and the head after them, on h1.
pub(super) const HEADS_BYTES_MAX: usize = 2 * HEADER_BYTES_MAX as usize;
/// What hyper reads ahead on h1.
const H1_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// What a stream may have on its way to a client that does not read. The window of the connection
/// covers it for all streams, so that slow clients cannot starve the others on it.
const H2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const H2_SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// A dead h2 connection with requests on it is found by these.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

const AWAITED: &str = "our own certificate has not come yet";

/// A configured server with what every dial to it needs.
#[derive(Debug)]
pub(super) struct Server {
    pub settings: ServerSettings,
    tls: Option<OfferedTls>,
}

/// The server's TLS configuration with what we offer by ALPN.
#[derive(Debug)]
struct OfferedTls {
    judge: Arc<ServerTls>,
    h2_or_h1: Arc<ClientConfig>,
    h1: Arc<ClientConfig>,
}

/// Which HTTP a dial may end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    H1,
    /// Whatever the server prefers.
    Any,
}

/// A connection, ready for requests; its task runs on this core.
pub(super) struct Connected {
    pub sender: Sender,
    /// Where it had to show who it is.
    pub served: Option<Rc<Served>>,
    /// Set once TLS says what is wrong about who somebody is.
    pub refusal: Refusal,
}

pub(super) enum Sender {
    H1 { sender: http1::SendRequest<RequestBody>, driver: JoinHandle<()>, budget: HeadBudget },
    H2 { sender: http2::SendRequest<RequestBody> },
}

/// Runs hyper's tasks on this core.
#[derive(Clone, Copy, Debug)]
struct ThisCore;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for ThisCore {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

impl Server {
    pub fn new(settings: ServerSettings) -> Server {
        let tls = match &settings.transport {
            Transport::Https { tls, .. } => {
                let offering = |protocols: &[&[u8]]| {
                    let mut config = ClientConfig::clone(&tls.config);
                    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
                    Arc::new(config)
                };
                let (h2_or_h1, h1) = (offering(&[b"h2", b"http/1.1"]), offering(&[b"http/1.1"]));
                Some(OfferedTls { judge: Arc::clone(tls), h2_or_h1, h1 })
            }
            Transport::Http | Transport::H2c | Transport::Awaited => None,
        };
        Server { settings, tls }
    }

    /// Whether a dial can end in h2, so that one of them may serve many requests.
    pub fn may_speak_h2(&self) -> bool {
        !matches!(self.settings.transport, Transport::Http)
    }
}

/// Dials. Bounding its time is the caller's part.
pub(super) async fn connect(
    endpoint: &Endpoint,
    offer: Offer,
    upstream: &Upstream,
) -> Result<Connected, UpstreamError> {
    let server = &endpoint.server;
    let streams_max = upstream.settings().limits.streams_per_connection_max;
    if server.settings.transport == Transport::Awaited {
        return Err(UpstreamError::Unavailable(format!("{}: {AWAITED}", server.settings)));
    }
    let failed =
        |error: std::io::Error| refused(&error, &format!("{} ({})", server.settings, endpoint.address));
    if is_metadata(endpoint.address.ip()) {
        let (server, address) = (&server.settings, endpoint.address);
        tracing::warn!(%server, %address, "a link-local or metadata address is never dialled");
        let why = format!("{server} ({address}): a link-local or metadata address is never dialled");
        return Err(UpstreamError::Unavailable(why));
    }
    let tcp = TcpStream::connect(endpoint.address).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let refusal = Refusal::default();
    let mut served = None;
    let sender = match (&server.settings.transport, &server.tls) {
        (Transport::H2c, _) if offer == Offer::Any => start_h2(tcp, streams_max).await?,
        (Transport::Https { server_name, .. }, Some(tls)) => {
            let config = match offer {
                Offer::H1 => &tls.h1,
                Offer::Any => &tls.h2_or_h1,
            };
            let connector = TlsConnector::from(Arc::clone(config));
            let stream = connector.connect(server_name.clone(), tcp).await.map_err(failed)?;
            let handshake = stream.get_ref().1;
            let shown = Shown::of(handshake, server_name);
            served = Some(Served::new(upstream, &tls.judge, shown, server.settings.to_string())?);
            let h2 = handshake.alpn_protocol() == Some(b"h2");
            let stream = Watched::new(stream, &refusal, server.settings.to_string());
            if h2 { start_h2(stream, streams_max).await? } else { start_h1(stream).await? }
        }
        _ => start_h1(tcp).await?,
    };
    Ok(Connected { sender, served, refusal })
}

async fn start_h1<T>(io: T) -> Result<Sender, UpstreamError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let budget = HeadBudget::new();
    let io = Metered { io: Early::new(io), budget: budget.clone() };
    let (sender, connection) = http1::Builder::new()
        .max_header_size(HEADER_BYTES_MAX as usize)
        .max_buf_size(H1_BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| refused(&error, "h1"))?;
    let driver = spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = in_full(&error), "upstream h1 connection ended");
        }
    });
    Ok(Sender::H1 { sender, driver, budget })
}

async fn start_h2<T>(io: T, streams_max: usize) -> Result<Sender, UpstreamError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let streams = u32::try_from(streams_max).unwrap_or(u32::MAX);
    let (sender, connection) = http2::Builder::new(ThisCore)
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_STREAM_WINDOW_BYTES.saturating_mul(streams).min(i32::MAX as u32))
        .max_send_buf_size(H2_SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| refused(&error, "h2"))?;
    spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = in_full(&error), "upstream h2 connection ended");
        }
    });
    Ok(Sender::H2 { sender })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::body::Exchange;
    use crate::upstream::testing::{full, get};
    use http::Response;
    use hyper::service::service_fn;
    use tokio::io::{AsyncWriteExt, DuplexStream, copy, duplex, sink};
    use tokio::sync::Notify;
    use tokio::time::{Instant, timeout};

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    /// A request over h2, and whether it was answered.
    async fn answered(io: DuplexStream) -> bool {
        let Sender::H2 { mut sender } = start_h2(io, 10).await.unwrap() else { panic!("not h2") };
        let request =
            get("http://orders.shop.example/").map(|body| RequestBody::new(body, Exchange::begin()));
        sender.send_request(request).await.is_ok()
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn an_h2_server_that_answers_no_ping_is_given_up() {
        let (ours, mut theirs) = duplex(64 * 1024);
        let silent = spawn_local(async move {
            theirs.write_all(&SETTINGS).await.unwrap();
            // Until we go.
            copy(&mut theirs, &mut sink()).await.unwrap()
        });
        let began = Instant::now();
        let answered = timeout(10 * (H2_PING_INTERVAL + H2_PING_TIMEOUT), answered(ours)).await;
        assert!(!answered.unwrap());
        assert_eq!(began.elapsed().as_secs(), (H2_PING_INTERVAL + H2_PING_TIMEOUT).as_secs());
        assert!(silent.await.unwrap() > 0, "the connection is closed");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn one_that_only_takes_its_time_is_waited_for() {
        let (ours, theirs) = duplex(64 * 1024);
        let gate = Arc::new(Notify::new());
        let opened = Arc::clone(&gate);
        spawn_local(async move {
            let slow = service_fn(move |_| {
                let opened = Arc::clone(&opened);
                async move {
                    opened.notified().await;
                    Ok::<_, std::io::Error>(Response::new(full("late")))
                }
            });
            let server = hyper::server::conn::http2::Builder::new(ThisCore);
            server.serve_connection(TokioIo::new(theirs), slow).await.unwrap();
        });
        let mut asking = std::pin::pin!(answered(ours));
        assert!(timeout(10 * (H2_PING_INTERVAL + H2_PING_TIMEOUT), &mut asking).await.is_err());
        gate.notify_one();
        assert!(asking.await);
    }
}
