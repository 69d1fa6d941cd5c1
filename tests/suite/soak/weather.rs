//! What happens to a proxy in a long life: new configurations, good and broken, new certificates, CAs,
//! revocation lists and keys, a provider that is down, floods, an audit file that is moved away.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, Validity};
use futures_util::future::join_all;
use http::StatusCode;
use rustix::process::Signal;
use tokio::time::interval;

use super::Soak;
use super::kinds::{Asked, Bearer, When, named};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, Raw, alert_after};
use crate::world::issuer::Answering;
use crate::world::proxy::HOST;
use crate::world::signing::Key;
use crate::world::upstream::Upstream;
use crate::world::{World, soon};

/// What has happened so far.
#[derive(Default)]
pub struct Weather {
    happened: RefCell<BTreeMap<&'static str, u64>>,
    /// Lines of the log that tell of configurations broken on purpose.
    broken: RefCell<Vec<Range<usize>>>,
    /// Counts policies.
    policy: Cell<u64>,
    partner_is_out: Cell<bool>,
    two_cas: Cell<bool>,
    /// The key that is published and not in use yet.
    coming: RefCell<Option<(Key, u64)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    HangUp,
    NewPolicy,
    BrokenPolicy,
    NewCertificate,
    BrokenCertificate,
    NewRevocationList,
    NewCa,
    PartnerInOrOut,
    NewKeys,
    ProviderDown,
    UnknownKeyStorm,
    RapidResets,
    SlowHeads,
    AuditFileMoved,
}

pub const CHANGES: &[Change] = &[
    Change::NewPolicy,
    Change::NewKeys,
    Change::AuditFileMoved,
    Change::NewCertificate,
    Change::RapidResets,
    Change::BrokenPolicy,
    Change::PartnerInOrOut,
    Change::UnknownKeyStorm,
    Change::NewRevocationList,
    Change::HangUp,
    Change::SlowHeads,
    Change::BrokenCertificate,
    Change::NewKeys,
    Change::NewCa,
    Change::ProviderDown,
    Change::PartnerInOrOut,
    Change::AuditFileMoved,
];

const HOUR: Duration = Duration::from_secs(3600);
const STORM: usize = 100;
const RESETS: usize = 60;
const SLOW: usize = 20;

const CONFIGURATION: &str = r#"
[limit]
handshake_timeout = "2s"
header_timeout = "2s"
idle_timeout = "10s"
drain_timeout = "10s"
connection_age_max = "20s"

[cache]
decision_entries_max = 2000
failed_token_entries_max = 2000
token_bytes_max = "1MiB"

[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = [{ issuer = "corp", client = "storefront-web" }]

[upstream.shaky]
server = "@upstream@"
first_byte_timeout = "1s"

[upstream.hasty]
server = "@upstream@"

[upstream.calls]
server = "@calls@"

[upstream.held]
server = "@held@"

[upstream.passing-@number@]
server = "@upstream@"

[route.shaky]
host = "orders.shop.example"
path = "/shaky/**"
upstream = "shaky"

[route.hasty]
host = "orders.shop.example"
path = "/hasty/**"
upstream = "hasty"

[route.calls]
host = "orders.shop.example"
path = "/echo.Echo/**"
upstream = "calls"

[route.held]
host = "orders.shop.example"
path = "/held/**"
upstream = "held"

[route.small]
host = "orders.shop.example"
path = "/small/**"
upstream = "orders"
body_bytes_max = "1KiB"

[route.socket]
host = "orders.shop.example"
path = "/socket/**"
upstream = "orders"
upgrade = "websocket"

[route.passing]
host = "orders.shop.example"
path = "/passing/**"
upstream = "passing-@number@"

[[allow]]
name = "people do anything"
service = ["storefront", "partner"]
role = "order-reader"
route = "any"
method = ["GET", "POST"]

[[allow]]
name = "agents read for people"
service = "assistant"
role = "order-reader"
actor = "agent"
on_behalf_of = "human"
route = "orders"
method = "GET"

[[allow]]
name = "policy @number@"
service = "assistant"
role = "none"
route = "passing"
method = "GET"
"#;

pub fn configuration(world: &World, held: &Upstream, number: u64) -> String {
    let calls = world.upstream.url.replace("http:", "h2c:");
    CONFIGURATION
        .replace("@calls@", &calls)
        .replace("@held@", &held.url)
        .replace("@number@", &number.to_string())
}

impl Weather {
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        self.happened.borrow().iter().map(|(what, count)| (*what, count.to_string())).collect()
    }

    /// Whether this line of the log may tell of a broken configuration.
    pub fn broke_on_purpose(&self, line: usize) -> bool {
        self.broken.borrow().iter().any(|lines| lines.contains(&line))
    }
}

impl Soak<'_> {
    pub async fn brings(&self, change: Change) {
        let (world, what) = (
            self.world,
            match change {
                Change::HangUp => "hang-ups",
                Change::NewPolicy => "policies",
                Change::BrokenPolicy => "broken policies",
                Change::NewCertificate => "certificates",
                Change::BrokenCertificate => "broken certificates",
                Change::NewRevocationList => "revocation lists",
                Change::NewCa => "CAs added or taken away",
                Change::PartnerInOrOut => "partner's CA replaced",
                Change::NewKeys => return self.turns_keys(),
                Change::ProviderDown => "provider outages",
                Change::UnknownKeyStorm => "storms of unknown keys",
                Change::RapidResets => "floods of resets",
                Change::SlowHeads => "floods of slow heads",
                Change::AuditFileMoved => "audit files moved away",
            },
        );
        match change {
            Change::HangUp => self.loaded_after(|| self.process.binary.signal(Signal::HUP)).await,
            Change::NewPolicy => self.new_policy().await,
            Change::BrokenPolicy => {
                self.broken_for_a_while(|| {
                    world.write("countersign.toml", "version = 1\n[nonsense");
                })
                .await;
                self.new_policy().await;
            }
            Change::NewCertificate => self.loaded_after(|| self.new_certificate()).await,
            Change::BrokenCertificate => {
                self.broken_for_a_while(|| {
                    world.write(
                        "orders.pem",
                        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
                    );
                })
                .await;
                self.loaded_after(|| self.new_certificate()).await;
            }
            Change::NewRevocationList => self.loaded_after(|| self.new_revocation_list()).await,
            Change::NewCa => {
                let (shop, other) = (world.certificates.shop.pem(), self.other_ca());
                let two = !self.weather.two_cas.replace(!self.weather.two_cas.get());
                let text = if two { format!("{shop}{other}") } else { shop };
                self.loaded_after(|| drop(world.write("shop-ca.pem", &text))).await;
            }
            Change::PartnerInOrOut => self.partner_in_or_out().await,
            Change::ProviderDown => {
                world.issuer.jwks_answers(Answering::Status(StatusCode::INTERNAL_SERVER_ERROR));
                self.storm().await;
                self.ledger.more(40).await;
                world.issuer.jwks_answers(Answering::Well);
            }
            Change::UnknownKeyStorm => self.storm().await,
            Change::RapidResets => {
                let kind = named("gone at once, h2");
                join_all((0..RESETS).map(|_| self.abandons(kind, Protocol::H2, When::AtOnce))).await;
            }
            Change::SlowHeads => self.slow_heads().await,
            Change::AuditFileMoved => {
                self.tail.borrow_mut().move_away();
                self.process.binary.signal(Signal::HUP);
                let settled = async {
                    let mut tick = interval(Duration::from_millis(20));
                    while !self.tail.borrow().is_settled() {
                        tick.tick().await;
                    }
                };
                soon("the new audit file", settled).await;
            }
            Change::NewKeys => {}
        }
        *self.weather.happened.borrow_mut().entry(what).or_default() += 1;
    }

    /// Does this, and waits until a configuration was loaded.
    async fn loaded_after(&self, change: impl FnOnce()) {
        let lines = self.process.binary.log_lines();
        change();
        self.process.log_says(lines, "configuration loaded").await;
        // a file whose partner is not written yet is refused, and no fault
        let lines = lines..self.process.binary.log_lines();
        self.weather.broken.borrow_mut().push(lines);
    }

    async fn broken_for_a_while(&self, change: impl FnOnce()) {
        let lines = self.process.binary.log_lines();
        change();
        self.process.log_says(lines, "the present one stays").await;
        self.ledger.more(20).await;
        self.weather.broken.borrow_mut().push(lines..self.process.binary.log_lines());
    }

    async fn new_policy(&self) {
        let number = self.weather.policy.get() + 1;
        self.weather.policy.set(number);
        self.loaded_after(|| drop(self.world.configuration(&configuration(self.world, self.held, number))))
            .await;
    }

    fn new_certificate(&self) {
        let identity = self.world.certificates.server("orders");
        self.world.write("orders.pem", &identity.chain);
        self.world.write("orders-key.pem", &identity.key);
    }

    fn new_revocation_list(&self) {
        let now = self.world.clock.now();
        let validity = Validity { from: now.minus(HOUR), to: now.plus(24 * HOUR) };
        // the number that the fixture's revoked certificate has, and one that nobody has
        let list = self.world.certificates.shop.crl(&[66, 1_000_000 + self.weather.policy.get()], validity);
        self.world.write("shop.crl", &list.unwrap());
    }

    /// Of a CA that has signed nothing.
    fn other_ca(&self) -> String {
        let now = self.world.clock.now();
        let validity = Validity { from: now.minus(HOUR), to: now.plus(24 * HOUR) };
        Authority::root(&CaSpec::new("other CA", validity)).unwrap().pem()
    }

    /// What the removed CA has signed is refused on an open connection and on a new one; and back.
    async fn partner_in_or_out(&self) {
        let was_out = self.weather.partner_is_out.get();
        let (partner, other) = (self.world.certificates.partner.pem(), self.other_ca());
        if was_out {
            self.loaded_after(|| drop(self.world.write("partner-ca.pem", &partner))).await;
        }
        let reads = Asked { method: "GET", target: "/orders/7", bearer: Bearer::Good, body_bytes: 0 };
        let Some(client) = self.client(Who::Partner, Protocol::H2).await else { return };
        self.asks(named("partner reads"), &client, &reads).await;
        if !was_out {
            self.loaded_after(|| drop(self.world.write("partner-ca.pem", &other))).await;
            self.asks(named("partner without its CA"), &client, &reads).await;
            let config = self.configs[&Who::Partner].clone();
            alert_after(self.process.address, HOST, config, Protocol::H1).await;
            self.ledger.happened(named("partner knocks"));
        }
        self.weather.partner_is_out.set(!was_out);
    }

    /// Publishes the next key; and, once the proxy has fetched it, signs with it and drops the old one.
    fn turns_keys(&self) {
        let issuer = &self.world.issuer;
        let mut tokens = self.tokens.borrow_mut();
        let coming = self.weather.coming.borrow_mut().take();
        let rotated = self.ledger.events("keys_rotated");
        let mut happened = self.weather.happened.borrow_mut();
        match coming {
            None => {
                let turned = happened.get("issuer keys").copied().unwrap_or(0);
                let next = Key::new(&format!("soak-{}", turned + 1), "ES256");
                issuer.publish(&[tokens.key.clone(), next.clone()]);
                self.weather.coming.replace(Some((next, rotated)));
            }
            Some((next, before)) if rotated > before => {
                issuer.publish(std::slice::from_ref(&next));
                tokens.key = next;
                *happened.entry("issuer keys").or_default() += 1;
            }
            waiting => drop(self.weather.coming.replace(waiting)),
        }
    }

    async fn storm(&self) {
        let Some(client) = self.client(Who::Storefront, Protocol::H2).await else { return };
        let asked = Asked { method: "GET", target: "/orders/7", bearer: Bearer::UnknownKey, body_bytes: 0 };
        let kind = named("unknown key");
        join_all((0..STORM).map(|_| self.asks(kind, &client, &asked))).await;
    }

    async fn slow_heads(&self) {
        let slow = async || {
            let config = self.configs[&Who::Storefront].clone();
            let mut raw = Raw::tls(self.process.address, HOST, config).await.unwrap();
            let _ = raw.send("GET /orders/7 HTTP/1.1\r\nhost:").await;
            raw.rest().await;
            self.ledger.happened(named("slow head"));
        };
        join_all((0..SLOW).map(|_| slow())).await;
    }
}
