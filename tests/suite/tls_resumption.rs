//! Sessions: they resume where they may, never elsewhere, and never longer than the certificate.

use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign::cli::mint::{LeafSpec, Minted, Validity};
use countersign::identity::Signature;
use countersign::tls::peer::{OutOfDate, Revocation};
use countersign::tls::{ClientCertificates, HandshakeFailure, PeerError, Trust};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, SignatureScheme, SupportedProtocolVersion};

use crate::world::tls::{ClientSaw, Tls, connect, good, hours, now, pair, valid};

const FULL: ClientSaw = ClientSaw::Answer { resumed: false };
const RESUMED: ClientSaw = ClientSaw::Answer { resumed: true };

/// A client that resumes whenever it can.
fn resuming(
    tls: &Tls,
    own: Option<&Minted>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut client = tls.client_of(own, &[version]);
    client.resumption = Resumption::in_memory_sessions(16);
    client.into()
}

fn reason(outcome: Result<impl Sized, HandshakeFailure>) -> PeerError {
    match outcome {
        Err(HandshakeFailure::Peer { error, .. }) => error,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[tokio::test]
async fn a_session_resumes_with_its_peer() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    for version in rustls::ALL_VERSIONS {
        let (listener, client) = (tls.required(), resuming(&tls, Some(&own), version));
        let (first, saw) = connect(&listener, &client).await;
        assert_eq!(saw, FULL);
        let (second, saw) = connect(&listener, &client).await;
        assert_eq!(saw, RESUMED);
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(second.resumed);
        assert_eq!(first.peer.verified(), second.peer.verified());
        assert!(second.peer.verified().is_some());
    }
}

#[tokio::test]
async fn a_session_from_a_listener_that_asks_for_nothing_is_worth_nothing_elsewhere() {
    let tls = Tls::new();
    for version in rustls::ALL_VERSIONS {
        let client = resuming(&tls, None, version);
        let open = tls.listener(ClientCertificates::Off);
        assert_eq!(connect(&open, &client).await.1, FULL);
        assert_eq!(connect(&open, &client).await.1, RESUMED);
        let (outcome, saw) = connect(&tls.required(), &client).await;
        assert_eq!(reason(outcome), PeerError::Missing);
        assert_eq!(saw, ClientSaw::Alert(AlertDescription::CertificateRequired));
    }
}

#[tokio::test]
async fn a_session_does_not_outlive_a_reload_of_cas() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    for version in rustls::ALL_VERSIONS {
        let client = resuming(&tls, Some(&own), version);
        assert_eq!(connect(&tls.required(), &client).await.1, FULL);
        // The same files read again: a full handshake.
        assert_eq!(connect(&tls.required(), &client).await.1, FULL);
        let without_shop = Arc::new(Trust::load(&tls.domains()[1..]).unwrap());
        let listener = tls.listener(ClientCertificates::Required(without_shop));
        let (outcome, saw) = connect(&listener, &client).await;
        assert!(matches!(reason(outcome), PeerError::Untrusted(_)));
        assert_eq!(saw, ClientSaw::Alert(AlertDescription::UnknownCA));
    }
}

#[tokio::test]
async fn a_session_ends_with_the_certificate() {
    for version in rustls::ALL_VERSIONS {
        let tls = Tls::new();
        let own = tls.shop.issue(&good()).unwrap();
        let (listener, client) = (tls.required(), resuming(&tls, Some(&own), version));
        connect(&listener, &client).await.0.unwrap();
        tls.clock.set(valid().to.minus(hours(1)));
        assert_eq!(connect(&listener, &client).await.1, RESUMED);
        tls.clock.set(valid().to);
        let (outcome, saw) = connect(&listener, &client).await;
        assert_eq!(reason(outcome), PeerError::Expired(OutOfDate::Expired(valid().to)));
        assert_eq!(saw, ClientSaw::Alert(AlertDescription::CertificateExpired));
    }
}

#[tokio::test]
async fn a_session_ends_with_the_revocation_list() {
    for version in rustls::ALL_VERSIONS {
        let tls = Tls::new();
        let own = tls.shop.issue(&good()).unwrap();
        let brief = Validity { from: now().minus(hours(1)), to: now().plus(hours(1)) };
        let trust = tls.trust_with_crl(&tls.shop.crl(&[], brief).unwrap());
        let listener = tls.listener(ClientCertificates::Optional(trust));
        let client = resuming(&tls, Some(&own), version);
        let (outcome, _) = connect(&listener, &client).await;
        assert!(matches!(outcome.unwrap().peer, Signature::Verified(_)));
        assert_eq!(connect(&listener, &client).await.1, RESUMED);
        tls.clock.set(brief.to);
        let (outcome, saw) = connect(&listener, &client).await;
        assert_eq!(reason(outcome), PeerError::Revoked(Revocation::ListExpired(brief.to)));
        assert_eq!(saw, ClientSaw::Alert(AlertDescription::CertificateRevoked));
    }
}

/// The certificate that a client has now, as one that is told of renewals does it.
#[derive(Debug)]
struct Renewable(ArcSwap<CertifiedKey>);

impl ResolvesClientCert for Renewable {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Its sessions are still those of the old certificate; they must not lock it out.
#[tokio::test]
async fn a_client_that_renews_its_certificate_in_place_is_let_in() {
    for version in rustls::ALL_VERSIONS {
        let tls = Tls::new();
        let listener = tls.required();
        let old = tls.shop.issue(&good()).unwrap();
        let next = Validity { from: valid().from, to: valid().to.plus(hours(24)) };
        let new = tls.shop.issue(&LeafSpec { validity: next, ..good() }).unwrap();
        let certificate = Arc::new(Renewable(ArcSwap::from_pointee(pair(&old))));
        let mut client = tls.client_of(None, &[version]);
        client.resumption = Resumption::in_memory_sessions(16);
        client.client_auth_cert_resolver = certificate.clone();
        let client = Arc::new(client);

        assert_eq!(connect(&listener, &client).await.1, FULL);
        certificate.0.store(Arc::new(pair(&new)));
        let (outcome, saw) = connect(&listener, &client).await;
        assert_eq!(saw, RESUMED);
        assert_eq!(outcome.unwrap().peer.verified().unwrap().not_after, valid().to);
        tls.clock.set(valid().to);
        for seen in [FULL, RESUMED] {
            let (outcome, saw) = connect(&listener, &client).await;
            assert_eq!(saw, seen);
            assert_eq!(outcome.unwrap().peer.verified().unwrap().not_after, next.to);
        }
    }
}
