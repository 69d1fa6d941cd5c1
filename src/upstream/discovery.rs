//! The shared half of an upstream: its settings and the addresses that its names resolve to.
//!
//! Names are looked up in the background, never for a request; a failed or empty lookup keeps what
//! was known. Every address of a name is an endpoint of its own, with its own connections and health,
//! and the weight of the server is divided among them. Literal addresses are never looked up.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connect::Server;
use super::endpoint::{Endpoint, UpstreamStatus};
use super::settings::UpstreamSettings;
use super::{UpstreamError, Wait};

/// More addresses of one name than this are not used.
const ADDRESSES_PER_NAME_MAX: usize = 64;

/// Weights are divided in this unit.
const SHARES_PER_WEIGHT: u64 = 1 << 16;

/// Where requests may go; one for all cores. Each core sends through a [`Pool`](super::Pool) of its own.
///
/// On a reload keep the `Arc` if [`Upstream::settings`] equals the new settings: connections and health
/// then live on.
#[derive(Debug)]
pub struct Upstream {
    settings: UpstreamSettings,
    servers: Vec<Arc<Server>>,
    members: ArcSwap<Vec<Member>>,
    /// Whether every name was looked up at least once.
    looked_up: watch::Sender<bool>,
}

/// An endpoint and its share of the requests.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub endpoint: Arc<Endpoint>,
    pub share: u64,
}

/// What is known of each server's name, in turn.
type Known = Vec<Name>;

#[derive(Debug, Default)]
struct Name {
    /// The last good ones.
    addresses: Vec<SocketAddr>,
    /// Why the last lookup failed.
    failure: Option<String>,
}

impl Upstream {
    /// Must be called inside a tokio runtime: names are looked up by a task there, which ends soon
    /// after the upstream is dropped. What stands in the place of another one begins with the addresses that
    /// its names had there: a certificate that rotates while names do not resolve costs no request.
    pub fn start(settings: UpstreamSettings, before: Option<&Upstream>) -> Arc<Upstream> {
        let (upstream, mut known) = Upstream::new(settings, before);
        let upstream = Arc::new(upstream);
        if !*upstream.looked_up.borrow() {
            let weak = Arc::downgrade(&upstream);
            tokio::spawn(async move {
                while let Some(upstream) = weak.upgrade() {
                    let all = upstream.look_up(&mut known, system_lookup).await;
                    let limits = &upstream.settings.limits;
                    let pause = if all { limits.resolve_period } else { limits.resolve_retry_period };
                    drop(upstream);
                    sleep(pause).await;
                }
            });
        }
        upstream
    }

    /// With its literal addresses in place and no name looked up.
    fn new(settings: UpstreamSettings, before: Option<&Upstream>) -> (Upstream, Known) {
        let servers: Vec<_> = settings.servers.iter().cloned().map(Server::new).map(Arc::new).collect();
        let addresses = |server: &Arc<Server>| match server.literal_address() {
            Some(address) => vec![address],
            None => before.map_or_else(Vec::new, |before| before.addresses_of(server)),
        };
        let name = |server| Name { addresses: addresses(server), failure: None };
        let known: Known = servers.iter().map(name).collect();
        let complete = servers.iter().all(|server| server.literal_address().is_some());
        let upstream = Upstream {
            settings,
            servers,
            members: ArcSwap::default(),
            looked_up: watch::Sender::new(complete),
        };
        upstream.publish(&known);
        (upstream, known)
    }

    /// What the name of this server resolved to here.
    fn addresses_of(&self, server: &Server) -> Vec<SocketAddr> {
        let place = |server: &Server| (server.settings.host.clone(), server.settings.port);
        let members = self.members.load();
        let same = members.iter().filter(|member| place(&member.endpoint.server) == place(server));
        same.map(|member| member.endpoint.address).collect()
    }

    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    pub fn status(&self) -> UpstreamStatus {
        let endpoints = self.members.load().iter().map(|member| member.endpoint.status()).collect();
        UpstreamStatus { name: self.settings.name.clone(), endpoints }
    }

    /// Whether `members` is still what is published. Writes nothing, not even a reference count.
    pub(super) fn is_current(&self, members: &Arc<Vec<Member>>) -> bool {
        Arc::ptr_eq(&self.members.load(), members)
    }

    /// The endpoints of this moment; waits for the first lookup if there are none yet.
    pub(super) async fn members(&self) -> Result<Arc<Vec<Member>>, UpstreamError> {
        let members = self.members.load();
        if !members.is_empty() {
            return Ok(arc_swap::Guard::into_inner(members));
        }
        let mut looked_up = self.looked_up.subscribe();
        let first = timeout(self.settings.connect_timeout, looked_up.wait_for(|done| *done)).await;
        let members = self.members.load_full();
        match first {
            _ if !members.is_empty() => Ok(members),
            Err(_) => Err(UpstreamError::Timeout(Wait::Connect)),
            Ok(_) => Err(UpstreamError::Unavailable(format!("no name of `{}` resolves", self.settings.name))),
        }
    }

    /// Looks every name up once and publishes what changed. Returns whether all lookups succeeded.
    async fn look_up<L>(&self, known: &mut Known, lookup: L) -> bool
    where
        L: AsyncFn(String, u16) -> io::Result<Vec<SocketAddr>>,
    {
        let mut all = true;
        for (server, name) in self.servers.iter().zip(known.iter_mut()) {
            if server.literal_address().is_some() {
                continue;
            }
            match lookup(server.settings.host.clone(), server.settings.port).await {
                Ok(mut found) if !found.is_empty() => {
                    found.sort_unstable();
                    found.dedup();
                    found.truncate(ADDRESSES_PER_NAME_MAX);
                    name.addresses = found;
                    if name.is_news(None) {
                        tracing::info!(upstream = %self.settings.name, server = %server.settings, "its name resolves again");
                    }
                }
                outcome => {
                    all = false;
                    let error = outcome.err().map_or("no address".to_owned(), |error| error.to_string());
                    if name.is_news(Some(&error)) {
                        let kept = name.addresses.len();
                        tracing::warn!(upstream = %self.settings.name, server = %server.settings, kept, error, "its name does not resolve");
                    }
                }
            }
        }
        self.publish(known);
        self.looked_up.send_replace(true);
        all
    }

    /// Endpoints whose address stays keep their health and counters; nothing is written if all stay.
    fn publish(&self, known: &Known) {
        let old = self.members.load();
        let mut members = Vec::new();
        for (server, Name { addresses, .. }) in self.servers.iter().zip(known) {
            let divisor = addresses.len().max(1) as u64;
            let share = (u64::from(server.settings.weight.get()) * SHARES_PER_WEIGHT / divisor).max(1);
            for &address in addresses {
                let same = |member: &&Member| {
                    member.endpoint.address == address && Arc::ptr_eq(&member.endpoint.server, server)
                };
                let endpoint = match old.iter().find(same) {
                    Some(member) => Arc::clone(&member.endpoint),
                    None => Arc::new(Endpoint::new(Arc::clone(server), address)),
                };
                members.push(Member { endpoint, share });
            }
        }
        let unchanged = members.len() == old.len()
            && members.iter().zip(old.iter()).all(|(new, old)| Arc::ptr_eq(&new.endpoint, &old.endpoint));
        if !unchanged {
            self.members.store(Arc::new(members));
        }
    }
}

impl Name {
    /// Keeps how the last lookup ended. Returns whether that is news: a name that stays unknown is looked up often,
    /// and told once.
    fn is_news(&mut self, failure: Option<&str>) -> bool {
        let news = self.failure.as_deref() != failure;
        self.failure = failure.map(str::to_owned);
        news
    }
}

async fn system_lookup(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

impl Server {
    fn literal_address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.settings.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.settings.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Pool;
    use crate::upstream::testing::{Double, Speaks, full, get, settings, text, trusting_nobody};
    use http::Response;

    fn addresses(upstream: &Upstream) -> Vec<String> {
        upstream.status().endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    fn upstream(servers: &[&str]) -> (Upstream, Known) {
        Upstream::new(settings(servers, &trusting_nobody()), None)
    }

    async fn resolving(upstream: &Upstream, known: &mut Known, to: io::Result<&[&str]>) -> bool {
        let found: io::Result<Vec<SocketAddr>> =
            to.map(|all| all.iter().map(|text| text.parse().unwrap()).collect());
        let found = std::cell::RefCell::new(Some(found));
        upstream.look_up(known, async |_, _| found.take().unwrap()).await
    }

    #[tokio::test]
    async fn a_failed_or_empty_lookup_keeps_the_last_good_addresses() {
        let (upstream, mut known) = upstream(&["http://orders:80"]);
        assert!(resolving(&upstream, &mut known, Ok(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.1:80"])).await);
        assert_eq!(addresses(&upstream), ["10.0.0.1:80", "10.0.0.2:80"]);
        assert!(!resolving(&upstream, &mut known, Err(io::Error::other("no network"))).await);
        assert!(!resolving(&upstream, &mut known, Ok(&[])).await);
        assert_eq!(addresses(&upstream), ["10.0.0.1:80", "10.0.0.2:80"]);
    }

    #[test]
    fn a_failure_is_news_once_and_so_is_its_end() {
        let mut name = Name::default();
        let lookups = [None, Some("no network"), Some("no network"), Some("no such name"), None, None];
        let news = lookups.map(|failure| name.is_news(failure));
        assert_eq!(news, [false, true, false, true, true, false]);
    }

    #[tokio::test]
    async fn who_takes_the_place_of_another_knows_what_its_names_resolved_to() {
        let (before, mut known) = upstream(&["https://orders:443"]);
        resolving(&before, &mut known, Ok(&["10.0.0.1:443"])).await;
        let after = |servers: &[&str]| Upstream::new(settings(servers, &trusting_nobody()), Some(&before));
        let (same, mut known) = after(&["https://127.0.0.1:443", "https://orders:443"]);
        assert_eq!(addresses(&same), ["127.0.0.1:443", "10.0.0.1:443"]);
        assert!(!*same.looked_up.borrow(), "the name is looked up again");
        resolving(&same, &mut known, Err(io::Error::other("no network"))).await;
        assert_eq!(addresses(&same), ["127.0.0.1:443", "10.0.0.1:443"]);
        for other in ["https://orders:8443", "https://others:443"] {
            assert_eq!(addresses(&after(&[other]).0), [""; 0], "{other}");
        }
    }

    #[tokio::test]
    async fn an_address_that_stays_keeps_its_health_and_the_weight_is_divided() {
        let (upstream, mut known) = upstream(&["http://orders:80"]);
        resolving(&upstream, &mut known, Ok(&["10.0.0.1:80"])).await;
        let before = upstream.members().await.unwrap();
        resolving(&upstream, &mut known, Ok(&["10.0.0.1:80", "10.0.0.3:80"])).await;
        let after = upstream.members().await.unwrap();
        assert!(Arc::ptr_eq(&before[0].endpoint, &after[0].endpoint));
        assert_eq!((before[0].share, after[0].share, after[1].share), (65536, 32768, 32768));
        resolving(&upstream, &mut known, Ok(&["10.0.0.1:80", "10.0.0.3:80"])).await;
        assert!(Arc::ptr_eq(&after, &upstream.members().await.unwrap()), "nothing new, nothing written");
    }

    #[tokio::test(flavor = "local")]
    async fn an_address_that_leaves_gets_no_more_requests_and_loses_its_idle_connections() {
        let answering = async || Double::start(Speaks::H1, async |_| Response::new(full("hello"))).await;
        let (old, new) = (answering().await, answering().await);
        let [old_address, new_address] = [&old, &new].map(|double| format!("127.0.0.1:{}", double.port));
        let (upstream, mut known) = upstream(&["http://orders:80"]);
        let upstream = Arc::new(upstream);
        let pool = Pool::new(Arc::clone(&upstream));
        resolving(&upstream, &mut known, Ok(&[&old_address])).await;
        text(pool.ask(get("/")).await.unwrap()).await;
        let endpoint = Arc::clone(&upstream.members().await.unwrap()[0].endpoint);
        assert_eq!(endpoint.status().connections_open, 1);
        resolving(&upstream, &mut known, Ok(&[&new_address])).await;
        text(pool.ask(get("/")).await.unwrap()).await;
        assert_eq!((old.requests.get(), new.requests.get()), (1, 1));
        assert_eq!(endpoint.status().connections_open, 0);
    }

    #[tokio::test(flavor = "local")]
    async fn a_name_is_looked_up_in_the_background() {
        let double = Double::start(Speaks::H1, async |_| Response::new(full("hello"))).await;
        let uri = format!("http://localhost:{}", double.port);
        let pool = Pool::new(Upstream::start(settings(&[&uri], &trusting_nobody()), None));
        assert_eq!(text(pool.ask(get("/")).await.unwrap()).await, "hello");
    }

    #[tokio::test]
    async fn literal_addresses_are_there_at_once_and_never_looked_up() {
        let (upstream, mut known) = upstream(&["http://127.0.0.1:80", "http://[::1]:81"]);
        assert_eq!(addresses(&upstream), ["127.0.0.1:80", "[::1]:81"]);
        assert!(upstream.look_up(&mut known, async |_, _| panic!("looked up")).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_the_first_lookup_and_no_longer_than_for_a_connection() {
        let (upstream, mut known) = upstream(&["http://orders:80"]);
        assert_eq!(upstream.members().await.unwrap_err(), UpstreamError::Timeout(Wait::Connect));
        let (members, _) =
            tokio::join!(upstream.members(), resolving(&upstream, &mut known, Ok(&["10.0.0.1:80"])));
        assert_eq!(members.unwrap().len(), 1);
        let (upstream, mut known) = self::upstream(&["http://orders:80"]);
        resolving(&upstream, &mut known, Err(io::Error::other("no such name"))).await;
        assert!(matches!(upstream.members().await, Err(UpstreamError::Unavailable(_))), "fails at once");
    }

    #[tokio::test(flavor = "local")]
    async fn a_metadata_address_is_never_dialled() {
        let led = [
            "169.254.169.254:80",
            "169.254.170.2:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "[::ffff:169.254.0.9]:80",
        ];
        for address in led {
            let (upstream, mut known) = upstream(&["http://orders:80"]);
            assert!(resolving(&upstream, &mut known, Ok(&[address])).await);
            let pool = Pool::new(Arc::new(upstream));
            let error = pool.ask(get("http://orders.shop.example/")).await.err().unwrap();
            assert!(error.to_string().contains("is never dialled"), "{address}: {error}");
        }
    }
}
