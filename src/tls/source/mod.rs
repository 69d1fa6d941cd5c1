//! Sources of service identity: where our own certificate and CAs of trust domains come from when no file holds
//! them. One file each.
//!
//! Invariants:
//! - What a source gives is [`Issued`] whole or not at all: a certificate and a key that fit and are valid now,
//!   and the CAs that came with them. Only what others say of themselves, a federated bundle, stands by itself.
//! - The last good value stays until there is a better one, whatever goes wrong; what goes wrong is counted,
//!   logged and shown. Until there is a first one, nothing stands in for it. A source that says for minutes that
//!   we have no identity any more is taken at its word.

pub mod aws_private_ca;
pub mod consul;
pub mod workload_api;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use super::client::{ClientTlsError, ExpectedServer, client_config};
use super::{Alpn, Bundles, OwnCertificate, Roots};
use crate::clock::{Clock, Timestamp};
use crate::fetch::{Client, FetchSettings};
use crate::identity::{SpiffeId, TrustDomain};
use crate::metrics::SourceMetrics;

/// `[identity] source`, where it is not files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    WorkloadApi(workload_api::Settings),
    Consul(consul::Settings),
    AwsPrivateCa(aws_private_ca::Settings),
}

/// How long a source may say that we have no identity while we keep the one that it gave last.
const DENIED_GRACE: Duration = Duration::from_secs(5 * 60);

/// What a source gives at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    pub own: OwnCertificate,
    /// Of whichever trust domains the source knows; only those that the configuration names are believed.
    pub bundles: Bundles,
}

impl Issued {
    /// The trust domain that we are in.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.own.spiffe_id.as_ref().map(SpiffeId::trust_domain)
    }
}

/// Where a source stands.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Its last good value.
    pub issued: Option<Arc<Issued>>,
    /// What is wrong since, in words.
    pub failure: Option<Arc<str>>,
    /// Since when it says that we have no identity.
    denied_since: Option<Timestamp>,
}

/// A source that runs, until it is dropped.
pub struct Source {
    settings: SourceSettings,
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

/// What a source has for its news.
pub struct Publisher {
    state: watch::Sender<State>,
    metrics: SourceMetrics,
}

impl Source {
    pub fn start(
        settings: SourceSettings,
        background: &Handle,
        metrics: SourceMetrics,
        clock: Clock,
    ) -> Source {
        let (sender, state) = watch::channel(State::default());
        let publisher = Publisher { state: sender, metrics };
        let task = match settings.clone() {
            SourceSettings::WorkloadApi(settings) => {
                background.spawn(workload_api::follow(settings, publisher, clock))
            }
            SourceSettings::Consul(settings) => background.spawn(consul::follow(settings, publisher, clock)),
            SourceSettings::AwsPrivateCa(settings) => {
                background.spawn(aws_private_ca::follow(settings, publisher, clock))
            }
        };
        Source { settings, state, _task: AbortOnDropHandle::new(task) }
    }

    pub fn settings(&self) -> &SourceSettings {
        &self.settings
    }

    /// As it is now; its changes can be waited for.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

impl Publisher {
    /// All is well; what came may be what is known already.
    pub fn issued(&self, issued: Issued) {
        self.metrics.updates.inc();
        self.state.send_modify(|state| {
            (state.failure, state.denied_since) = (None, None);
            if state.issued.as_deref() != Some(&issued) {
                state.issued = Some(Arc::new(issued));
            }
        });
    }

    /// Something is wrong; the last good value stays.
    pub fn failed(&self, why: &dyn fmt::Display) {
        self.metrics.failures.inc();
        let stays = self.state.borrow().issued.is_some();
        tracing::warn!(%why, last_good_stays = stays, "the source of service identity fails");
        self.state.send_modify(|state| state.failure = Some(why.to_string().into()));
    }

    /// We have no identity, or none any more; an agent that has just started may not know better yet.
    pub fn denied(&self, why: &dyn fmt::Display, now: Timestamp) {
        let since = self.state.borrow().denied_since.unwrap_or(now);
        self.failed(why);
        let is_over = now >= since.plus(DENIED_GRACE);
        if is_over && self.state.borrow().issued.is_some() {
            tracing::error!(%why, %since, "our identity was taken away");
        }
        self.state.send_modify(|state| {
            state.denied_since = Some(since);
            state.issued.take_if(|_| is_over);
        });
    }
}

/// How it is called in the configuration.
impl fmt::Display for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceSettings::WorkloadApi(_) => "workload_api",
            SourceSettings::Consul(_) => "consul",
            SourceSettings::AwsPrivateCa(_) => "aws_private_ca",
        })
    }
}

/// A client for a source that is asked over HTTP. `ca`: who vouches for it, else the system's CAs do; with none at
/// all, for what is asked over plain http, no store of CAs is needed.
async fn client_of(
    settings: FetchSettings,
    ca: Option<Roots>,
    clock: &Clock,
) -> Result<Client, ClientTlsError> {
    let ca = match ca {
        None => spawn_blocking(Roots::system).await.ok().flatten(),
        given => given,
    };
    let tls = client_config(&ExpectedServer::Named(ca), None, &[Alpn::Http1], clock)?;
    Ok(Client::new(settings, &tls))
}

/// What another program says of a failure: the start of it, in characters that can be printed anywhere.
fn in_short(said: &str) -> String {
    const LENGTH_MAX: usize = 200;
    let printable = |char: char| if char == ' ' || char.is_ascii_graphic() { char } else { '\u{fffd}' };
    said.trim().chars().take(LENGTH_MAX).map(printable).collect()
}

/// How long to wait before a source is asked again that failed: each failure in a row doubles it, until one comes
/// after things went well for some time. Somewhat less than that, by chance, so that many who failed at once do not
/// come back at once.
#[derive(Debug)]
pub struct BackOff {
    next: Duration,
    good_since: Option<Timestamp>,
}

impl Default for BackOff {
    fn default() -> BackOff {
        BackOff { next: BackOff::MIN, good_since: None }
    }
}

impl BackOff {
    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(30);
    /// A source that answers and breaks off at once has not recovered.
    const STABLE: Duration = Duration::from_secs(10);

    /// It answers.
    pub fn good(&mut self, now: Timestamp) {
        self.good_since.get_or_insert(now);
    }

    /// What failed needs somebody's hand: no use in asking often.
    pub fn hopeless(&mut self) {
        self.next = BackOff::MAX;
    }

    /// It failed.
    pub async fn wait(&mut self, now: Timestamp) {
        tokio::time::sleep(self.pause(now).mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }

    fn pause(&mut self, now: Timestamp) -> Duration {
        if self.good_since.take().is_some_and(|since| now >= since.plus(BackOff::STABLE)) {
            self.next = BackOff::MIN;
        }
        let pause = self.next;
        self.next = BackOff::MAX.min(pause * 2);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_it_went_well_for_some_time() {
        let mut back_off = BackOff::default();
        let start = Timestamp::from_unix_seconds(1_000);
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        // It answers each time, and breaks off at once.
        let pauses: Vec<_> = (0..9)
            .map(|second| {
                back_off.good(at(second));
                back_off.pause(at(second)).as_millis()
            })
            .collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        back_off.good(at(100));
        back_off.good(at(109));
        assert_eq!(back_off.pause(at(109)), BackOff::MAX);
        back_off.good(at(200));
        back_off.good(at(209));
        assert_eq!(back_off.pause(at(210)), BackOff::MIN);
        back_off.hopeless();
        assert_eq!(back_off.pause(at(210)), BackOff::MAX);
    }
}
