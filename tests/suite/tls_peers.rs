//! Whom a listener lets in: each certificate that must be refused, with the alert the client sees and
//! the reason we record, over TLS 1.2 and 1.3.

use std::sync::Arc;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Minted, Validity};
use countersign::identity::{Hop, PeerName, Signature};
use countersign::tls::peer::{Distrust, OutOfDate, Revocation};
use countersign::tls::{
    ClientCertificates, HandshakeFailure, ListenerTls, MalformedCertificate as Malformed, PeerError, Trust,
    TrustError,
};
use rcgen::{ExtendedKeyUsagePurpose, GeneralSubtree, KeyPair, KeyUsagePurpose, NameConstraints};
use rustls::AlertDescription;

use crate::tls_fixture::{ClientSaw, GOOD, Tls, always, connect, good, hours, now, refused, valid};

const BAD_CERTIFICATE: ClientSaw = ClientSaw::Alert(AlertDescription::BadCertificate);
const UNKNOWN_CA: ClientSaw = ClientSaw::Alert(AlertDescription::UnknownCA);
const EXPIRED: ClientSaw = ClientSaw::Alert(AlertDescription::CertificateExpired);
const REVOKED: ClientSaw = ClientSaw::Alert(AlertDescription::CertificateRevoked);
const ACCESS_DENIED: ClientSaw = ClientSaw::Alert(AlertDescription::AccessDenied);
const UNSUPPORTED: ClientSaw = ClientSaw::Alert(AlertDescription::UnsupportedCertificate);
const REQUIRED: ClientSaw = ClientSaw::Alert(AlertDescription::CertificateRequired);

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

async fn admitted(listener: &ListenerTls, tls: &Tls, own: &Minted) -> Arc<countersign::identity::Peer> {
    let (outcome, saw) = connect(listener, &Arc::new(tls.client(Some(own)))).await;
    assert_eq!(saw, ClientSaw::Answer { resumed: false });
    match outcome.unwrap().peer {
        Signature::Verified(peer) => peer,
        Signature::Absent => panic!("no peer"),
    }
}

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
    let bank_id = "spiffe://bank.example/teller";
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
            shop(uris(&[bank_id])),
            wrong_domain("bank.example", "shop.example"),
            ACCESS_DENIED,
        ),
        (
            "the other trust domain's CA",
            tls.bank.issue(&good()).unwrap(),
            wrong_domain("shop.example", "bank.example"),
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
            shop(LeafSpec { validity: past, ..uris(&[bank_id]) }),
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
            shop(uris(&[GOOD, bank_id])),
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

#[tokio::test]
async fn chains_are_verified_whole_and_the_shortest_life_counts() {
    let tls = Tls::new();
    let listener = tls.required();
    let short = Validity { from: now().minus(hours(1)), to: now().plus(hours(2)) };
    let below = tls.shop.intermediate(&CaSpec::new("below", short)).unwrap();
    let peer = admitted(&listener, &tls, &below.issue(&good()).unwrap()).await;
    assert_eq!(peer.not_after, short.to);

    // A certificate that is merely sent along neither helps nor harms.
    let own = tls.shop.issue(&good()).unwrap();
    let chain = own.chain.clone() + &below.pem();
    let peer = admitted(&listener, &tls, &Minted { chain, ..own }).await;
    assert_eq!(peer.not_after, valid().to);

    let closed = CaSpec { path_length: Some(0), ..CaSpec::new("closed", always()) };
    let closed = tls.shop.intermediate(&closed).unwrap();
    let too_deep = closed.intermediate(&CaSpec::new("too deep", always())).unwrap();
    let only = |names| NameConstraints { permitted_subtrees: names, excluded_subtrees: Vec::new() };
    let constrained = CaSpec {
        name_constraints: Some(only(vec![GeneralSubtree::DnsName("bank.example".into())])),
        ..CaSpec::new("constrained", always())
    };
    let constrained = tls.shop.intermediate(&constrained).unwrap();
    let with_dns = LeafSpec { dns: vec!["web.shop.example".into()], ..good() };
    let past = Validity { from: now().minus(hours(48)), to: now().minus(hours(1)) };
    let gone = tls.shop.intermediate(&CaSpec::new("gone", past)).unwrap();
    let leaf_as_ca = tls.shop.intermediate(&CaSpec::new("left out", always())).unwrap();
    let without_chain = |minted: Minted| {
        let end = minted.chain.find("-----END CERTIFICATE-----\n").unwrap() + 26;
        Minted { chain: minted.chain[..end].to_owned(), ..minted }
    };
    let cases = [
        (too_deep.issue(&good()), PeerError::Untrusted(Distrust::PathLength), UNKNOWN_CA),
        (constrained.issue(&with_dns), PeerError::Untrusted(Distrust::NameConstraints), UNKNOWN_CA),
        (gone.issue(&good()), PeerError::Expired(OutOfDate::Expired(past.to)), EXPIRED),
        (
            leaf_as_ca.issue(&good()).map(without_chain),
            PeerError::Untrusted(Distrust::UnknownIssuer),
            UNKNOWN_CA,
        ),
    ];
    let mut seen = 0;
    for (own, error, alert) in cases {
        assert_eq!(refused(&listener, Some(&own.unwrap()), &tls).await, (error, alert));
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[tokio::test]
async fn a_certificate_whose_key_the_client_does_not_have_is_refused() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let other = tls.shop.issue(&good()).unwrap();
    let stolen = Minted { key: other.key, ..own };
    let client = Arc::new(tls.client(Some(&stolen)));
    let (outcome, _) = connect(&tls.required(), &client).await;
    match outcome {
        Err(HandshakeFailure::Peer { error, claimed: Some(claimed) }) => {
            assert_eq!(error, PeerError::Untrusted(Distrust::HandshakeSignature));
            assert_eq!(claimed.uri.as_deref(), Some(GOOD));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn dns_names_are_an_identity_only_where_the_trust_domain_says_so() {
    let tls = Tls::new();
    let mut domains = tls.domains();
    domains[0].allow_dns_names = true;
    let trust = Arc::new(Trust::load(&domains).unwrap());
    let listener = tls.listener(ClientCertificates::Required(trust));
    let dns =
        LeafSpec { uris: Vec::new(), dns: vec!["Web.Shop.Example".into(), "b.example".into()], ..good() };
    let peer = admitted(&listener, &tls, &tls.shop.issue(&dns).unwrap()).await;
    let names = vec!["web.shop.example".into(), "b.example".into()];
    let trust_domain = "shop.example".parse().unwrap();
    assert_eq!(peer.name, PeerName::Dns { names, trust_domain });

    // A URI that is no SPIFFE ID does not fall back to the DNS name beside it.
    let both = LeafSpec { uris: vec!["https://shop.example/".into()], ..dns.clone() };
    let (error, saw) = refused(&listener, Some(&tls.shop.issue(&both).unwrap()), &tls).await;
    assert!(matches!(error, PeerError::Malformed(Malformed::SpiffeId(_))), "{error}");
    assert_eq!(saw, BAD_CERTIFICATE);
    // The other trust domain's CA vouches for no DNS names.
    let own = tls.bank.issue(&dns).unwrap();
    assert_eq!(
        refused(&listener, Some(&own), &tls).await,
        (malformed(Malformed::NoSpiffeId), BAD_CERTIFICATE)
    );
}

#[tokio::test]
async fn revocation_lists_are_believed_and_their_silence_refuses() {
    let tls = Tls::new();
    let spec = |serial| LeafSpec { serial, ..good() };
    let below = tls.shop.intermediate(&CaSpec { serial: 9, ..CaSpec::new("below", always()) }).unwrap();
    let crl = |revoked: &[u64], validity| tls.shop.crl(revoked, validity).unwrap();
    let past = Validity { from: now().minus(hours(48)), to: now().minus(hours(1)) };
    let (of_seven, of_eight) = (tls.shop.issue(&spec(7)).unwrap(), tls.shop.issue(&spec(8)).unwrap());
    let of_below = below.issue(&spec(3)).unwrap();
    let both = crl(&[7], valid()) + &below.crl(&[], valid()).unwrap();

    for (list, own) in [(crl(&[7], valid()), &of_eight), (both, &of_below)] {
        let listener = tls.listener(ClientCertificates::Required(tls.trust_with_crl(&list)));
        admitted(&listener, &tls, own).await;
    }
    let cases = [
        (crl(&[7], valid()), &of_seven, Revocation::Revoked),
        (crl(&[], past), &of_eight, Revocation::ListExpired(past.to)),
        // Only another CA's list; only the root's list for a chain with an intermediate.
        (tls.bank.crl(&[], valid()).unwrap(), &of_eight, Revocation::NoList),
        (crl(&[], valid()), &of_below, Revocation::NoList),
        // The intermediate itself.
        (crl(&[9], valid()) + &below.crl(&[], valid()).unwrap(), &of_below, Revocation::Revoked),
    ];
    let mut seen = 0;
    for (list, own, reason) in cases {
        let listener = tls.listener(ClientCertificates::Required(tls.trust_with_crl(&list)));
        let expected = (PeerError::Revoked(reason), REVOKED);
        assert_eq!(refused(&listener, Some(own), &tls).await, expected);
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn one_ca_key_cannot_speak_for_two_trust_domains() {
    let tls = Tls::new();
    let key = KeyPair::generate().unwrap();
    let again = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let one = Authority::root_with_key(&CaSpec::new("one", always()), key).unwrap();
    let two = Authority::root_with_key(&CaSpec::new("two", always()), again).unwrap();
    let domains = [tls.domain("a.example", &one.pem()), tls.domain("b.example", &two.pem())];
    assert!(matches!(Trust::load(&domains), Err(TrustError::SharedCa(..))));
    // Within one trust domain that is a renewed CA.
    assert!(Trust::load(&[tls.domain("a.example", &(one.pem() + &two.pem()))]).is_ok());
    let twice = [tls.domain("a.example", &one.pem()), tls.domain("a.example", &tls.bank.pem())];
    assert!(matches!(Trust::load(&twice), Err(TrustError::Twice(_))));
    assert!(matches!(Trust::load(&[]), Err(TrustError::NoTrustDomain)));
}
