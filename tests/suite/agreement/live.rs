//! The proxy as its clients see it, each with one connection as long as that lasts.

use std::collections::HashMap;

use serde_json::Value;

use super::requests::Way;
use super::sent::{Sent, Setting};
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol};
use crate::world::proxy::{HOST, Proxy};

pub struct Live<'p, 'w> {
    proxy: &'p Proxy<'w>,
    clients: HashMap<(&'static str, &'static str, Who), Client>,
}

impl<'p, 'w> Live<'p, 'w> {
    pub fn new(proxy: &'p Proxy<'w>) -> Live<'p, 'w> {
        Live { proxy, clients: HashMap::new() }
    }

    /// The record of what happens. `trace` tells the requests apart.
    pub async fn ask(&mut self, setting: &Setting<'_>, sent: &Sent<'_>, trace: &str) -> Value {
        // A hop has one connection for all.
        let who = if sent.asked.way == Way::Direct { sent.asked.who } else { Who::NoCertificate };
        let place = (sent.listener(), sent.peer_ip(), who);
        let answer = match self.clients.get(&place) {
            Some(client) => client.ask(sent.request(trace)).await.ok(),
            None => None,
        };
        if answer.is_none() {
            // a head that frames itself in its own way ends its connection
            let client = self.connect(setting, sent).await;
            client.ask(sent.request(trace)).await.unwrap();
            self.clients.insert(place, client);
        }
        let trace_id = &trace[..35];
        let of_trace = |record: &&Value| record["trace"].as_str().is_some_and(|t| t.starts_with(trace_id));
        // one is asked after another, so it is among the last
        self.proxy.records.until(|all| all.iter().rev().take(4).find(of_trace).cloned()).await
    }

    async fn connect(&self, setting: &Setting<'_>, sent: &Sent<'_>) -> Client {
        let address = self.proxy.address(sent.listener());
        let client = match sent.asked.way {
            Way::Direct => {
                let minted = setting.certificates.get(&sent.asked.who);
                let mut config = setting.world.certificates.client_config_with(minted);
                // so that one connection may ask for any host
                config.enable_sni = false;
                Client::tls(address, HOST, config, Protocol::H1).await
            }
            Way::Told | Way::Mistold | Way::Browser => {
                Client::plain_from(sent.peer_ip().parse().unwrap(), address, Protocol::H1).await
            }
            Way::Local => Client::plain(address, Protocol::H1).await,
        };
        client.unwrap()
    }
}
