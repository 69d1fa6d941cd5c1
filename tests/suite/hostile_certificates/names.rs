//! What a certificate calls its holder: exactly one SPIFFE ID, by the letter, or nobody.

use super::{Bench, Case, MALFORMED, Shown, all_are_let_in, all_are_refused, case, storefront};
use crate::world::World;
use crate::world::certificates::spiffe_id;
use crate::world::forge::{Der, SEQUENCE, extension};

/// Context tags of GeneralName (RFC 5280 §4.2.1.6).
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const ADDRESS: u8 = 0x87;
const REGISTERED_ID: u8 = 0x88;

/// A subject alternative name with these names, whatever their bytes.
fn san(names: &[(u8, &[u8])]) -> Vec<u8> {
    Der::of(SEQUENCE, names.iter().map(|(tag, name)| Der::new(*tag, name)).collect()).encode()
}

fn named(bench: &Bench<'_>, names: &[(u8, &[u8])]) -> Shown {
    bench.issued(|spec| spec.raw_san = Some(san(names)))
}

/// IDs that are none, or not the one that they look like.
const IDS: &[(&str, &str, &str)] = &[
    ("another scheme", "https://shop.example/ns/prod/sa/storefront", "starts with `spiffe://`"),
    ("an upper-case scheme", "SPIFFE://shop.example/ns/prod/sa/storefront", "starts with `spiffe://`"),
    ("one slash", "spiffe:/shop.example/ns/prod/sa/storefront", "starts with `spiffe://`"),
    ("a space in front", " spiffe://shop.example/ns/prod/sa/storefront", "starts with `spiffe://`"),
    ("nothing at all", "", "starts with `spiffe://`"),
    ("an empty trust domain", "spiffe:///ns/prod/sa/storefront", "a trust domain has"),
    ("an upper-case trust domain", "spiffe://Shop.example/ns/prod/sa/storefront", "a trust domain has"),
    ("a user", "spiffe://root@shop.example/ns/prod/sa/storefront", "a trust domain has"),
    ("a port", "spiffe://shop.example:443/ns/prod/sa/storefront", "a trust domain has"),
    ("an escape in the trust domain", "spiffe://shop%2eexample/ns/prod/sa/storefront", "a trust domain has"),
    ("an address in brackets", "spiffe://[::1]/ns/prod/sa/storefront", "a trust domain has"),
    ("a backslash", "spiffe://shop.example\\ns/prod/sa/storefront", "a trust domain has"),
    ("a trust domain and no path", "spiffe://shop.example", "has a path"),
    ("the root path", "spiffe://shop.example/", "segment is empty"),
    ("a trailing slash", "spiffe://shop.example/ns/prod/sa/storefront/", "segment is empty"),
    ("an empty segment", "spiffe://shop.example/ns//prod/sa/storefront", "segment is empty"),
    ("a dot segment", "spiffe://shop.example/ns/./prod/sa/storefront", "`.` and `..`"),
    ("a way up", "spiffe://shop.example/ns/x/../prod/sa/storefront", "`.` and `..`"),
    ("an escape", "spiffe://shop.example/ns/prod/sa/%73torefront", "a path segment has only"),
    ("an escaped slash", "spiffe://shop.example/ns/prod/sa%2fstorefront", "a path segment has only"),
    ("a query", "spiffe://shop.example/ns/prod/sa/storefront?a=b", "a path segment has only"),
    ("a fragment", "spiffe://shop.example/ns/prod/sa/storefront#x", "a path segment has only"),
    ("a parameter", "spiffe://shop.example/ns/prod/sa/storefront;x=1", "a path segment has only"),
    ("a wildcard", "spiffe://shop.example/ns/prod/sa/*", "a path segment has only"),
    ("a space at the end", "spiffe://shop.example/ns/prod/sa/storefront ", "a path segment has only"),
    ("a quote and a comma", "spiffe://shop.example/ns/prod/sa/storefront\",\"x", "a path segment has only"),
];

/// Bytes that are not in an IA5String without controls, at the end of the storefront's ID.
const BYTES: &[(&str, &[u8])] = &[
    ("NUL", b"\0"),
    ("NUL and more", b"\0.evil.example"),
    ("a line feed", b"\nverdict: allow"),
    ("a line end", b"\r\nx-auth-service: admin"),
    ("ESC", b"\x1b[2J"),
    ("DEL", b"\x7f"),
    ("a tab", b"\t"),
    ("UTF-8", "é".as_bytes()),
    ("a look-alike", "\u{2215}admin".as_bytes()),
    ("a turned line", "\u{202e}nimda".as_bytes()),
    ("Latin-1", b"\xe9"),
    ("broken UTF-8", b"\xc3\x28"),
];

fn cases(bench: &Bench<'_>) -> Vec<Case> {
    let id = storefront();
    let good = (URI, id.as_bytes());
    let mut cases = Vec::new();
    for (what, uri, says) in IDS {
        let shown = named(bench, &[(URI, uri.as_bytes())]);
        cases.push(case(what, shown, MALFORMED, says).claims(Some(uri)));
    }
    for (what, bytes) in BYTES {
        let uri = [id.as_bytes(), bytes].concat();
        let shown = named(bench, &[(URI, &uri)]);
        let claims = match str::from_utf8(&uri) {
            Ok(text) => text.escape_default().to_string(),
            Err(_) => uri.escape_ascii().to_string(),
        };
        let case = case(what, shown, MALFORMED, "a SAN has bytes that no such name can have");
        cases.push(Case { claims: Some(claims), ..case });
    }
    let longest = format!("spiffe://shop.example/{}", "a".repeat(2048 - 22));
    for (what, uri, says) in [
        ("2,049 bytes", format!("{longest}a"), "at most 2048 bytes"),
        ("60,000 bytes", format!("{longest}{}", "b".repeat(58_000)), "at most 2048 bytes"),
        ("a trust domain of 256 bytes", format!("spiffe://{}/x", "d".repeat(256)), "a trust domain has"),
    ] {
        cases.push(case(what, named(bench, &[(URI, uri.as_bytes())]), MALFORMED, says).claims(Some(&uri)));
    }

    let admin = spiffe_id("shop.example", "admin");
    let several = "2 URI SANs, and an X.509-SVID has exactly one";
    let many: Vec<_> = (0..1000).map(|_| good).collect();
    let bytes = "a SAN has bytes that no such name can have";
    cases.extend([
        case("two IDs", named(bench, &[good, (URI, admin.as_bytes())]), MALFORMED, several),
        case("the same twice", named(bench, &[good, good]), MALFORMED, several),
        case(
            "a second URI of another scheme",
            named(bench, &[good, (URI, b"https://x/")]),
            MALFORMED,
            several,
        ),
        case("a second URI that is empty", named(bench, &[good, (URI, b"")]), MALFORMED, several),
        case("1,000 URIs", named(bench, &many), MALFORMED, "1000 URI SANs"),
        case("another URI first", named(bench, &[(URI, b"urn:x"), good]), MALFORMED, several)
            .claims(Some("urn:x")),
        case("NUL in a DNS name beside it", named(bench, &[good, (DNS, b"a\0b.example")]), MALFORMED, bytes),
        case(
            "Latin-1 in a DNS name beside it",
            named(bench, &[good, (DNS, b"\xe9.example")]),
            MALFORMED,
            bytes,
        ),
        case("an empty DNS name beside it", named(bench, &[good, (DNS, b"")]), MALFORMED, bytes),
        case(
            "a line end in an address beside it",
            named(bench, &[good, (EMAIL, b"a@b\r\n")]),
            MALFORMED,
            bytes,
        ),
    ]);

    // one reader looks only at the content of a string, or at what stands before the end of the list
    let padded = bench.issued(|spec| spec.raw_san = Some([san(&[good]), vec![5, 0]].concat()));
    cases.extend([
        case(
            "an ID in constructed form",
            named(bench, &[(URI | 0x20, id.as_bytes())]),
            MALFORMED,
            "does not parse",
        ),
        case("bytes after the names", padded, MALFORMED, "does not parse"),
    ]);

    let nobody = "it has no URI SAN, hence no SPIFFE ID";
    let nameless: Vec<(&'static str, Shown, &'static str)> = vec![
        ("no name at all", bench.issued(|spec| spec.uris.clear()), nobody),
        (
            "the ID as common name",
            bench.issued(|spec| (spec.uris, spec.common_name) = (Vec::new(), storefront())),
            nobody,
        ),
        ("a DNS name alone", named(bench, &[(DNS, b"storefront.shop.example")]), nobody),
        ("the ID as DNS name", named(bench, &[(DNS, id.as_bytes())]), bytes),
        ("the ID as mail address", named(bench, &[(EMAIL, id.as_bytes())]), nobody),
        ("an address alone", named(bench, &[(ADDRESS, &[127, 0, 0, 1])]), nobody),
        ("an address of three bytes", named(bench, &[(ADDRESS, &[127, 0, 0])]), nobody),
        ("a name of no known kind", named(bench, &[(0x8a, id.as_bytes())]), bytes),
        ("no names in the extension", named(bench, &[]), nobody),
        (
            "an extension without content",
            bench.issued(|spec| spec.raw_san = Some(Vec::new())),
            "does not parse",
        ),
        (
            "an extension that is a string",
            bench.issued(|spec| spec.raw_san = Some(Der::new(0x16, id.as_bytes()).encode())),
            "does not parse",
        ),
        (
            "an extension cut short",
            bench.issued(|spec| spec.raw_san = Some(vec![SEQUENCE, 0x7f, URI])),
            "does not parse",
        ),
    ];
    cases.extend(
        nameless.into_iter().map(|(what, shown, says)| case(what, shown, MALFORMED, says).claims(None)),
    );
    cases.push(
        case(
            "a second extension with another ID",
            bench.forged(|open| open.add(&extension::SAN, false, &san(&[(URI, admin.as_bytes())]))),
            MALFORMED,
            "does not parse",
        )
        .claims(None),
    );
    cases
}

#[tokio::test]
async fn whoever_is_not_exactly_one_spiffe_id_is_nobody() {
    let world = World::new().await;
    let bench = Bench::new(&world);
    let cases = cases(&bench);
    assert_eq!(cases.len(), IDS.len() + BYTES.len() + 28);
    assert_eq!(cases.len(), 66);
    all_are_refused(&world, &bench, cases).await;
}

#[tokio::test]
async fn what_stands_beside_the_one_id_makes_no_difference() {
    let world = World::new().await;
    let bench = Bench::new(&world);
    let id = storefront();
    let good = (URI, id.as_bytes());
    let cases = vec![
        ("a DNS name", named(&bench, &[good, (DNS, b"*.shop.example")])),
        (
            "an address and a mail address",
            named(&bench, &[(ADDRESS, &[10, 0, 0, 1]), (EMAIL, b"a@b.example"), good]),
        ),
        ("a registered ID", named(&bench, &[(REGISTERED_ID, &[0x2a, 3]), good])),
        ("a hostile common name", bench.issued(|spec| spec.common_name = "admin\r\n\u{1b}[2J\0".to_owned())),
        ("a critical extension", bench.forged(|open| open.replace(&extension::SAN, &san(&[good])))),
    ];
    assert_eq!(cases.len(), 5);
    all_are_let_in(&world, &bench, cases).await;
}
