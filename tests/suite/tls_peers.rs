//! Whom a listener lets in: each certificate that must be refused, with the alert the client sees and
//! the reason we record, over TLS 1.2 and 1.3.

use std::sync::Arc;

use countersign::cli::mint::{LeafSpec, Minted, Validity};
use countersign::identity::{Hop, PeerName, Signature};
use countersign::tls::peer::{Distrust, OutOfDate};
use countersign::tls::{ClientCertificates, ListenerTls, MalformedCertificate as Malformed, PeerError};
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

use crate::world::tls::{
    ACCESS_DENIED, BAD_CERTIFICATE, ClientSaw, EXPIRED, GOOD, REQUIRED, Tls, UNKNOWN_CA, UNSUPPORTED,
    admitted, always, connect, good, hours, now, refused, valid,
};

fn uris(uris: &[&str]) -> LeafSpec {
    LeafSpec { uris: uris.iter().map(|&it| it.to_owned()).collect(), ..good() }
}

fn malformed(error: Malformed) -> PeerError {
    PeerError::Malformed(error)
}

fn wrong_domain(claimed: &str, vouching: &str) -> PeerError {
    PeerError::WrongTrustDomain { claimed: claimed.parse().unwrap(), vouching: vouching.parse().unwrap() }
}

/// A SAN extension with one name of this context tag.
fn raw_san(tag: u8, value: &[u8]) -> LeafSpec {
    let length = u8::try_from(value.len()).unwrap();
    let mut san = vec![0x30, length + 2, tag, length];
    san.extend_from_slice(value);
    LeafSpec { raw_san: Some(san), ..good() }
}

const URI_TAG: u8 = 0x86;
const DNS_TAG: u8 = 0x82;

#[tokio::test]
async fn a_good_certificate_becomes_a_peer() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let peer = admitted(&tls.required(), &tls, &own).await;
    assert_eq!(peer.name, PeerName::Spiffe(GOOD.parse().unwrap()));
    assert_eq!(peer.not_after, valid().to);
    assert_eq!(peer.hop, Hop::Direct);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &own.der);
    assert_eq!(peer.certificate.0, digest.as_ref());
}

#[tokio::test]
async fn keys_of_each_usual_kind_serve_at_both_ends() {
    let tls = Tls::new();
    let kinds = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    for key in kinds {
        let dns = vec!["localhost".to_owned()];
        let server = LeafSpec { key, dns, validity: always(), ..good() };
        let server = tls.own(&tls.shop.issue(&server).unwrap());
        let clients = ClientCertificates::Required(tls.trust());
        let listener = ListenerTls::new(&server, clients, tls.clock.clone()).unwrap();
        admitted(&listener, &tls, &tls.shop.issue(&LeafSpec { key, ..good() }).unwrap()).await;
    }
}

#[tokio::test]
async fn no_certificate_is_missing_where_required_and_absent_where_optional_or_not_asked() {
    let tls = Tls::new();
    assert_eq!(refused(&tls.required(), None, &tls).await, (PeerError::Missing, REQUIRED));
    let client = Arc::new(tls.client(None));
    for clients in [ClientCertificates::Optional(tls.trust()), ClientCertificates::Off] {
        let (outcome, saw) = connect(&tls.listener(clients), &client).await;
        assert!(matches!(outcome.unwrap().peer, Signature::Absent));
        assert_eq!(saw, ClientSaw::Answer { resumed: false });
    }
}

/// Each refused by `required` and by `optional` alike: bad is not absent.
#[tokio::test]
async fn bad_certificates_are_refused_with_their_reason_and_alert() {
    let tls = Tls::new();
    let shop = |spec: LeafSpec| tls.shop.issue(&spec).unwrap();
    let spiffe = |text: &str| malformed(text.parse::<countersign::identity::SpiffeId>().unwrap_err().into());
    let past = Validity { from: now().minus(hours(48)), to: now().minus(hours(1)) };
    let future = Validity { from: now().plus(hours(1)), to: now().plus(hours(48)) };
    let expired = PeerError::Expired(OutOfDate::Expired(past.to));
    let early = PeerError::Expired(OutOfDate::NotYetValid(future.from));
    let stranger = PeerError::Untrusted(Distrust::UnknownIssuer);
    let partner_id = "spiffe://partner.example/teller";
    let long = format!("spiffe://shop.example/{}", "a".repeat(2048));
    let server_only = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let dns = |names: &[&str]| LeafSpec {
        uris: Vec::new(),
        dns: names.iter().map(|&it| it.to_owned()).collect(),
        ..good()
    };

    let cases: Vec<(&str, Minted, PeerError, ClientSaw)> = vec![
        ("self-signed", good().self_signed().unwrap(), stranger.clone(), UNKNOWN_CA),
        ("unknown CA", tls.stranger.issue(&good()).unwrap(), stranger.clone(), UNKNOWN_CA),
        (
            "unknown CA, expired: the issuer comes first",
            tls.stranger.issue(&LeafSpec { validity: past, ..good() }).unwrap(),
            stranger.clone(),
            UNKNOWN_CA,
        ),
        (
            "unknown CA, trust domain that nobody configured",
            tls.stranger.issue(&uris(&["spiffe://else.example/x"])).unwrap(),
            stranger,
            UNKNOWN_CA,
        ),
        ("expired", shop(LeafSpec { validity: past, ..good() }), expired.clone(), EXPIRED),
        ("not yet valid", shop(LeafSpec { validity: future, ..good() }), early, EXPIRED),
        (
            "the other trust domain's name",
            shop(uris(&[partner_id])),
            wrong_domain("partner.example", "shop.example"),
            ACCESS_DENIED,
        ),
        (
            "the other trust domain's CA",
            tls.partner.issue(&good()).unwrap(),
            wrong_domain("shop.example", "partner.example"),
            ACCESS_DENIED,
        ),
        (
            "a trust domain that nobody configured, from a CA we know",
            shop(uris(&["spiffe://else.example/x"])),
            wrong_domain("else.example", "shop.example"),
            ACCESS_DENIED,
        ),
        (
            "the other trust domain's name, expired: the time comes first",
            shop(LeafSpec { validity: past, ..uris(&[partner_id]) }),
            expired,
            EXPIRED,
        ),
        (
            "for servers only",
            shop(LeafSpec { extended_key_usage: server_only, ..good() }),
            malformed(Malformed::ExtendedKeyUsage),
            UNSUPPORTED,
        ),
        (
            "for signing code only",
            shop(LeafSpec { extended_key_usage: vec![ExtendedKeyUsagePurpose::CodeSigning], ..good() }),
            malformed(Malformed::ExtendedKeyUsage),
            UNSUPPORTED,
        ),
        ("a CA as leaf", shop(LeafSpec { is_ca: true, ..good() }), malformed(Malformed::Ca), BAD_CERTIFICATE),
        (
            "no key usage",
            shop(LeafSpec { key_usage: Vec::new(), ..good() }),
            malformed(Malformed::NoKeyUsage),
            BAD_CERTIFICATE,
        ),
        (
            "key usage without digitalSignature",
            shop(LeafSpec { key_usage: vec![KeyUsagePurpose::KeyEncipherment], ..good() }),
            malformed(Malformed::NoDigitalSignature),
            BAD_CERTIFICATE,
        ),
        (
            "key usage with keyCertSign",
            shop(LeafSpec {
                key_usage: vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
                ..good()
            }),
            malformed(Malformed::CaKeyUsage),
            BAD_CERTIFICATE,
        ),
        (
            "key usage with cRLSign",
            shop(LeafSpec {
                key_usage: vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
                ..good()
            }),
            malformed(Malformed::CaKeyUsage),
            BAD_CERTIFICATE,
        ),
        (
            "two SPIFFE IDs",
            shop(uris(&[GOOD, partner_id])),
            malformed(Malformed::SeveralUris(2)),
            BAD_CERTIFICATE,
        ),
        (
            "the same one twice",
            shop(uris(&[GOOD, GOOD])),
            malformed(Malformed::SeveralUris(2)),
            BAD_CERTIFICATE,
        ),
        (
            "a second URI that is no SPIFFE ID",
            shop(uris(&[GOOD, "https://shop.example/"])),
            malformed(Malformed::SeveralUris(2)),
            BAD_CERTIFICATE,
        ),
        (
            "another URI",
            shop(uris(&["https://shop.example/x"])),
            spiffe("https://shop.example/x"),
            BAD_CERTIFICATE,
        ),
        (
            "a trust domain's own ID",
            shop(uris(&["spiffe://shop.example"])),
            spiffe("spiffe://shop.example"),
            BAD_CERTIFICATE,
        ),
        (
            "a trailing slash",
            shop(uris(&["spiffe://shop.example/a/"])),
            spiffe("spiffe://shop.example/a/"),
            BAD_CERTIFICATE,
        ),
        (
            "a dot segment",
            shop(uris(&["spiffe://shop.example/a/../b"])),
            spiffe("spiffe://shop.example/a/../b"),
            BAD_CERTIFICATE,
        ),
        (
            "an upper-case trust domain",
            shop(uris(&["spiffe://Shop.example/a"])),
            spiffe("spiffe://Shop.example/a"),
            BAD_CERTIFICATE,
        ),
        (
            "an upper-case scheme",
            shop(uris(&["SPIFFE://shop.example/a"])),
            spiffe("SPIFFE://shop.example/a"),
            BAD_CERTIFICATE,
        ),
        (
            "an escape",
            shop(uris(&["spiffe://shop.example/%61"])),
            spiffe("spiffe://shop.example/%61"),
            BAD_CERTIFICATE,
        ),
        (
            "a user",
            shop(uris(&["spiffe://a@shop.example/a"])),
            spiffe("spiffe://a@shop.example/a"),
            BAD_CERTIFICATE,
        ),
        (
            "a port",
            shop(uris(&["spiffe://shop.example:1/a"])),
            spiffe("spiffe://shop.example:1/a"),
            BAD_CERTIFICATE,
        ),
        (
            "a query",
            shop(uris(&["spiffe://shop.example/a?b"])),
            spiffe("spiffe://shop.example/a?b"),
            BAD_CERTIFICATE,
        ),
        (
            "a fragment",
            shop(uris(&["spiffe://shop.example/a#b"])),
            spiffe("spiffe://shop.example/a#b"),
            BAD_CERTIFICATE,
        ),
        ("a very long one", shop(uris(&[&long])), spiffe(&long), BAD_CERTIFICATE),
        ("no SAN at all", shop(uris(&[])), malformed(Malformed::NoSpiffeId), BAD_CERTIFICATE),
        (
            "a SPIFFE ID as common name",
            shop(LeafSpec { common_name: GOOD.into(), ..uris(&[]) }),
            malformed(Malformed::NoSpiffeId),
            BAD_CERTIFICATE,
        ),
        (
            "DNS names only",
            shop(dns(&["web.shop.example"])),
            malformed(Malformed::NoSpiffeId),
            BAD_CERTIFICATE,
        ),
        ("a SPIFFE ID as DNS name", shop(dns(&[GOOD])), malformed(Malformed::NameBytes), BAD_CERTIFICATE),
        (
            "NUL in the URI",
            shop(uris(&["spiffe://shop.example/a\0b"])),
            malformed(Malformed::NameBytes),
            BAD_CERTIFICATE,
        ),
        (
            "NUL in a DNS name beside a good URI",
            shop(LeafSpec { dns: vec!["web\0.example".into()], ..good() }),
            malformed(Malformed::NameBytes),
            BAD_CERTIFICATE,
        ),
        (
            "UTF-8 in the URI",
            shop(raw_san(URI_TAG, "spiffe://shop.example/é".as_bytes())),
            malformed(Malformed::NameBytes),
            BAD_CERTIFICATE,
        ),
        (
            "Latin-1 in the URI",
            shop(raw_san(URI_TAG, b"spiffe://shop.example/\xe9")),
            malformed(Malformed::NameBytes),
            BAD_CERTIFICATE,
        ),
        (
            "Latin-1 in a DNS name",
            shop(raw_san(DNS_TAG, b"\xe9.example")),
            malformed(Malformed::NameBytes),
            BAD_CERTIFICATE,
        ),
        (
            "a SAN extension that does not parse",
            shop(LeafSpec { raw_san: Some(vec![0x30, 0x7f, 0x86]), ..good() }),
            malformed(Malformed::Encoding),
            BAD_CERTIFICATE,
        ),
    ];

    let required = tls.required();
    let optional = tls.listener(ClientCertificates::Optional(tls.trust()));
    let mut seen = 0;
    for (what, own, error, alert) in &cases {
        for listener in [&required, &optional] {
            assert_eq!(refused(listener, Some(own), &tls).await, (error.clone(), alert.clone()), "{what}");
        }
        seen += 1;
    }
    assert_eq!(seen, 42);
}
