//! What a ticket is not good for: another name, or data before the handshake.

use std::sync::{Arc, Mutex};

use countersign::cli::mint::LeafSpec;
use countersign::tls::{ClientCertificates, ListenerTls};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, NamedGroup};

use crate::world::tls::{ClientSaw, Tls, always, connect, connect_to, good};

const FULL: ClientSaw = ClientSaw::Answer { resumed: false };
const RESUMED: ClientSaw = ClientSaw::Answer { resumed: true };

/// Offers its last session to whomever it dials.
#[derive(Debug, Default)]
struct Indiscreet {
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<Option<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for Indiscreet {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        *self.tls12.lock().unwrap() = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        *self.tls13.lock().unwrap() = Some(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().unwrap().take()
    }
}

#[tokio::test]
async fn a_session_is_for_its_server_name_alone() {
    let tls = Tls::new();
    let dns = vec!["localhost".to_owned(), "other.example".to_owned()];
    let server = tls.own(&tls.shop.issue(&LeafSpec { dns, validity: always(), ..good() }).unwrap());
    let clients = ClientCertificates::Required(tls.trust());
    let listener = ListenerTls::new(&server, clients, tls.clock.clone()).unwrap();
    let own = tls.shop.issue(&good()).unwrap();
    for version in rustls::ALL_VERSIONS {
        let mut client = tls.client_of(Some(&own), &[version]);
        client.resumption = Resumption::store(Arc::new(Indiscreet::default()));
        let client = Arc::new(client);
        for (name, seen) in
            [("localhost", FULL), ("localhost", RESUMED), ("other.example", FULL), ("localhost", FULL)]
        {
            let (outcome, saw) = connect_to(&listener, &client, name).await;
            assert_eq!(saw, seen, "{:?} {name}", version.version);
            assert_eq!(outcome.unwrap().server_name.as_str(), Some(name));
        }
    }
}

#[tokio::test]
async fn tickets_offer_no_early_data() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let mut client = tls.client_of(Some(&own), &[&rustls::version::TLS13]);
    client.resumption = Resumption::in_memory_sessions(16);
    client.enable_early_data = true;
    let (listener, client) = (tls.required(), Arc::new(client));
    assert_eq!(connect(&listener, &client).await.1, FULL);
    let name = ServerName::try_from("localhost").unwrap();
    let mut next = ClientConnection::new(Arc::clone(&client), name).unwrap();
    assert!(next.early_data().is_none());
    // There was a session to take it from.
    assert_eq!(connect(&listener, &client).await.1, RESUMED);
}
