//! The program as a process, serving: for what signals and changed files do to who is connected.

use std::net::SocketAddr;

use serde_json::Value;

use super::World;
use super::binary::Binary;
use super::certificates::Who;
use super::client::{Answer, Client, Protocol, get};
use super::proxy::HOST;

pub struct Process<'w> {
    pub world: &'w World,
    pub binary: Binary,
    /// Of the `mesh` listener.
    pub address: SocketAddr,
    admin: SocketAddr,
}

/// What `/metrics` said at one moment.
pub struct Metrics(pub String);

impl Metrics {
    /// The value of one series, named with its labels, if it has any.
    pub fn value(&self, series: &str) -> Option<f64> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    /// The sum over all labels of one name.
    pub fn sum(&self, name: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

impl World {
    /// Runs the program on the base configuration and `more`; it listens when this returns.
    pub async fn serve(&self, more: &str) -> Process<'_> {
        self.configuration(more);
        let binary = self.run(&[]);
        let address = binary.address("listener", "mesh").await;
        let admin = binary.address("page", "admin").await;
        Process { world: self, binary, address, admin }
    }
}

impl Process<'_> {
    /// A new connection of `who` to the `mesh` listener.
    pub async fn client(&self, who: Who, protocol: Protocol) -> Client {
        let config = self.world.certificates.client_config(who);
        Client::tls(self.address, HOST, config, protocol).await.unwrap()
    }

    /// What the admin listener answers.
    pub async fn admin(&self, path: &str) -> Answer {
        Client::plain(self.admin, Protocol::H1).await.unwrap().ask(get(path)).await.unwrap()
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics(String::from_utf8(self.admin("/metrics").await.body.to_vec()).unwrap())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        metrics.value(name).unwrap_or_else(|| panic!("no {name} in {}", metrics.0))
    }

    /// Waits for an event of the log, after its first `lines`, with these words in its message.
    pub async fn log_says(&self, lines: usize, words: &str) -> Value {
        let says = |event: &Value| event["message"].as_str().is_some_and(|message| message.contains(words));
        self.binary.logged_after(lines, says).await
    }
}
