//! What somebody else makes of such a request's credentials: each is refused where it should be, with a reason of its
//! own, and the last service is never asked.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Chain, PATH, PAYMENTS_HOST, Tokens};
use crate::provider::Provider;
use crate::world::World;
use crate::world::certificates::TRUST_DOMAIN;
use crate::world::client::{Answer, Protocol};
use crate::world::proxy::Proxy;
use crate::world::seen::Seen;
use crate::world::signing::forged;

#[tokio::test]
async fn whatever_else_is_made_of_it_is_refused_with_a_reason_of_its_own() {
    let world = World::new().await;
    is_refused(&world, &Tokens::of(&world)).await;
}

#[tokio::test]
#[ignore = "needs node and `npm ci` in tests/idp; tests/run runs it"]
async fn a_person_s_token_of_a_real_provider_is_worth_nothing_elsewhere() {
    let world = World::new().await;
    let provider = Provider::start().await;
    is_refused(&world, &Tokens::from(&provider).await).await;
}

/// The assertion with which the orders service's Countersign goes to its archive, by either route.
async fn outward(chain: &Chain<'_>, host: &str) -> String {
    let given = chain.application.assertion();
    let answer = chain.from_the_application(host, &[("x-auth-assertion", &given)]).await;
    let seen: Seen = serde_json::from_slice(&answer.body).unwrap();
    let [assertion] = seen.header("x-auth-assertion")[..] else { panic!("{answer:?}") };
    assertion.to_owned()
}

async fn is_refused(world: &World, tokens: &Tokens) {
    let chain = world.three(tokens, "payments").await;
    assert_eq!(chain.ask(&tokens.alice, PATH, Protocol::H2).await.status, 200);
    let given = chain.application.assertion();
    let for_archive = outward(&chain, "archive.shop.example").await;
    let for_payments = outward(&chain, "copy.shop.example").await;
    assert_eq!(chain.archive.counts().requests, 2);
    let orders = chain.certificate_of_orders();
    let issue =
        |name: &str| world.certificates.shop.issue(&world.certificates.workload(TRUST_DOMAIN, name)).unwrap();
    let (reports, namesake) = (issue("reports"), issue("orders"));
    let [alice, bob] = [&tokens.alice, &tokens.bob].map(|token| format!("Bearer {token}"));
    let rewritten = {
        let [head, claims, signature] = for_payments.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let [_, others, _] = for_archive.split('.').collect::<Vec<_>>()[..] else { panic!() };
        assert_ne!(claims, others);
        format!("{head}.{others}.{signature}")
    };
    let assertion = |value: &str| vec![("x-auth-assertion", value.to_owned())];
    let both = |value: &str, token: &str| {
        vec![("x-auth-assertion", value.to_owned()), ("authorization", token.to_owned())]
    };

    // Whose connection it comes over, what it brings, and what the last one says.
    let cases = [
        (
            "a token, stolen",
            &reports,
            vec![("authorization", alice.clone())],
            403,
            "token_not_issued_to_service",
        ),
        ("an assertion, stolen", &reports, assertion(&for_payments), 401, "token_missing"),
        ("by a namesake", &namesake, assertion(&for_payments), 401, "token_not_sender_constrained"),
        ("tampered with", &orders, assertion(&rewritten), 401, "token_bad_signature"),
        ("for another audience", &orders, assertion(&for_archive), 401, "token_wrong_audience"),
        (
            "as a token",
            &orders,
            vec![("authorization", format!("Bearer {for_payments}"))],
            401,
            "token_type_refused",
        ),
        ("beside another person's token", &orders, both(&for_payments, &bob), 401, "token_malformed"),
    ];
    let before = world.upstream.counts().requests;
    let mut reasons = BTreeSet::new();
    for (what, own, fields, status, reason) in cases {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = chain.past_the_sidecar(own, &fields).await;
        assert_is(what, &chain.payments, &answer, status, reason).await;
        assert_eq!(world.upstream.counts().requests, before, "{what}");
        reasons.insert(reason);
    }
    assert_eq!(reasons.len(), 7, "each has its own");
    // In the hands that it was made for, and with the person's own token beside it, it is good.
    let fields = both(&for_payments, &alice);
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(chain.past_the_sidecar(&orders, &fields).await.status, 200);
    assert_eq!(world.upstream.counts().requests, before + 1);

    // Only a hop sends over one connection what is for another host.
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, *value)).collect();
    assert_eq!(chain.by_its_address(&orders, &fields).await.status, 200);
    let answer = chain.by_its_address(&reports, &fields).await;
    assert_is("made for another host", &chain.payments, &answer, 421, "misdirected").await;
    assert_eq!(world.upstream.counts().requests, before + 2);

    // What the orders service itself may try: its own Countersign lets nothing out.
    let came = chain.payments.records(11).await.len();
    let cases = [
        ("nothing", vec![], 401, "token_missing"),
        ("tampered with", assertion(&forged(&given)), 401, "token_bad_signature"),
        ("one of its Countersign's for others", assertion(&for_archive), 401, "token_wrong_audience"),
        ("beside another person's token", both(&given, &bob), 401, "token_malformed"),
    ];
    for (what, fields, status, reason) in &cases {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = chain.from_the_application(PAYMENTS_HOST, &fields).await;
        assert_is(what, &chain.orders, &answer, *status, reason).await;
    }
    assert_eq!(cases.len(), 4);
    assert_eq!(world.upstream.counts().requests, before + 2);
    assert_eq!(chain.payments.records(11).await.len(), came, "nothing left");

    // Another person's orders: the first two let it pass, the last one does not.
    let answer = chain.ask(&tokens.alice, "/customers/bob/7", Protocol::H1).await;
    assert_is("another person's", &chain.payments, &answer, 403, "claim_mismatch").await;
    assert_eq!(world.upstream.counts().requests, before + 2);
}

async fn assert_is(what: &str, proxy: &Proxy<'_>, answer: &Answer, status: u16, reason: &str) {
    let record = proxy.record_of(answer).await;
    assert_eq!(
        (answer.status.as_u16(), &record["verdict"], &record["reason"]),
        (status, &json!("deny"), &json!(reason)),
        "{what}: {record}"
    );
}

/// Whoever stands at the last one's address is told nothing, if it is another.
#[tokio::test]
async fn a_wrong_certificate_at_the_last_one_ends_the_way_before_it() {
    for (shown, status, reason) in
        [("ledger", 502, "upstream_identity_mismatch"), ("payments", 200, "allowed")]
    {
        let world = World::new().await;
        let tokens = Tokens::of(&world);
        let chain = world.three(&tokens, shown).await;
        let answer = chain.ask(&tokens.alice, PATH, Protocol::H1).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let sent = |it: &&Value| it["connection"]["listener"] == "egress";
        let record = chain.orders.records.until(|all| all.iter().find(sent).cloned()).await;
        assert_eq!(record["reason"], reason, "{record}");
        let is_told = record["detail"].as_str().is_some_and(|detail| detail.contains("sa/ledger"));
        assert_eq!(is_told, status == 502, "{record}");
        assert_eq!(world.upstream.counts().requests, u64::from(status == 200));
        let came = usize::from(status == 200);
        assert_eq!(chain.payments.records(came).await.len(), came);
    }
}
