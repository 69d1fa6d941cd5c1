//! One core's share of the proxy: a runtime, its listening sockets, its connections, its upstream pools.
//!
//! Nothing here is shared with another core but [`Shared`]. Futures may hold `Rc`.

use std::cell::Cell;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::generation::{Generation, Shared};
use super::in_flight::InFlight;
use super::listener;
use super::seldom::Seldom;
use super::underway::{Roll, keep_judging};
use crate::policy::UpstreamId;
use crate::upstream::{Pool, Pools};

/// From the drain's deadline until what does not end by itself is dropped.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of one core.
pub struct Worker {
    pub shared: Arc<Shared>,
    /// Connections and tunnels of this core: the drain waits for them.
    pub tasks: TaskTracker,
    /// Lines about PROXY headers that were refused.
    pub refused_headers: Seldom,
    /// Requests of this core, by their clients.
    pub in_flight: Rc<InFlight>,
    /// What streams on this core.
    pub roll: Rc<Roll>,
    pools: Pools,
    /// The newest generation that a request of this core was judged by.
    generation: Cell<u64>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Rc<Worker> {
        Rc::new(Worker {
            shared,
            tasks: TaskTracker::new(),
            refused_headers: Seldom::default(),
            in_flight: Rc::default(),
            roll: Rc::default(),
            pools: Pools::default(),
            generation: Cell::new(0),
        })
    }

    /// This core's connections to an upstream. With a new generation, those to upstreams that it no longer
    /// has are let go.
    pub fn pool(&self, generation: &Generation, id: UpstreamId) -> Option<Rc<Pool>> {
        if self.generation.get() < generation.number {
            self.generation.set(generation.number);
            self.pools.retain(&generation.upstreams);
        }
        generation.upstreams.get(id.index()).map(|upstream| self.pools.of(upstream))
    }
}

/// Serves on these sockets, one for each listener, until the drain has ended.
pub fn run(shared: Arc<Shared>, sockets: Vec<StdListener>) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    shared.metrics.runtime(runtime.metrics());
    runtime.block_on(async move {
        let worker = Worker::new(Arc::clone(&shared));
        for (position, socket) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(true)?;
            let socket = tokio::net::TcpListener::from_std(socket)?;
            worker.tasks.spawn_local(listener::accept(Rc::clone(&worker), position, socket));
        }
        worker.tasks.close();
        tokio::select! {
            () = worker.tasks.wait() => {}
            () = keep_judging(Rc::clone(&worker)) => {}
            () = shared.stopped.cancelled() => {
                // What was cut has its records to write.
                let _ = timeout(CUT_TIMEOUT, worker.tasks.wait()).await;
            }
        }
        Ok(())
    })
}
