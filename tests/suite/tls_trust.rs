//! What a CA's word is worth: chains, trust domains, DNS names, revocation lists.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Minted, Validity};
use countersign::identity::PeerName;
use countersign::tls::peer::{Distrust, OutOfDate, Revocation};
use countersign::tls::{
    ClientCertificates, HandshakeFailure, Idle, MalformedCertificate as Malformed, PeerError, Trust,
    TrustError, Why,
};
use rcgen::{GeneralSubtree, KeyPair, NameConstraints};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;

use crate::world::tls::{
    ACCESS_DENIED, BAD_CERTIFICATE, EXPIRED, GOOD, REVOKED, Tls, UNKNOWN_CA, admitted, always, connect, good,
    hours, now, refused, valid,
};

#[tokio::test]
async fn chains_are_verified_whole_and_the_shortest_life_counts() {
    let tls = Tls::new();
    let listener = tls.required();
    let short = Validity { from: now().minus(hours(1)), to: now().plus(hours(2)) };
    let below = tls.shop.intermediate(&CaSpec::new("below", short)).unwrap();
    let peer = admitted(&listener, &tls, &below.issue(&good()).unwrap()).await;
    assert_eq!(peer.not_after, short.to);
    for (upper, lower) in [(short, always()), (always(), short)] {
        let upper = tls.shop.intermediate(&CaSpec::new("upper", upper)).unwrap();
        let lower = upper.intermediate(&CaSpec::new("lower", lower)).unwrap();
        let peer = admitted(&listener, &tls, &lower.issue(&good()).unwrap()).await;
        assert_eq!(peer.not_after, short.to, "whichever of the two ends first");
    }

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
        name_constraints: Some(only(vec![GeneralSubtree::DnsName("partner.example".into())])),
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
async fn a_ca_ends_too_and_one_of_the_same_name_is_another() {
    let tls = Tls::new();
    let short = Validity { from: now().minus(hours(1)), to: now().plus(hours(2)) };
    let key = KeyPair::generate().unwrap();
    let again = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let old = Authority::root_with_key(&CaSpec::new("shop CA", short), key).unwrap();
    let renewed = Authority::root_with_key(&CaSpec::new("shop CA", always()), again).unwrap();
    let own = old.issue(&good()).unwrap();
    let listener = |cas: String| {
        let domains = [tls.domain("shop.example", &cas), tls.domain("partner.example", &tls.partner.pem())];
        tls.listener(ClientCertificates::Required(Arc::new(Trust::load(&domains).unwrap())))
    };
    let peer = admitted(&listener(old.pem()), &tls, &own).await;
    assert_eq!(peer.not_after, short.to);
    let peer = admitted(&listener(old.pem() + &renewed.pem()), &tls, &own).await;
    assert_eq!(peer.not_after, valid().to);

    // `shop CA` of the fixture has another key.
    let untrusted = PeerError::Untrusted(Distrust::UnknownIssuer);
    assert_eq!(refused(&tls.required(), Some(&own), &tls).await, (untrusted, UNKNOWN_CA));
    let twin = Authority::root(&CaSpec::new("shop CA", always())).unwrap();
    let domains = [tls.domain("partner.example", &twin.pem()), tls.domain("shop.example", &tls.shop.pem())];
    let listener = tls.listener(ClientCertificates::Required(Arc::new(Trust::load(&domains).unwrap())));
    let (error, saw) = refused(&listener, Some(&twin.issue(&good()).unwrap()), &tls).await;
    assert!(matches!(error, PeerError::WrongTrustDomain { .. }), "{error}");
    assert_eq!(saw, ACCESS_DENIED);

    tls.clock.set(short.to);
    let listener = tls.listener(ClientCertificates::Required(Arc::new(
        Trust::load(&[tls.domain("shop.example", &old.pem())]).unwrap(),
    )));
    let expired = PeerError::Expired(OutOfDate::Expired(short.to));
    assert_eq!(refused(&listener, Some(&own), &tls).await, (expired, EXPIRED));
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
    assert!(*trust == Trust::load(&domains).unwrap());
    assert!(trust != tls.trust(), "a reload that takes the names back changes what is trusted");
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
    let own = tls.partner.issue(&dns).unwrap();
    assert_eq!(
        refused(&listener, Some(&own), &tls).await,
        (PeerError::Malformed(Malformed::NoSpiffeId), BAD_CERTIFICATE)
    );
}

/// With another last bit, which is the signature's.
fn flipped(crl: &str) -> String {
    let mut der = CertificateRevocationListDer::from_pem_slice(crl.as_bytes()).unwrap().to_vec();
    *der.last_mut().unwrap() ^= 1;
    format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", STANDARD.encode(der))
}

#[tokio::test]
async fn revocation_lists_are_believed_and_their_silence_refuses() {
    let tls = Tls::new();
    let same_name = Authority::root(&CaSpec::new("shop CA", always())).unwrap();
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
        (tls.partner.crl(&[], valid()).unwrap(), &of_eight, Revocation::NoList),
        (crl(&[], valid()), &of_below, Revocation::NoList),
        (below.crl(&[], valid()).unwrap(), &of_below, Revocation::NoList),
        // One bit of the signature is another; a CA of the same name signed it.
        (flipped(&crl(&[], valid())), &of_eight, Revocation::NoList),
        (same_name.crl(&[], valid()).unwrap(), &of_eight, Revocation::NoList),
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
    assert_eq!(seen, 8);
}

#[tokio::test]
async fn a_trust_domain_knows_whom_its_lists_keep_out_and_from_when_on() {
    let tls = Tls::new();
    let same_name = Authority::root(&CaSpec::new("shop CA", always())).unwrap();
    let below = tls.shop.intermediate(&CaSpec::new("below", always())).unwrap();
    let crl = |ca: &Authority, to| ca.crl(&[], Validity { from: now().minus(hours(1)), to }).unwrap();
    let (soon, late) = (now().plus(hours(1)), now().plus(hours(2)));
    let shop = |why| vec![Idle { ca: "CN=shop CA".to_owned(), why }];
    let of_below = |at| Idle { ca: "CN=below".to_owned(), why: Why::ListExpired(at) };
    let no_list = || shop(Why::NoList);
    // the lists, what keeps whom out now, from `soon` on, and whether that is everybody then
    let cases = [
        (crl(&tls.shop, late), vec![], vec![], false),
        (crl(&tls.shop, soon), vec![], shop(Why::ListExpired(soon)), true),
        (crl(&tls.shop, late) + &crl(&below, soon), vec![], vec![of_below(soon)], false),
        (crl(&tls.partner, late), no_list(), no_list(), true),
        (crl(&same_name, late), no_list(), no_list(), true),
        (flipped(&crl(&tls.shop, late)), no_list(), no_list(), true),
        (crl(&below, soon), no_list(), [no_list(), vec![of_below(soon)]].concat(), true),
    ];
    let mut seen = 0;
    for (lists, at_first, then, is_everybody) in cases {
        let trust = tls.trust_with_crl(&lists);
        let (_, standing) = trust.standings().find(|(name, _)| name.as_str() == "shop.example").unwrap();
        let idle = |at| standing.idle(at).collect::<Vec<_>>();
        assert_eq!((idle(soon.minus(hours(1))), idle(soon)), (at_first, then));
        assert_eq!(standing.is_idle(soon), is_everybody);
        seen += 1;
    }
    assert_eq!(seen, 7);
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
    let twice = [tls.domain("a.example", &one.pem()), tls.domain("a.example", &tls.partner.pem())];
    assert!(matches!(Trust::load(&twice), Err(TrustError::Twice(_))));
    assert!(matches!(Trust::load(&[]), Err(TrustError::NoTrustDomain)));
}
