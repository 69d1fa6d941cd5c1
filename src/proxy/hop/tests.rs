//! What is read of each kind of header, whose word counts, and which address is the client's.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Bytes whose Base64 has `+`, `/` and `=`; nobody parses them here.
const LEAF: &[u8] = &[0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff, 1];
const CA: &[u8] = b"the CA's";

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
}

fn certificates(ders: &[&[u8]]) -> String {
    ders.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// As an ALB encodes it: `+`, `=` and `/` stay.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\n', "%0A").replace(' ', "%20")
}

/// As Envoy does.
fn escaped_whole(text: &str) -> String {
    escaped(text).replace('+', "%2B").replace('=', "%3D").replace('/', "%2F")
}

fn told(header: CertificateHeader, values: &[&str]) -> Result<Vec<Vec<u8>>, &'static str> {
    let values: Vec<_> = values.iter().map(|value| HeaderValue::from_str(value).unwrap()).collect();
    let places = header.names().len();
    let values: Vec<_> = (0..places).map(|at| values.get(at).filter(|value| !value.is_empty())).collect();
    Ok(header.chain(&values)?.into_iter().map(|der| der.to_vec()).collect())
}

#[test]
fn an_alb_tells_percent_encoded_pem_in_which_plus_is_itself() {
    let chain = |text: &str| told(CertificateHeader::AlbChain, &[text]);
    let good = escaped(&certificates(&[LEAF, CA]));
    assert!(good.contains('+') && good.contains('/') && good.contains('='));
    assert_eq!(chain(&good), Ok(vec![LEAF.to_vec(), CA.to_vec()]));
    assert_eq!(chain(&good.replace('+', "%2b")), Ok(vec![LEAF.to_vec(), CA.to_vec()]));
    let refused = [
        ("nothing", "it has text beside its PEM"),
        ("%0A", "it holds no certificate"),
        (&format!("{good}, {good}"), "it has text beside its PEM"),
        (&format!("{good}x"), "it has text beside its PEM"),
        (&good.replace("%0A", "%0"), "it has a `%` without two digits"),
        (&good.replace("%0A", "%zz"), "it has a `%` without two digits"),
        (&good.replace("%0A", "%"), "it has a `%` without two digits"),
        (&format!("{good}%"), "it has a `%` without two digits"),
        (&format!("{good}%00"), "it has bytes that PEM has not"),
        (&format!("{good}%ff"), "it has bytes that PEM has not"),
        // A blank is `+` in forms alone.
        (&good.replace("BEGIN%20", "BEGIN+"), "it has text beside its PEM"),
        (&good.replacen("END", "FIN", 1), "it is not PEM"),
        (&good.replace("++", "*"), "it is not PEM"),
        (
            &escaped(&(pem("PRIVATE KEY", LEAF) + &certificates(&[LEAF]))),
            "it holds PEM that is no certificate",
        ),
        (&escaped_whole(&escaped_whole(&certificates(&[LEAF]))), "it has text beside its PEM"),
    ];
    for (text, fault) in refused {
        assert_eq!(chain(text), Err(fault), "{text}");
    }
    let leaf = |text: &str| told(CertificateHeader::AlbLeaf, &[text]);
    assert_eq!(leaf(&escaped(&certificates(&[LEAF]))), Ok(vec![LEAF.to_vec()]));
    assert_eq!(leaf(&good), Err("it holds several certificates where one is told"));
}

#[test]
fn an_envoy_tells_one_element_whose_hash_is_that_of_its_certificate() {
    let xfcc = |text: &str| told(CertificateHeader::Envoy, &[text]);
    let hash = hex::encode(digest(&SHA256, LEAF));
    let cert = format!("Cert=\"{}\"", escaped_whole(&certificates(&[LEAF])));
    let chain = format!("Chain=\"{}\"", escaped_whole(&certificates(&[LEAF, CA])));
    let leaf = vec![LEAF.to_vec()];
    let both = vec![LEAF.to_vec(), CA.to_vec()];
    for (good, expected) in [
        (format!("Hash={hash};{cert}"), &leaf),
        (format!("Hash={hash};{chain}"), &both),
        (format!("By=spiffe://a.example/x;Hash={hash};{cert};{chain}"), &both),
        (format!(r#"Hash={hash};{chain};Subject="CN=a\"b\\,O=;";URI=spiffe://a.example/y;DNS=a"#), &both),
        (format!("hash=\"{hash}\";{chain};Later=1"), &both),
        (format!("Hash={};{chain};Subject=\"\"", hash.to_uppercase()), &both),
    ] {
        assert_eq!(xfcc(&good).as_ref(), Ok(expected), "{good}");
    }
    let other = hex::encode(digest(&SHA256, CA));
    let reordered = format!("Chain=\"{}\"", escaped_whole(&certificates(&[CA, LEAF])));
    let refused = [
        (format!("Hash={hash};URI=spiffe://a.example/x"), "it has neither `Cert` nor `Chain`"),
        (chain.clone(), "its `Hash` is not that of its certificate"),
        (format!("Hash={other};{chain}"), "its `Hash` is not that of its certificate"),
        (format!("Hash={hash};{reordered}"), "its `Hash` is not that of its certificate"),
        (format!("Hash={hash};{cert};{reordered}"), "its `Chain` does not begin with its `Cert`"),
        (format!("Hash={hash};{cert},Hash={hash};{cert}"), "it has several elements"),
        // A SAN that is written as it is, with what it would have us read.
        (
            format!("Hash={other};{chain};URI=spiffe://a.example/x,Hash={hash};{cert}"),
            "it has several elements",
        ),
        (format!("Hash={other};URI=spiffe://a.example/x;Hash={hash};{cert}"), "it has a key twice"),
        (
            format!("Hash={other};URI=spiffe://a.example/x;{cert}"),
            "its `Hash` is not that of its certificate",
        ),
        (format!("Hash={hash};{cert};cert=1"), "it has a key twice"),
        (format!("Hash={hash};{chain}x"), "it is no `key=value` pairs"),
        (format!("Hash={hash};{};", chain), "it is no `key=value` pairs"),
        (format!("Hash={hash};{}", chain.trim_end_matches('"')), "it has a quote without its end"),
        (format!("Hash={hash};Subject=\"a\\\";{chain}"), "it is no `key=value` pairs"),
        (format!("Hash={hash};URI=a\"b;{chain}"), "it is no `key=value` pairs"),
        (format!("Hash={hash}; {chain}"), "it is no `key=value` pairs"),
        (format!("={hash};{chain}"), "it is no `key=value` pairs"),
        (
            format!("Hash={hash};Cert=\"{}\"", escaped(&certificates(&[LEAF, CA]))),
            "it holds several certificates where one is told",
        ),
        (",".into(), "it is no `key=value` pairs"),
    ];
    for (text, fault) in refused {
        assert_eq!(xfcc(&text), Err(fault), "{text}");
    }
}

/// Written by Envoy 1.40 with `SANITIZE_SET` and all details, for a client whose subject is `CN=web"x, y` and one with
/// `spiffe://shop.example/x,Hash=00;URI=…` as its URI.
#[test]
fn what_an_envoy_wrote_is_read_and_what_a_name_adds_to_it_is_refused() {
    let mut lines = include_str!("envoy_1.40.txt").lines();
    let chain = told(CertificateHeader::Envoy, &[lines.next().unwrap()]).unwrap();
    let hash = hex::encode(digest(&SHA256, &chain[0]));
    assert_eq!((chain.len(), &hash[..8]), (2, "dd359b15"));
    let of_evil = told(CertificateHeader::Envoy, &[lines.next().unwrap()]);
    assert_eq!(of_evil, Err("it has several elements"));
}

#[test]
fn rfc_9440_tells_byte_sequences_and_nothing_else() {
    let told = |values: &[&str]| told(CertificateHeader::Rfc9440, values);
    let (leaf, ca) = (format!(":{}:", STANDARD.encode(LEAF)), format!(":{}:", STANDARD.encode(CA)));
    assert_eq!(told(&[&leaf]), Ok(vec![LEAF.to_vec()]));
    assert_eq!(told(&[&format!(" {leaf} "), &ca]), Ok(vec![LEAF.to_vec(), CA.to_vec()]));
    let two = vec![LEAF.to_vec(), CA.to_vec(), CA.to_vec()];
    assert_eq!(told(&[&leaf, &format!("{ca} ,\t{ca}")]), Ok(two));
    assert_eq!(told(&["", &ca]), Err("`client-cert-chain` without its `client-cert`"));
    let no_sequence = Err("it is no byte sequence of a structured field");
    let bare = STANDARD.encode(LEAF);
    for text in [
        ":",
        "a",
        &bare,
        &format!(":{bare}"),
        &format!("{bare}:"),
        &format!("\":{bare}:\""),
        &format!("\"{bare}\""),
        &format!("{leaf};a=1"),
        &format!("{leaf},{leaf}"),
        &format!(":{bare}=:"),
        &format!(":{}:", bare.trim_end_matches('=')),
        &format!(":{}:", bare.replace('+', "-").replace('/', "_")),
        &format!(": {bare}:"),
        &format!("({leaf})"),
        &escaped(&certificates(&[LEAF])),
    ] {
        assert_eq!(told(&[text]), no_sequence, "{text}");
        assert_eq!(told(&[&leaf, text]).is_ok(), *text == format!("{leaf},{leaf}"), "{text}");
    }
    for text in [",", &format!("{ca},"), &format!(",{ca}"), &format!("{ca},,{ca}"), &format!("{ca} {ca}")] {
        assert_eq!(told(&[&leaf, text]), no_sequence, "{text}");
    }
}

fn hop(known_by: KnownBy) -> TrustedHop {
    let kind = HopKind::Certificate(CertificateHeader::AlbChain);
    TrustedHop { name: "edge".parse().unwrap(), kind, known_by }
}

fn ranges(texts: &[&str]) -> KnownBy {
    KnownBy::Address(texts.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn the_client_is_the_last_address_that_is_no_hop_s() {
    let hops = [
        hop(ranges(&["10.0.0.0/24", "2001:db8:1::/64"])),
        hop(ranges(&["10.9.0.0/24"])),
        hop(KnownBy::SpiffeId(vec!["spiffe://a.example/x".parse().unwrap()])),
    ];
    let client = |values: &[&str]| {
        let fields = values.iter().map(|value| ("x-forwarded-for".parse().unwrap(), value.parse().unwrap()));
        let address = client_address(&hops, &fields.collect());
        address.map(|address| address.map(|it| it.to_string())).map_err(|refusal| refusal.reason)
    };
    let told = |text: &str| client(&[text]).unwrap();
    assert_eq!(client(&[]), Ok(None));
    for (text, address) in [
        ("203.0.113.7", "203.0.113.7"),
        ("1.1.1.1, 203.0.113.7", "203.0.113.7"),
        ("garbage, 203.0.113.7", "203.0.113.7"),
        (",203.0.113.7", "203.0.113.7"),
        ("203.0.113.7,10.0.0.9", "203.0.113.7"),
        ("1.1.1.1,203.0.113.7,10.9.0.1,\t10.0.0.9", "203.0.113.7"),
        ("10.0.0.8, 10.0.0.9", "10.0.0.8"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, ::ffff:10.0.0.9", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1, 2001:db8:1::5", "2001:db8::1"),
    ] {
        assert_eq!(told(text).as_deref(), Some(address), "{text}");
    }
    for text in [
        "",
        "unknown",
        "203.0.113.7,",
        "203.0.113.7 10.0.0.9",
        "203.0.113",
        "0x7f.1",
        "010.0.0.1",
        "_x",
        "garbage,10.0.0.9",
    ] {
        assert_eq!(client(&[text]), Err(Reason::RequestMalformed), "{text}");
    }
    assert_eq!(client(&["203.0.113.7", "203.0.113.7"]), Err(Reason::RequestMalformed));
}

#[test]
fn how_the_client_spoke_is_believed_where_it_is_said_clearly() {
    let spoke = |values: &[&'static str]| {
        let fields =
            values.iter().map(|value| ("x-forwarded-proto".parse().unwrap(), value.parse().unwrap()));
        spoke_tls(&fields.collect())
    };
    assert_eq!([spoke(&["https"]), spoke(&["http"])], [Some(true), Some(false)]);
    for unclear in [&[][..], &["https", "https"], &["HTTPS"], &["https,http"], &[""]] {
        assert_eq!(spoke(unclear), None, "{unclear:?}");
    }
}

#[test]
fn a_hop_is_known_by_its_certificate_or_where_it_has_none_by_its_address() {
    let peer = |id: &str, hop| Peer {
        name: PeerName::Spiffe(id.parse().unwrap()),
        certificate: crate::identity::CertificateHash([0; 32]),
        not_after: Timestamp::MAX,
        hop,
    };
    let verified = |id, hop| Signature::Verified(Arc::new(peer(id, hop)));
    let (edge, other) = ("spiffe://a.example/edge", "spiffe://a.example/other");
    let by_address = [hop(ranges(&["10.0.0.0/24"]))];
    let by_id = [hop(KnownBy::SpiffeId(vec![edge.parse().unwrap()]))];
    let there = Some("10.0.0.7".parse().unwrap());
    let elsewhere = Some("10.0.1.7".parse().unwrap());
    let absent = Signature::Absent;
    for (hops, address, end, is_hop) in [
        (&by_address, there, &absent, true),
        (&by_address, elsewhere, &absent, false),
        (&by_address, None, &absent, false),
        (&by_address, there, &verified(edge, Hop::Direct), false),
        (&by_address, there, &verified(edge, Hop::Local), false),
        (&by_id, there, &absent, false),
        (&by_id, None, &verified(edge, Hop::Direct), true),
        (&by_id, there, &verified(other, Hop::Direct), false),
        (&by_id, there, &verified(edge, Hop::Local), false),
        (&by_id, there, &verified(edge, Hop::Trusted("edge".parse().unwrap())), false),
    ] {
        assert_eq!(telling_certificates(hops, address, end).is_some(), is_hop, "{address:?} {end:?}");
        assert_eq!(is_any(hops, address, end), is_hop, "{address:?} {end:?}");
    }
    let countersign = TrustedHop { kind: HopKind::Countersign, ..by_id[0].clone() };
    let end = verified(edge, Hop::Direct);
    assert!(telling_certificates(std::slice::from_ref(&countersign), there, &end).is_none());
    assert!(is_any(&[countersign], there, &end));
}
