//! Certificates that are no client's, or hardly certificates.

use rcgen::{ExtendedKeyUsagePurpose as Purpose, KeyUsagePurpose};

use super::{
    Bench, CONFIGURATION, Case, MALFORMED, UNSUPPORTED, all_are_let_in, all_are_refused, asked, case, last,
    ways,
};
use crate::world::World;
use crate::world::forge::{BOOLEAN, Content, Der, INTEGER, Open, SEQUENCE, extension, field, forged};

/// Sound names with usages that are not a client's.
fn usages(bench: &Bench<'_>) -> Vec<Case> {
    let purposes = |purposes: &[Purpose]| bench.issued(|spec| spec.extended_key_usage = purposes.to_vec());
    let usage = |usage: &[KeyUsagePurpose]| bench.issued(|spec| spec.key_usage = usage.to_vec());
    let not_for_this = "does not allow this end";
    let signs = KeyUsagePurpose::DigitalSignature;
    let empty = Der::of(SEQUENCE, Vec::new()).encode();
    let eku = extension::EXTENDED_KEY_USAGE;
    vec![
        case("for servers only", purposes(&[Purpose::ServerAuth]), UNSUPPORTED, not_for_this),
        case("for code only", purposes(&[Purpose::CodeSigning]), UNSUPPORTED, not_for_this),
        case(
            "for mail and time",
            purposes(&[Purpose::EmailProtection, Purpose::TimeStamping]),
            UNSUPPORTED,
            not_for_this,
        ),
        case("for any purpose", purposes(&[Purpose::Any]), UNSUPPORTED, not_for_this),
        case("for no purpose", bench.forged(|open| open.replace(&eku, &empty)), UNSUPPORTED, not_for_this),
        case(
            "for a purpose that is none",
            bench.forged(|open| open.replace(&eku, &[BOOLEAN, 0])),
            MALFORMED,
            "parse",
        ),
        case("no key usage", usage(&[]), MALFORMED, "has no key usage"),
        case(
            "a key for encryption",
            usage(&[KeyUsagePurpose::KeyEncipherment]),
            MALFORMED,
            "lacks digitalSignature",
        ),
        case(
            "a key for agreement",
            usage(&[KeyUsagePurpose::KeyAgreement]),
            MALFORMED,
            "lacks digitalSignature",
        ),
        case(
            "a key for contracts",
            usage(&[KeyUsagePurpose::ContentCommitment]),
            MALFORMED,
            "lacks digitalSignature",
        ),
        case(
            "a key for certificates",
            usage(&[signs, KeyUsagePurpose::KeyCertSign]),
            MALFORMED,
            "which only a CA has",
        ),
        case("a key for lists", usage(&[signs, KeyUsagePurpose::CrlSign]), MALFORMED, "which only a CA has"),
        case("a CA", bench.issued(|spec| spec.is_ca = true), MALFORMED, "it is a CA certificate"),
        case(
            "a CA that may not sign",
            bench
                .forged(|open| open.replace(&extension::BASIC_CONSTRAINTS, &[SEQUENCE, 3, BOOLEAN, 1, 0xff])),
            MALFORMED,
            "it is a CA certificate",
        ),
        case(
            "a CA by a BER truth",
            bench
                .forged(|open| open.replace(&extension::BASIC_CONSTRAINTS, &[SEQUENCE, 3, BOOLEAN, 1, 0x01])),
            MALFORMED,
            "",
        ),
        case(
            "key usage without bits",
            bench.forged(|open| open.replace(&extension::KEY_USAGE, &[0x03, 0x01, 0x00])),
            MALFORMED,
            "",
        ),
        case(
            "key usage that is a number",
            bench.forged(|open| open.replace(&extension::KEY_USAGE, &[INTEGER, 1, 0x80])),
            MALFORMED,
            "parse",
        ),
    ]
}

fn extensions(bench: &Bench<'_>) -> Vec<Case> {
    let forged = |change: fn(&mut Open)| bench.forged(change);
    vec![
        case("key usage twice", forged(|open| open.repeat(&extension::KEY_USAGE)), MALFORMED, "parse"),
        case(
            "its purpose twice",
            forged(|open| open.repeat(&extension::EXTENDED_KEY_USAGE)),
            MALFORMED,
            "parse",
        ),
        case("its ID twice", forged(|open| open.repeat(&extension::SAN)), MALFORMED, "parse").claims(None),
        case(
            "an unknown critical extension",
            forged(|open| open.add(&extension::UNKNOWN, true, b"x")),
            MALFORMED,
            "a critical extension that is not known",
        ),
        case(
            "policies that must be understood",
            forged(|open| open.add(&[0x55, 0x1d, 0x24], true, &[SEQUENCE, 3, 0x80, 1, 0])),
            MALFORMED,
            "a critical extension that is not known",
        ),
    ]
}

/// Fields of the certificate itself.
fn fields(bench: &Bench<'_>) -> Vec<Case> {
    let version = |number: u8| {
        bench.forged(move |open| {
            open.tbs.parts()[field::VERSION] = Der::of(0xa0, vec![Der::new(INTEGER, &[number])]);
        })
    };
    let mut cases = vec![
        case("version 2", version(1), MALFORMED, "version 3"),
        case("version 4", version(3), MALFORMED, "version 3"),
        case(
            "version 1, without extensions",
            bench.forged(|open| {
                open.tbs.parts().remove(field::EXTENSIONS);
                open.tbs.parts().remove(field::VERSION);
            }),
            MALFORMED,
            "",
        )
        .claims(None),
        case(
            "version 1 with extensions",
            bench.forged(|open| drop(open.tbs.parts().remove(field::VERSION))),
            MALFORMED,
            "version 3",
        ),
        case(
            "no serial number",
            bench.forged(|open| drop(open.tbs.parts().remove(field::SERIAL))),
            MALFORMED,
            "",
        )
        .claims(None),
    ];
    let times: [(&'static str, u8, &[u8]); 3] = [
        ("a time that is none", 0x17, b"261332250000Z"),
        ("a time without a zone", 0x17, b"260101000000"),
        ("a time of another kind", 0x04, b"260101000000Z"),
    ];
    for (what, tag, text) in times {
        let shown = bench.forged(|open| open.tbs.parts()[field::VALIDITY].parts()[1] = Der::new(tag, text));
        cases.push(case(what, shown, MALFORMED, "no DER-encoded").claims(None));
    }
    let offset = Der::new(0x17, b"260101000000+0100");
    cases.push(case(
        "a time with an offset",
        bench.forged(|open| open.tbs.parts()[field::VALIDITY].parts()[1] = offset),
        MALFORMED,
        "no DER-encoded",
    ));
    cases.push(case(
        "an end before its beginning",
        bench.forged(|open| open.tbs.parts()[field::VALIDITY].parts().reverse()),
        MALFORMED,
        "",
    ));
    cases
}

/// Bytes around and inside the one DER value that a certificate is.
fn encodings(bench: &Bench<'_>) -> Vec<Case> {
    let sound = || bench.issued(|_| {});
    let bytes = |what, change: fn(Vec<u8>) -> Vec<u8>| {
        let shown = sound();
        let leaf = change(shown.chain[0].clone());
        case(what, shown.with_leaf(leaf), MALFORMED, "no DER-encoded").claims(None)
    };
    let mut cases = vec![
        bytes("garbage", |_| b"\x99garbage\xff\x00".to_vec()),
        bytes("text", |_| b"-----BEGIN CERTIFICATE-----".to_vec()),
        bytes("zeros", |_| vec![0; 1000]),
        bytes("an empty sequence", |_| vec![SEQUENCE, 0]),
        bytes("half of it", |der| der[..der.len() / 2].to_vec()),
        bytes("all but its last byte", |der| der[..der.len() - 1].to_vec()),
        bytes("a byte more", |der| [der, vec![0]].concat()),
        bytes("itself twice", |der| [der.clone(), der].concat()),
        bytes("a length beyond the end", |mut der| {
            der[2] = 0x7f;
            der
        }),
        bytes("a length without end", |mut der| {
            der[1] = 0x80;
            [der, vec![0, 0]].concat()
        }),
        bytes("a length of all ones", |der| [&[SEQUENCE, 0xff], &der[2..]].concat()),
        bytes("deep nesting", |_| (0..5000u16).flat_map(|_| [SEQUENCE, 0x82, 0x40, 0]).collect()),
    ];
    let inside = |what, change: fn(&mut Open)| {
        let shown = sound();
        let leaf = forged(&shown.chain[0], &bench.certificates.shop_key, change);
        case(what, shown.with_leaf(leaf), MALFORMED, "")
    };
    let long = sound();
    let leaf = [&[SEQUENCE, 0x84, 0, 0], &long.chain[0][2..]].concat();
    cases.push(case(
        "a length in more bytes than it takes",
        long.with_leaf(leaf),
        MALFORMED,
        "no DER-encoded",
    ));
    cases.extend([
        inside("something after the extensions", |open| open.tbs.parts().push(Der::new(0x05, &[])))
            .claims(None),
        inside("no key", |open| open.tbs.parts()[field::SUBJECT_KEY] = Der::of(SEQUENCE, Vec::new()))
            .claims(None),
        inside("extensions that are none", |open| {
            open.tbs.parts()[field::EXTENSIONS].content = Content::Bytes(b"\x30\x02\x30\x01".to_vec());
        })
        .claims(None),
    ]);
    cases
}

#[tokio::test]
async fn what_is_no_client_s_certificate_opens_nothing() {
    let world = World::new().await;
    let bench = Bench::new(&world);
    let cases: Vec<_> = [usages(&bench), extensions(&bench), fields(&bench), encodings(&bench)]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(cases.len(), 48);
    all_are_refused(&world, &bench, cases).await;
}

#[tokio::test]
async fn odd_but_sound_certificates_go_on_working() {
    let world = World::new().await;
    let bench = Bench::new(&world);
    let serial = |bytes: &'static [u8]| {
        bench.forged(move |open| open.tbs.parts()[field::SERIAL] = Der::new(INTEGER, bytes))
    };
    let cases = vec![
        ("no extended key usage", bench.issued(|spec| spec.extended_key_usage.clear())),
        ("for clients only", bench.issued(|spec| spec.extended_key_usage = vec![Purpose::ClientAuth])),
        ("a key that agrees, too", bench.issued(|spec| spec.key_usage.push(KeyUsagePurpose::KeyAgreement))),
        ("an unknown extension", bench.forged(|open| open.add(&extension::UNKNOWN, false, b"\r\n"))),
        (
            "basic constraints that say no",
            bench.forged(|open| open.replace(&extension::BASIC_CONSTRAINTS, &[SEQUENCE, 0])),
        ),
        // RFC 5280 §4.1.2.2 asks to be prepared for these.
        ("a serial number below zero", serial(&[0x80, 1])),
        ("a serial number of zero", serial(&[0])),
        ("a serial number of 40 bytes", serial(&[1; 40])),
        (
            "until the end of time",
            bench.forged(|open| {
                open.tbs.parts()[field::VALIDITY].parts()[1] = Der::new(0x18, b"99991231235959Z");
            }),
        ),
        ("RSA", bench.issued(|spec| spec.key = &rcgen::PKCS_RSA_SHA256)),
        ("P-384", bench.issued(|spec| spec.key = &rcgen::PKCS_ECDSA_P384_SHA384)),
        ("Ed25519", bench.issued(|spec| spec.key = &rcgen::PKCS_ED25519)),
    ];
    assert_eq!(cases.len(), 12);
    all_are_let_in(&world, &bench, cases).await;
}

/// More than a handshake's message may hold, or nothing where a certificate should be: TLS itself refuses.
#[tokio::test]
async fn a_chain_that_does_not_fit_its_message_ends_the_handshake() {
    let world = World::new().await;
    let bench = Bench::new(&world);
    let proxy = world.start(CONFIGURATION);
    let sound = bench.issued(|_| {});
    let many = vec![sound.chain[0].clone(); 200];
    let huge = bench.forged(|open| open.add(&extension::UNKNOWN, false, &vec![0; 70_000]));
    let nothing = bench.issued(|_| {}).with_leaf(Vec::new());
    let mut refused = 0;
    for (what, shown, reason) in [
        ("200 certificates", sound.then(many), "request_malformed"),
        ("70,000 bytes", huge, "request_malformed"),
        ("nothing", nothing, "peer_malformed"),
    ] {
        for (listener, version, protocol) in ways() {
            let outcome = asked(&proxy, listener, shown.client(&world, version, protocol)).await;
            assert!(outcome.is_err(), "{what} ({listener}, {:?}, {protocol:?})", version.version);
            refused += 1;
        }
        for record in last(&proxy, refused, ways().count()).await {
            assert_eq!(record["reason"], reason, "{what}");
        }
    }
    assert_eq!((refused, world.upstream.counts().requests), (3 * 8, 0));
}
