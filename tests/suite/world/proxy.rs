//! The proxy under test: in this process, on real sockets, from the files in the world's folder.
//!
//! What it records is read from its audit file as it grows, so a test waits for a record and never
//! for a time. Dropping it ends it and all its connections.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use countersign::config::Config;
use countersign::server::{AssembleError, Server};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::watch;

use super::certificates::Who;
use super::client::{Answer, Client, Protocol, get};
use super::{World, soon};

/// Where clients of the `mesh` listener think they are.
pub const HOST: &str = "orders.shop.example";

pub struct Proxy<'w> {
    pub world: &'w World,
    pub server: Server,
    pub records: Records,
}

impl World {
    /// Starts the proxy on the base configuration and `more`.
    pub fn start(&self, more: &str) -> Proxy<'_> {
        self.configuration(more);
        self.start_written()
    }

    /// Starts the proxy on the configuration as it is written now.
    pub fn start_written(&self) -> Proxy<'_> {
        let records = Records::of(self.folder.path().join("audit.jsonl"));
        let server = Server::start(self.load(), self.clock.clone());
        Proxy { world: self, server: server.unwrap_or_else(|error| panic!("{error}")), records }
    }

    /// Starts another one beside it, on a file of its own in the same folder; its records go to `records`.
    pub fn start_from(&self, name: &str, text: &str, records: &str) -> Proxy<'_> {
        let config = self.load_from(name, text);
        let records = Records::of(self.folder.path().join(records));
        let server = Server::start(config, self.clock.clone());
        Proxy { world: self, server: server.unwrap_or_else(|error| panic!("{error}")), records }
    }

    /// What this text says as a file of this name.
    fn load_from(&self, name: &str, text: &str) -> Config {
        let path = self.write(name, text);
        let loaded = countersign::config::load(&[path], &|_| None, self.clock.now());
        loaded.unwrap_or_else(|report| panic!("{}", report.to_text(false)))
    }

    /// What the world's configuration says now.
    pub fn load(&self) -> Config {
        self.try_load().unwrap_or_else(|report| panic!("{report}"))
    }

    /// The same, or what is wrong with it, as `check` prints it.
    pub fn try_load(&self) -> Result<Config, String> {
        let path = self.folder.path().join("countersign.toml");
        let known =
            |name: &str| self.environment.iter().find(|(it, _)| *it == name).map(|(_, value)| value.clone());
        let loaded = countersign::config::load(&[path], &known, self.clock.now());
        loaded.map_err(|report| report.to_text(false))
    }
}

impl Proxy<'_> {
    /// Replaces the configuration by the base and `more`, in the files and in the running proxy.
    pub fn reload(&self, more: &str) -> Result<(), AssembleError> {
        self.world.configuration(more);
        self.server.reload(self.world.load())
    }

    /// Replaces the configuration of one that was started from a file of its own.
    pub fn reload_from(&self, name: &str, text: &str) {
        self.server.reload(self.world.load_from(name, text)).unwrap();
    }

    /// Where `[listener.NAME]` really listens.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.server.addresses().listeners[listener]
    }

    /// A new connection of `who` to the `mesh` listener.
    pub async fn client(&self, who: Who, protocol: Protocol) -> Client {
        self.client_of("mesh", who, protocol).await
    }

    /// The same to any listener.
    pub async fn client_of(&self, listener: &str, who: Who, protocol: Protocol) -> Client {
        let config = self.world.certificates.client_config(who);
        Client::tls(self.address(listener), HOST, config, protocol).await.unwrap()
    }

    /// What the admin listener answers.
    pub async fn admin(&self, path: &str) -> Answer {
        let address = self.server.addresses().admin.unwrap();
        Client::plain(address, Protocol::H1).await.unwrap().ask(get(path)).await.unwrap()
    }

    pub async fn metrics(&self) -> String {
        String::from_utf8(self.admin("/metrics").await.body.to_vec()).unwrap()
    }

    /// The metrics, once this line is among them: gauges are taken now and then.
    pub async fn metrics_once(&self, line: &str) -> String {
        let among_them = async {
            loop {
                let metrics = self.metrics().await;
                if metrics.lines().any(|other| other == line) {
                    return metrics;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(line, among_them).await
    }

    /// All records of requests, once there are at least `n`.
    pub async fn records(&self, n: usize) -> Vec<Value> {
        self.events("request", n).await
    }

    /// All records of this kind, once there are at least `n`.
    pub async fn events(&self, event: &str, n: usize) -> Vec<Value> {
        let of_this_kind = |records: &[Value]| {
            let found = || records.iter().filter(|record| record["event"] == event);
            (records.len() >= n && found().count() >= n).then(|| found().cloned().collect())
        };
        self.records.until(of_this_kind).await
    }

    /// The record of one decision, by the id that the answer or the upstream was told.
    pub async fn record(&self, decision: &str) -> Value {
        // most often it is the last one
        self.records.until(|all| all.iter().rev().find(|record| record["id"] == decision).cloned()).await
    }

    /// The record of an answer: a refusal's, or that of a request which the upstream says back.
    pub async fn record_of(&self, answer: &Answer) -> Value {
        self.record(&decision_of(answer)).await
    }
}

/// The decision's id in a refusal's body, or in what the upstream saw.
pub fn decision_of(answer: &Answer) -> String {
    let body = answer.json();
    let seen = || {
        let headers = body["headers"].as_array()?;
        headers.iter().find(|header| header[0] == "x-auth-decision")?[1].as_str()
    };
    body["decision"].as_str().or_else(seen).unwrap_or_else(|| panic!("no decision in {body}")).to_owned()
}

/// An audit file as it grows.
pub struct Records {
    path: PathBuf,
    seen: Mutex<Seen>,
    grown: watch::Receiver<()>,
    /// Ends the watch when dropped.
    _watcher: RecommendedWatcher,
}

#[derive(Default)]
struct Seen {
    /// Up to the end of the last whole line.
    bytes: u64,
    records: Vec<Value>,
}

impl Records {
    /// Of a file that need not be there yet; its folder must.
    pub fn of(path: PathBuf) -> Records {
        let (sender, grown) = watch::channel(());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // reading the file is an event too
            if !event.is_ok_and(|event| event.kind.is_access()) {
                sender.send_replace(());
            }
        })
        .unwrap();
        watcher.watch(path.parent().unwrap(), RecursiveMode::NonRecursive).unwrap();
        Records { path, seen: Mutex::default(), grown, _watcher: watcher }
    }

    /// Waits until `find` finds what it wants among all records so far.
    pub async fn until<T>(&self, find: impl Fn(&[Value]) -> Option<T>) -> T {
        let mut grown = self.grown.clone();
        let found = async {
            loop {
                grown.borrow_and_update();
                if let Some(found) = self.read(&find) {
                    return found;
                }
                grown.changed().await.unwrap();
            }
        };
        soon("the audit records", found).await
    }

    fn read<T>(&self, find: impl Fn(&[Value]) -> T) -> T {
        let mut seen = self.seen.lock().unwrap();
        let text = text_from(&self.path, seen.bytes);
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            seen.bytes += line.len() as u64;
            seen.records.push(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        }
        find(&seen.records)
    }
}

fn text_from(path: &Path, start: u64) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        file.seek(SeekFrom::Start(start)).unwrap();
        file.read_to_string(&mut text).unwrap();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: &str =
        "[[allow]]\nname = \"read\"\nservice = \"storefront\"\nrole = \"any\"\nmethod = \"GET\"";

    #[tokio::test]
    async fn a_world_s_proxy_serves_records_counts_and_reloads() {
        let world = World::new().await;
        let proxy = world.start(ALLOW);
        let request = || world.signed(get("/orders/7"));
        for protocol in Protocol::BOTH {
            let client = proxy.client(Who::Storefront, protocol).await;
            let answer = client.ask(request()).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(proxy.record_of(&answer).await["rule"], "read");
        }
        assert_eq!(proxy.records(2).await.len(), 2);
        assert_eq!(proxy.events("started", 1).await.len(), 1);
        let metrics = proxy.metrics().await;
        assert!(
            metrics.contains(r#"countersign_requests_total{verdict="allow",reason="allowed"} 2"#),
            "{metrics}"
        );

        let client = proxy.client(Who::Storefront, Protocol::H1).await;
        proxy.reload(&ALLOW.replace("GET", "PUT")).unwrap();
        assert_eq!(client.ask(request()).await.unwrap().status, 403);
        assert_eq!(proxy.admin("/livez").await.status, 200);
    }
}
