//! The composition root: a configuration becomes live objects, is replaced by the next one, and ends in
//! order.
//!
//! One thread serves on each core ([`worker`]); one more runs what no request waits for: fetching keys,
//! looking names up, answering operators. A reload builds a whole new generation first and puts it in
//! place last, so that one that fails changes nothing.

mod assemble;
mod credential;
mod identities;
mod issuers;
mod live;
mod loads;
mod report;
mod revocations;
mod upstream;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Pages, Status};
use crate::audit::sink::{Sink, SinkError};
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::config::{Config, Report};
use crate::identity::Name;
use crate::metrics::Metrics;
use crate::proxy::admission::Admission;
use crate::proxy::leaves::Leaves;
use crate::proxy::{Shared, listener, worker};
use crate::tls::client::ClientTlsError;
use crate::token::{self, SameIssuer, SelfTestError, SigningError};

use assemble::Tools;
use live::Live;

/// A proxy that runs. Dropping it ends it at once; [`Server::drain`] ends it in peace.
pub struct Server {
    live: Arc<Live>,
    shared: Arc<Shared>,
    status: Arc<Status>,
    addresses: Addresses,
    background: Background,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

/// The addresses that are really listened on: a configured port 0 is another one here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub listeners: BTreeMap<Name, SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub health: Option<SocketAddr>,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration has no `[listener]`: there is nothing to serve")]
    NoListener,
    #[error("`{address}` cannot be listened on ({what}): {source}")]
    Bind { what: String, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Audit(#[from] SinkError),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

/// Why a configuration cannot be made live.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error(transparent)]
    Issuers(#[from] SameIssuer),
    #[error("the TLS configuration of listener `{listener}` cannot be made: {source}")]
    Listener { listener: Name, source: rustls::Error },
    #[error("the TLS configuration for `{name}` cannot be made: {source}")]
    Client { name: Name, source: ClientTlsError },
    #[error("keys for assertions: {0}")]
    Assertion(#[from] SigningError),
    #[error("upstream `{name}`: {source}")]
    Upstream { name: Name, source: crate::upstream::ServerError },
    #[error(
        "listeners were added, removed, renamed or moved: their sockets are opened at the start; restart"
    )]
    ListenersChanged,
    #[error("`[identity]` names another source of service identity: it is opened at the start; restart")]
    SourceChanged,
}

/// The thread for what no request waits for.
struct Background {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    ended: CancellationToken,
}

/// How long the last records may take to be written.
const AUDIT_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl Server {
    /// Opens all sockets and serves. Nothing that this program does not control is waited for: an issuer
    /// that is down shows in readiness, not here.
    pub fn start(config: Config, clock: Clock) -> Result<Server, StartError> {
        token::self_test()?;
        if config.listeners.is_empty() {
            return Err(StartError::NoListener);
        }
        let workers_count = config.workers.max(1);
        let mut sockets: Vec<Vec<_>> = (0..workers_count).map(|_| Vec::new()).collect();
        let mut listeners = BTreeMap::new();
        for settings in &config.listeners {
            let what = format!("listener `{}`", settings.name);
            let bound = bind(&what, settings.address, workers_count)?;
            let address = local_address(&what, settings.address, &bound)?;
            listeners.insert(settings.name.clone(), address);
            for (core, socket) in sockets.iter_mut().zip(bound) {
                core.push(socket);
            }
        }
        let admin = config.admin.map(|address| bind_one("[admin] address", address)).transpose()?;
        let health = config.health.map(|address| bind_one("[admin] health_address", address)).transpose()?;
        let address_of =
            |socket: &Option<std::net::TcpListener>| socket.as_ref().and_then(|it| it.local_addr().ok());
        let addresses = Addresses { listeners, admin: address_of(&admin), health: address_of(&health) };

        let metrics = Arc::new(Metrics::new());
        let sink = Sink::start(config.audit.clone(), Arc::clone(&metrics))?;
        let audit = Audit::new(&config.name, clock.clone(), sink, Arc::clone(&metrics));
        let background = Background::start().map_err(StartError::Thread)?;
        metrics.runtime(background.handle.metrics());
        let name = config.name.clone();
        let source = live::source(config.source.clone(), &background.handle, &metrics, &clock);
        let tools = Tools { background: &background.handle, metrics: &metrics, clock: &clock };
        let (generation, assembled) = assemble::first(config, tools)?;
        metrics.reloaded(true, clock.now());
        metrics.policy_in_force(&generation.policy.hash(), generation.number);
        audit.event(&Event::Started { version: env!("CARGO_PKG_VERSION"), policy: generation.policy.hash() });

        let status = Arc::new(Status::new(name, clock.clone(), Arc::clone(&metrics)));
        let shared = Arc::new(Shared {
            generation: ArcSwap::from_pointee(generation),
            reloaded: watch::Sender::new(()),
            clock: clock.clone(),
            audit,
            http2_errors: metrics
                .counter_by("http2_errors", "HTTP/2 streams and connections that we ended, by error"),
            metrics,
            admission: Arc::new(Admission::default()),
            leaves: Leaves::default(),
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        if assembled.revocation.is_some() {
            report::revoked(&shared, &shared.generation.load());
        }
        let live = Live::new(Arc::clone(&shared), assembled, background.handle.clone(), source);
        let live = Arc::new(live);
        for (socket, pages) in [(admin, Pages::Admin), (health, Pages::Health)] {
            if let Some(socket) = socket {
                background.serve(socket, &status, pages).map_err(StartError::Thread)?;
            }
        }
        let reporting = report::keep_reporting(Arc::clone(&live), Arc::clone(&status), addresses.clone());
        background.handle.spawn(reporting);
        background.handle.spawn(Arc::clone(&live).follow());
        background.handle.spawn(revocations::follow(Arc::clone(&live)));
        let mut server = Server { live, shared, status, addresses, background, workers: Vec::new() };
        for (core, sockets) in sockets.into_iter().enumerate() {
            let shared = Arc::clone(&server.shared);
            let thread = thread::Builder::new().name(format!("core-{core}"));
            let thread = thread.spawn(move || worker::run(shared, sockets)).map_err(StartError::Thread)?;
            server.workers.push(thread);
        }
        Ok(server)
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Takes a new configuration for all requests from now on. If that fails, the present one stays.
    pub fn reload(&self, config: Config) -> Result<(), AssembleError> {
        self.live.reload(config)
    }

    /// Says that a configuration was tried and could not be loaded.
    pub fn reload_failed(&self, why: &Report) {
        self.live.reload_failed(why.in_words());
    }

    /// Opens the audit file anew, after it was moved away.
    pub fn reopen_audit(&self) {
        self.shared.audit.sink().reopen();
    }

    /// Ends in peace: not ready any more, no new connections; what is under way may go on until it is done
    /// or `drain_timeout` is over. Blocks meanwhile.
    pub fn drain(mut self) {
        self.status.drains();
        self.shared.draining.cancel();
        let stopped = self.shared.stopped.clone();
        let drain_timeout = self.shared.generation.load().limits.drain_timeout;
        self.background.handle.spawn(async move {
            tokio::time::sleep(drain_timeout).await;
            stopped.cancel();
        });
        self.join_workers();
    }

    /// Cuts a drain that is under way short.
    pub fn stopper(&self) -> CancellationToken {
        self.shared.stopped.clone()
    }

    fn join_workers(&mut self) {
        for worker in self.workers.drain(..) {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a core ended early"),
                Err(_) => tracing::error!("a core ended by a panic"),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.status.drains();
        self.shared.draining.cancel();
        if !self.workers.is_empty() {
            self.shared.stopped.cancel();
        }
        self.join_workers();
        self.shared.stopped.cancel();
        self.shared.audit.event(&Event::Stopped);
        if let Err(error) = self.shared.audit.sink().close(AUDIT_CLOSE_TIMEOUT) {
            tracing::error!(%error, "the audit output could not be closed in time");
        }
        self.background.end();
    }
}

impl Background {
    fn start() -> io::Result<Background> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let ended = CancellationToken::new();
        let until = ended.clone();
        let thread = thread::Builder::new().name("background".to_owned());
        let thread = thread.spawn(move || runtime.block_on(until.cancelled()))?;
        Ok(Background { handle, thread: Some(thread), ended })
    }

    fn serve(&self, socket: std::net::TcpListener, status: &Arc<Status>, pages: Pages) -> io::Result<()> {
        let _inside = self.handle.enter();
        let socket = tokio::net::TcpListener::from_std(socket)?;
        self.handle.spawn(admin::serve(socket, Arc::clone(status), pages));
        Ok(())
    }

    fn end(&mut self) {
        self.ended.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the background thread ended by a panic");
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

fn bind(what: &str, address: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, StartError> {
    listener::bind(address, count).map_err(|source| StartError::Bind {
        what: what.to_owned(),
        address,
        source,
    })
}

fn bind_one(what: &str, address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let none = || StartError::Bind { what: what.to_owned(), address, source: io::ErrorKind::NotFound.into() };
    bind(what, address, 1)?.pop().ok_or_else(none)
}

fn local_address(
    what: &str,
    address: SocketAddr,
    sockets: &[std::net::TcpListener],
) -> Result<SocketAddr, StartError> {
    let failed = |source| StartError::Bind { what: what.to_owned(), address, source };
    let first = sockets.first().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    first.local_addr().map_err(failed)
}
