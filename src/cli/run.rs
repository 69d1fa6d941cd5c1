//! `countersign run`: serves until told to stop.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{ConfigArgs, EXIT_CONFIG, EXIT_FINDINGS, descriptors, log};
use crate::clock::Clock;
use crate::config::{Config, Report};
use crate::server::Server;
use crate::tls::reload::{Watch, WatchError};

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// The files of the configuration that is served, and the watch over them and over those that the last one
/// that was tried names.
struct Watching {
    in_force: BTreeSet<PathBuf>,
    watch: Option<Watch>,
    /// The `connections_max` that open files were said to be too few for.
    too_many: Option<usize>,
}

/// Signals that a running proxy obeys.
struct Signals {
    hang_up: Signal,
    stop: Stop,
}

/// Told to stop: by SIGTERM or, at a terminal, by SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

pub fn run(args: &RunArgs) -> ExitCode {
    let clock = Clock::system();
    let (loaded, watch) = load_and_watch(&args.config, &clock, &BTreeSet::new());
    let mut config = match loaded {
        Ok(config) => config,
        Err(report) => {
            eprint!("{}", report.to_text(std::io::stderr().is_terminal()));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Err(error) = log::set_up(&config.log) {
        eprintln!("error: {error}");
        return ExitCode::from(EXIT_CONFIG);
    }
    descriptors::raise_limit();
    let mut too_many = None;
    descriptors::fit(&mut config.limits, &mut too_many);
    let watching = Watching { in_force: config.report.watched.clone(), watch: told(watch), too_many };
    let server = match Server::start(config, clock.clone()) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(EXIT_FINDINGS);
        }
    };
    let addresses = server.addresses();
    for (name, address) in &addresses.listeners {
        tracing::info!(listener = %name, %address, "listening");
    }
    if let Some(address) = addresses.admin {
        tracing::info!(page = "admin", %address, "listening");
    }
    if let Some(address) = addresses.health {
        tracing::info!(page = "health", %address, "listening");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(serve(args, server, watching, &clock)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "signals cannot be waited for");
            ExitCode::from(EXIT_FINDINGS)
        }
    }
}

/// Reads the configuration, and again once all its files are watched: a change in between is not missed.
/// Beside one that cannot be loaded the files `in_force` are watched on: what is wrong may be put right in
/// either.
fn load_and_watch(
    config: &ConfigArgs,
    clock: &Clock,
    in_force: &BTreeSet<PathBuf>,
) -> (Result<Config, Report>, Result<Watch, WatchError>) {
    loop {
        let first = config.load(clock);
        let watch = match &first {
            Ok(config) => Watch::new(config.report.watched.iter().cloned()),
            // It may name folders that there are not.
            Err(report) => Watch::new(
                in_force | &report.watched.iter().filter(|file| Watch::can_see(file)).cloned().collect(),
            ),
        };
        let second = config.load(clock);
        if first.is_ok() == second.is_ok() {
            return (second, watch);
        }
    }
}

/// Not before the log is set up: that files are not watched must not go unsaid.
fn told(watch: Result<Watch, WatchError>) -> Option<Watch> {
    watch
        .inspect_err(|error| tracing::warn!(%error, "files cannot be watched; send SIGHUP after a change"))
        .ok()
}

async fn serve(args: &RunArgs, server: Server, mut watching: Watching, clock: &Clock) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    loop {
        let changed = async {
            match &mut watching.watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = signals.hang_up.recv() => server.reopen_audit(),
            () = changed => {}
            () = signals.stop.told() => break,
        }
        reload(args, &server, clock, &mut watching);
    }
    tracing::info!("draining; a second signal ends at once");
    let stopper = server.stopper();
    let (done, drained) = oneshot::channel();
    let draining = thread::spawn(move || {
        server.drain();
        // The other side ends only after this.
        let _ = done.send(());
    });
    tokio::pin!(drained);
    tokio::select! {
        _ = &mut drained => {}
        () = signals.stop.told() => {
            stopper.cancel();
            let _ = drained.await;
        }
    }
    if draining.join().is_err() {
        tracing::error!("the drain ended by a panic");
    }
    Ok(())
}

/// Takes what the files say now; what cannot be taken leaves the present configuration in place.
fn reload(args: &RunArgs, server: &Server, clock: &Clock, watching: &mut Watching) {
    let (loaded, watch) = load_and_watch(&args.config, clock, &watching.in_force);
    watching.watch = told(watch);
    let mut config = match loaded {
        Ok(config) => config,
        Err(report) => {
            server.reload_failed(&report);
            report.log();
            tracing::error!("the new configuration cannot be loaded; the present one stays");
            return;
        }
    };
    descriptors::fit(&mut config.limits, &mut watching.too_many);
    let watched = config.report.watched.clone();
    match server.reload(config) {
        Ok(()) => {
            tracing::info!("configuration loaded");
            watching.in_force = watched;
        }
        Err(error) => tracing::error!(%error, "the new configuration cannot be taken; the present one stays"),
    }
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hang_up: signal(SignalKind::hangup())?,
            stop: Stop {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
        })
    }
}

impl Stop {
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
