//! Whom we believe to be an upstream.

use std::sync::Arc;

use countersign::cli::mint::{LeafSpec, Minted, Validity};
use countersign::tls::client::{ExpectedServer, client_config, in_words};
use countersign::tls::{Alpn, ClientCertificates, ListenerTls, PemSource, Roots};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::world::tls::{ClientSaw, Tls, connect_to, good, hours, now};

const ORDERS: &str = "spiffe://shop.example/ns/prod/sa/orders";

fn workload(tls: &Tls, pattern: &str) -> ExpectedServer {
    ExpectedServer::Workload { trust: tls.trust(), spiffe_ids: vec![pattern.parse().unwrap()] }
}

fn named(ca: PemSource) -> ExpectedServer {
    ExpectedServer::Named(Some(Roots::load(&ca).unwrap()))
}

/// Dials a listener that presents `server`; the error is what was wrong with its identity.
async fn dial(tls: &Tls, server: &Minted, expected: &ExpectedServer, name: &str) -> Result<(), String> {
    let listener = ListenerTls::new(&tls.own(server), ClientCertificates::Off, tls.clock.clone()).unwrap();
    let config = client_config(expected, None, &[Alpn::Http2], &tls.clock).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(config);
    let (dialled, _) = tokio::join!(connector.connect(name, near), listener.accept(far, hours(1)));
    dialled.map(|_| ()).map_err(|error| {
        let told = error.get_ref().and_then(|it| it.downcast_ref()).expect("an error of TLS");
        assert!(matches!(told, rustls::Error::InvalidCertificate(_)), "{told}");
        in_words(told)
    })
}

#[tokio::test]
async fn a_workload_is_known_by_its_spiffe_id_whatever_name_was_dialled() {
    let tls = Tls::new();
    let server = tls.shop.issue(&LeafSpec { uris: vec![ORDERS.into()], ..good() }).unwrap();
    for pattern in [ORDERS, "spiffe://shop.example/ns/*/sa/orders", "spiffe://shop.example/**"] {
        dial(&tls, &server, &workload(&tls, pattern), "unrelated.example").await.unwrap();
    }
}

#[tokio::test]
async fn another_workload_or_a_bad_certificate_is_an_identity_mismatch() {
    let tls = Tls::new();
    let spec = LeafSpec { uris: vec![ORDERS.into()], ..good() };
    let client_only =
        LeafSpec { extended_key_usage: vec![ExtendedKeyUsagePurpose::ClientAuth], ..spec.clone() };
    let two = LeafSpec { uris: vec![ORDERS.into(), "spiffe://shop.example/b".into()], ..spec.clone() };
    let dns_only = LeafSpec { uris: Vec::new(), dns: vec!["orders.shop.example".into()], ..spec.clone() };
    let cases = [
        (tls.shop.issue(&good()), "which is not expected there"),
        (tls.stranger.issue(&spec), "no configured CA"),
        (tls.partner.issue(&spec), "a CA of `partner.example`"),
        (tls.shop.issue(&client_only), "extended key usage"),
        (tls.shop.issue(&two), "2 URI SANs"),
        (tls.shop.issue(&dns_only), "no URI SAN"),
    ];
    let mut seen = 0;
    for (server, reason) in cases {
        let expected = workload(&tls, ORDERS);
        let error = dial(&tls, &server.unwrap(), &expected, "orders.shop.example").await.unwrap_err();
        assert!(error.contains(reason), "{error}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

/// In a resumed session nobody would look at the server's certificate again.
#[tokio::test]
async fn an_upstream_says_who_it_is_on_every_connection() {
    let tls = Tls::new();
    let server = tls.shop.issue(&LeafSpec { uris: vec![ORDERS.into()], ..good() }).unwrap();
    let listener = ListenerTls::new(&tls.own(&server), ClientCertificates::Off, tls.clock.clone()).unwrap();
    let config = client_config(&workload(&tls, ORDERS), None, &[Alpn::Http2], &tls.clock).unwrap();
    for _ in 0..2 {
        let (accepted, saw) = connect_to(&listener, &config, "orders.example").await;
        assert_eq!((accepted.unwrap().alpn, saw), (Alpn::Http2, ClientSaw::Answer { resumed: false }));
    }
}

#[tokio::test]
async fn a_server_known_by_name_needs_the_name_the_ca_and_the_time() {
    let tls = Tls::new();
    let spec = LeafSpec { uris: Vec::new(), dns: vec!["orders.example".into()], ..good() };
    let server = tls.shop.issue(&spec).unwrap();
    let ca = named(tls.file("upstream-ca.pem", &tls.shop.pem()));
    let other_ca = named(tls.file("other-ca.pem", &tls.partner.pem()));
    dial(&tls, &server, &ca, "orders.example").await.unwrap();
    dial(&tls, &server, &ca, "else.example").await.unwrap_err();
    dial(&tls, &server, &other_ca, "orders.example").await.unwrap_err();
    let soon = Validity { from: now().minus(hours(2)), to: now().plus(hours(1)) };
    let server = tls.shop.issue(&LeafSpec { validity: soon, ..spec }).unwrap();
    dial(&tls, &server, &ca, "orders.example").await.unwrap();
}

#[tokio::test]
async fn our_own_certificate_is_shown_where_it_is_given() {
    let tls = Tls::new();
    let own = tls.own(&tls.shop.issue(&good()).unwrap());
    let listener = tls.required();
    let expected = workload(&tls, ORDERS);
    for (own, admitted) in [(Some(&own), true), (None, false)] {
        let config = client_config(&expected, own, &[], &tls.clock).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from("x.example").unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let (_open, outcome) = tokio::join!(connector.connect(name, near), listener.accept(far, hours(1)));
        assert_eq!(outcome.is_ok(), admitted);
    }
}
