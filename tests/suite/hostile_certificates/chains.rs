//! Who vouches for a certificate: a CA of its own trust domain, now, by a sound chain, or nobody.

use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, Validity};
use rcgen::{CidrSubnet, GeneralSubtree, KeyPair, NameConstraints};

use super::{
    Bench, Case, EXPIRED, FOREIGN, MALFORMED, REVOKED, Shown, UNSIGNED, UNTRUSTED, all_are_let_in,
    all_are_refused, case,
};
use crate::world::World;
use crate::world::certificates::{PARTNER_DOMAIN, Who, spiffe_id};
use crate::world::forge::{Der, Open, SEQUENCE, der, extension, forged};

const HOUR: Duration = Duration::from_secs(3600);
const NOBODY: &str = "no configured CA issued it";

/// Who signed, and when.
fn issuers(bench: &Bench<'_>) -> Vec<Case> {
    let Validity { from, to } = bench.certificates.validity;
    let past = Validity { from: from.minus(HOUR), to: from };
    let future = Validity { from: to, to: to.plus(HOUR) };
    let of = |who| Shown::from(&bench.certificates.client(who).unwrap());
    let partner_id = spiffe_id(PARTNER_DOMAIN, "storefront");
    let else_id = spiffe_id("else.example", "storefront");
    let (shop, partner, stranger) =
        (&bench.certificates.shop, &bench.certificates.partner, &bench.certificates.stranger);
    let named = |ca: &Authority, id: &str| bench.issued_by(ca, |spec| spec.uris = vec![id.to_owned()]);
    let stolen = Shown { key: of(Who::Storefront).key, ..of(Who::Storefront) };
    let mut weak = bench.issued(|_| {});
    let last = weak.chain[0].len() - 1;
    weak.chain[0][last] ^= 1;
    vec![
        case("self-signed", of(Who::SelfSigned), UNTRUSTED, NOBODY),
        case("a CA that nobody configured", of(Who::UntrustedCa), UNTRUSTED, NOBODY),
        case("a CA of the same name", of(Who::CaOfTheSameName), UNTRUSTED, NOBODY),
        case(
            "a stranger's, and expired: who issued it comes first",
            bench.issued_by(stranger, |spec| spec.validity = past),
            UNTRUSTED,
            NOBODY,
        ),
        case("a stranger's own trust domain", named(stranger, &else_id), UNTRUSTED, NOBODY)
            .claims(Some(&else_id)),
        case("a signature with a bit turned", weak, UNTRUSTED, NOBODY),
        case("another's key", stolen, UNSIGNED, "was not signed with its key"),
        case("expired", bench.issued(|spec| spec.validity = past), EXPIRED, "expired at"),
        case("not yet valid", bench.issued(|spec| spec.validity = future), EXPIRED, "not valid before"),
        case(
            "the shop's CA for the partner's workload",
            named(shop, &partner_id),
            FOREIGN,
            "a CA of `shop.example`",
        )
        .claims(Some(&partner_id)),
        case(
            "the partner's CA for the shop's workload",
            bench.issued_by(partner, |_| {}),
            FOREIGN,
            "a CA of `partner.example`",
        ),
        case(
            "a trust domain that nobody configured",
            named(shop, &else_id),
            FOREIGN,
            "claims trust domain `else.example`",
        )
        .claims(Some(&else_id)),
        case(
            "the partner's workload, and expired: the time comes first",
            bench.issued(|spec| (spec.validity, spec.uris) = (past, vec![partner_id.clone()])),
            EXPIRED,
            "expired at",
        )
        .claims(Some(&partner_id)),
        case("revoked", of(Who::Revoked), REVOKED, "a revocation list has it"),
    ]
}

/// Signatures by algorithms that are not accepted, by their names alone: none is computed here.
fn algorithms(bench: &Bench<'_>) -> Vec<Case> {
    let null = [Der::new(0x05, &[])];
    let rsa = |last: u8| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last];
    let pretended = |what, oid: &[u8], parameters: &[Der]| {
        case(what, bench.forged(|open| open.pretend(oid, parameters)), UNTRUSTED, "is not accepted")
    };
    vec![
        pretended("ECDSA with SHA-1", &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], &[]),
        pretended("ECDSA with SHA-224", &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x01], &[]),
        pretended("RSA with MD2", &rsa(2), &null),
        pretended("RSA with MD5", &rsa(4), &null),
        pretended("RSA with SHA-1", &rsa(5), &null),
        pretended("DSA with SHA-1", &[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03], &[]),
        pretended("an algorithm of nobody", &extension::UNKNOWN, &[]),
        case(
            "one algorithm inside, another outside",
            bench
                .forged(|open| open.algorithm = Der::of(SEQUENCE, vec![Der::oid(&rsa(11)), null[0].clone()])),
            UNTRUSTED,
            "is not accepted",
        ),
    ]
}

/// What stands between the leaf and the root.
fn below(bench: &Bench<'_>) -> Vec<Case> {
    let Validity { from, .. } = bench.certificates.validity;
    let past = Validity { from: from.minus(HOUR), to: from };
    let mut cases = Vec::new();
    let mut under = |what, ca: &Authority, reason, says| {
        cases.push(case(
            what,
            bench.issued_by(ca, |spec| spec.dns = vec!["web.shop.example".into()]),
            reason,
            says,
        ));
    };

    let closed = bench.below(&CaSpec { path_length: Some(0), ..bench.ca_spec("closed") });
    let too_deep = closed.intermediate(&bench.ca_spec("too deep")).unwrap();
    under("a CA below one that allows none", &too_deep, UNTRUSTED, "longer than a CA in it allows");
    let gone = bench.below(&CaSpec { validity: past, ..bench.ca_spec("gone") });
    under("a CA that has expired", &gone, EXPIRED, "expired at");
    let unlisted = bench.certificates.shop.intermediate(&bench.ca_spec("unlisted")).unwrap();
    under("a CA without a revocation list", &unlisted, REVOKED, "has no revocation list");
    let revoked = bench.below(&CaSpec { serial: 66, ..bench.ca_spec("revoked") });
    under("a CA that is revoked", &revoked, REVOKED, "or a CA of its chain");

    let dns = |name: &str| GeneralSubtree::DnsName(name.into());
    let net = GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0]));
    for (what, permitted, excluded) in [
        ("names that are not permitted", vec![dns("bank.example")], vec![]),
        ("names that are excluded", vec![], vec![dns("shop.example")]),
        ("names of another kind are permitted alone", vec![dns("other.example"), net], vec![]),
    ] {
        let constraints = NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded };
        let ca = bench.below(&CaSpec { name_constraints: Some(constraints), ..bench.ca_spec(what) });
        under(what, &ca, UNTRUSTED, "name constraints that it violates");
    }
    cases
}

/// Chains whose links are forged.
fn links(bench: &Bench<'_>) -> Vec<Case> {
    let ca = bench.below(&bench.ca_spec("link"));
    let shown = || bench.issued_by(&ca, |_| {});
    let shop_key = &bench.certificates.shop_key;
    // permittedSubtrees [0] or excludedSubtrees [1] with one URI (RFC 5280 §4.2.1.10)
    let uri = |tag: u8, host: &[u8]| {
        let subtree = Der::of(SEQUENCE, vec![Der::new(0x86, host)]);
        Der::of(SEQUENCE, vec![Der::of(tag, vec![subtree])]).encode()
    };
    let constrained = |tag, host| {
        let mut shown = shown();
        let add = |open: &mut Open| open.add(&extension::NAME_CONSTRAINTS, true, &uri(tag, host));
        shown.chain[1] = forged(&shown.chain[1], shop_key, add);
        shown
    };
    let mut without = shown();
    without.chain.truncate(1);
    let mut unsigned = shown();
    unsigned.chain[1] = forged(&unsigned.chain[1], &KeyPair::generate().unwrap(), |_| {});
    let mut no_ca = shown();
    no_ca.chain[1] = forged(&no_ca.chain[1], shop_key, |open| open.remove(&extension::BASIC_CONSTRAINTS));
    let mut not_signing = shown();
    // digitalSignature and cRLSign
    let usage = |open: &mut Open| open.replace(&extension::KEY_USAGE, &[3, 2, 1, 0x82]);
    not_signing.chain[1] = forged(&not_signing.chain[1], shop_key, usage);
    let mut critical = shown();
    critical.chain[1] =
        forged(&critical.chain[1], shop_key, |open| open.add(&extension::UNKNOWN, true, b"x"));
    let mut garbage = shown();
    garbage.chain[1] = b"garbage".to_vec();

    let mut by_leaf = shown();
    by_leaf.chain[1] = forged(&by_leaf.chain[1], shop_key, |open| {
        open.remove(&extension::BASIC_CONSTRAINTS);
        open.replace(&extension::KEY_USAGE, &[3, 2, 7, 0x80]);
        let id = Der::new(0x86, spiffe_id("shop.example", "link").as_bytes());
        open.add(&extension::SAN, false, &Der::of(SEQUENCE, vec![id]).encode());
    });

    let constraint = "constrains URIs, which is not supported";
    vec![
        case("URIs of another host are permitted", constrained(0xa0, b"bank.example"), UNTRUSTED, constraint),
        case("its own URIs are excluded", constrained(0xa1, b"shop.example"), UNTRUSTED, constraint),
        case("its own URIs are permitted", constrained(0xa0, b"shop.example"), UNTRUSTED, constraint),
        case("the CA in between left out", without, UNTRUSTED, NOBODY),
        case("a CA in between that the root did not sign", unsigned, UNTRUSTED, NOBODY),
        case("one in between that is no CA", no_ca, UNTRUSTED, "does not verify"),
        case("a CA that may not sign certificates", not_signing, UNTRUSTED, "does not verify"),
        case(
            "a CA with an unknown critical extension",
            critical,
            MALFORMED,
            "a critical extension that is not known",
        ),
        case("garbage in between", garbage, MALFORMED, "no DER-encoded"),
        case("issued by a leaf", by_leaf, UNTRUSTED, "does not verify"),
    ]
}

/// Chains that lead nowhere in as many ways as possible.
fn mazes(bench: &Bench<'_>) -> Vec<Case> {
    let spec = bench.ca_spec("maze");
    let mut walls = Vec::new();
    for _ in 0..100 {
        walls.push(Authority::root(&spec).unwrap());
    }
    let maze = |turns: usize| {
        let along = walls[..turns].iter().map(|ca| der(&ca.pem()));
        bench.issued_by(&walls[0], |_| {}).then(along)
    };
    // Two CAs that vouch for each other, and for nobody else.
    let (one, two) = (&walls[0], Authority::root(&bench.ca_spec("other")).unwrap());
    let by = |ca: &Authority, spec| der(&ca.intermediate(spec).unwrap().pem());
    let circle = [by(one, &bench.ca_spec("other")), by(&two, &spec), der(&two.pem()), der(&one.pem())];
    let superfluous =
        |count: usize| bench.issued(|_| {}).then(walls[..count].iter().map(|ca| der(&ca.pem())));
    let endless = "too many certificates";
    vec![
        case("five of one name", maze(5), UNTRUSTED, NOBODY),
        case("six of one name", maze(6), UNTRUSTED, endless),
        case("a hundred of one name", maze(100), UNTRUSTED, endless),
        case("a circle", bench.issued_by(one, |_| {}).then(circle), UNTRUSTED, NOBODY),
        case("a sound one and six that nobody needs", superfluous(6), UNTRUSTED, endless),
        case("a sound one and a hundred that nobody needs", superfluous(100), UNTRUSTED, endless),
    ]
}

#[tokio::test]
async fn only_a_ca_of_its_own_trust_domain_vouches_by_a_sound_chain() {
    let world = World::new().await;
    let bench = Bench::new(&world);
    let cases = [issuers(&bench), algorithms(&bench), below(&bench), links(&bench), mazes(&bench)];
    let cases: Vec<_> = cases.into_iter().flatten().collect();
    assert_eq!(cases.len(), 45);
    all_are_refused(&world, &bench, cases).await;
}

#[tokio::test]
async fn what_is_sent_along_neither_helps_nor_harms() {
    let world = World::new().await;
    let bench = Bench::new(&world);
    let root_of = |ca: &Authority| der(&ca.pem());
    let superfluous =
        |count: usize| (0..count).map(|_| root_of(&Authority::root(&bench.ca_spec("x")).unwrap()));
    let sound = || bench.issued(|_| {});
    let by = bench.issued_by(&bench.below(&bench.ca_spec("below")), |_| {});
    // A CA for which a stranger vouches, too: its certificate under another name, signed by another key.
    let mut crossed = bench.issued_by(&bench.below(&bench.ca_spec("crossed")), |_| {});
    let stranger = KeyPair::generate().unwrap();
    let also = forged(&crossed.chain[1], &stranger, |_| {});
    crossed.chain.insert(1, also);
    let own = sound().chain;
    let cases = vec![
        ("a CA in between", by),
        ("a CA in between that a stranger signed, too", crossed),
        ("a stranger's root", sound().then([root_of(&bench.certificates.stranger)])),
        ("its own root", sound().then([root_of(&bench.certificates.shop)])),
        ("five roots of nobody", sound().then(superfluous(5))),
        ("another leaf", sound().then(own)),
        ("garbage that nobody needs", sound().then([b"garbage".to_vec()])),
    ];
    assert_eq!(cases.len(), 7);
    all_are_let_in(&world, &bench, cases).await;
}
