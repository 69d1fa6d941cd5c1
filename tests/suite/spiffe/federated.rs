//! Federated trust domains: believed where the configuration names them, and each by its own bundle alone.

use countersign::cli::mint::Authority;
use countersign::clock::Clock;
use rustls::AlertDescription;
use serde_json::{Value, json};

use super::{READ, ca, client_of, good, identity, readiness, rotated, signed, world};
use crate::world::certificates::{PARTNER_DOMAIN, TRUST_DOMAIN, Who, spiffe_id};
use crate::world::client::{Client, Protocol, alert_after};
use crate::world::proxy::HOST;
use crate::world::workload_api::{WorkloadApi, bundle, svid};

#[tokio::test]
async fn a_federated_trust_domain_is_believed_where_the_configuration_names_it() {
    let world = world(Clock::system()).await;
    let api = WorkloadApi::start(&world.workload_socket());
    let certificates = &world.certificates;
    let (own, mut response) = good(&world);
    for (domain, ca) in
        [(PARTNER_DOMAIN, &certificates.partner), ("stranger.example", &certificates.stranger)]
    {
        response.federated_bundles.insert(format!("spiffe://{domain}"), bundle(&[ca]));
    }
    api.gives(response.clone());
    let proxy = world.start(READ);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    let partner = proxy.client(Who::Partner, Protocol::H1).await;
    assert_eq!(partner.ask(signed(&world)).await.unwrap().status, 200);

    let workload = |domain: &str| certificates.workload(domain, "storefront");
    let address = proxy.address("mesh");
    let mut seen = 0;
    for (issuer, domain, reason) in [
        (&certificates.stranger, "stranger.example", "peer_untrusted"),
        (&certificates.shop, PARTNER_DOMAIN, "peer_wrong_trust_domain"),
        (&certificates.partner, TRUST_DOMAIN, "peer_wrong_trust_domain"),
        (&certificates.stranger, TRUST_DOMAIN, "peer_untrusted"),
    ] {
        let config = client_of(&issuer.issue(&workload(domain)).unwrap(), &[&certificates.shop]);
        assert!(alert_after(address, HOST, config, Protocol::H1).await.is_some(), "{domain}");
        seen += 1;
        // Others look at our certificate and go.
        let refused = |records: &[Value]| {
            let is_one = |it: &&Value| it["event"] == "handshake" && it["reason"] != "client_gone";
            records.iter().filter(is_one).nth(seen - 1).cloned()
        };
        assert_eq!(proxy.records.until(refused).await["reason"], reason, "{domain}");
    }
    assert_eq!(seen, 4);
    assert_eq!(world.upstream.counts().requests, 1);

    // What is federated no longer is believed no longer.
    response.federated_bundles.clear();
    let own = world.certificates.server("orders");
    response.svids = world.svid_response(&own, &[&certificates.shop]).svids;
    api.gives(response);
    rotated(&proxy, &own).await;
    let answer = partner.ask(signed(&world)).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (403, &json!("peer_untrusted")));
}

#[tokio::test]
async fn who_is_federated_spoils_nobody_but_himself() {
    let mut world = world(Clock::system()).await;
    world.identity.as_mut().unwrap().push_str("[trust_domain.\"third.example\"]\n");
    let api = WorkloadApi::start(&world.workload_socket());
    let certificates = &world.certificates;
    let (shop, partner) = (&certificates.shop, &certificates.partner);
    let third = ca(&world, "the third's CA");
    let gives = |of_partner: Option<Vec<u8>>, of_third: Vec<u8>| {
        let (own, mut response) = good(&world);
        let bundles = &mut response.federated_bundles;
        of_partner.map(|given| bundles.insert(format!("spiffe://{PARTNER_DOMAIN}"), given));
        bundles.insert("third.example".to_owned(), of_third);
        // Whom nobody configured, nobody asks.
        bundles.insert("spiffe://stranger.example".to_owned(), Vec::new());
        bundles.insert("spiffe://UPPER".to_owned(), bundle(&[&certificates.stranger]));
        response.crl.push(b"no list".to_vec());
        api.gives(response);
        own
    };
    let own = gives(Some(bundle(&[partner])), bundle(&[&third]));
    let proxy = world.start(READ);
    readiness(&proxy, 200, "[]").await;
    rotated(&proxy, &own).await;
    let of_partner = |cas: &[&Authority]| {
        let leaf = partner.issue(&certificates.workload(PARTNER_DOMAIN, "storefront")).unwrap();
        client_of(&leaf, cas)
    };
    let address = proxy.address("mesh");

    let leaf = svid("", &certificates.server("orders"), &[]).x509_svid;
    let cut = bundle(&[partner])[..50].to_vec();
    let without = |failure: &str| json!([{ "name": PARTNER_DOMAIN, "failure": failure }]);
    let gives_bad = |what: &str| without(&format!("the source of service identity gives {what}"));
    let shared = |name: &str, with: &str| {
        let why = format!(
            "a CA key of it stands in trust domain `{with}` too, and a CA speaks for one trust domain only"
        );
        json!({ "name": name, "failure": why })
    };
    let of_third = || bundle(&[&third]);
    let cases = [
        (None, of_third(), gives_bad("none")),
        (Some(Vec::new()), of_third(), gives_bad("no CA at all")),
        (Some(cut), of_third(), gives_bad("certificates that are no DER")),
        (
            Some([bundle(&[partner]), leaf].concat()),
            of_third(),
            gives_bad("a certificate that is not a CA's"),
        ),
        (Some(bundle(&[partner, shop])), of_third(), json!([shared(PARTNER_DOMAIN, TRUST_DOMAIN)])),
        // Whose it is, we cannot know.
        (
            Some(bundle(&[partner])),
            bundle(&[&third, partner]),
            json!([shared(PARTNER_DOMAIN, "third.example"), shared("third.example", PARTNER_DOMAIN)]),
        ),
    ];
    let mut seen = 0;
    for (of_partner_now, of_third_now, without) in cases {
        let own = gives(of_partner_now, of_third_now);
        rotated(&proxy, &own).await;
        let told = identity(&proxy, |it| it["trust_domains_without_ca"] == without).await;
        assert_eq!((&told["failure"], &told["mismatch"]), (&Value::Null, &Value::Null), "{without}");
        let refused = alert_after(address, HOST, of_partner(&[shop]), Protocol::H1).await;
        assert_eq!(refused, Some(AlertDescription::UnknownCA), "{without}");
        let storefront = proxy.client(Who::Storefront, Protocol::H2).await;
        assert_eq!(storefront.ask(signed(&world)).await.unwrap().status, 200, "{without}");
        assert_eq!(proxy.admin("/readyz").await.status, 200, "{without}");
        // Nor does it keep another configuration out.
        proxy.server.reload(world.load()).unwrap();

        let own = gives(Some(bundle(&[partner])), bundle(&[&third]));
        rotated(&proxy, &own).await;
        let client = Client::tls(address, HOST, of_partner(&[shop]), Protocol::H1).await.unwrap();
        assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200, "{without}");
        identity(&proxy, |it| it["trust_domains_without_ca"] == json!([])).await;
        seen += 1;
    }
    assert_eq!(seen, 6);
    assert!(proxy.metrics().await.contains("countersign_identity_failures_total 0"));
}

#[tokio::test]
async fn who_names_another_trust_domain_than_the_source_is_in_is_not_ready() {
    let world = world(Clock::system()).await;
    let api = WorkloadApi::start(&world.workload_socket());
    let certificates = &world.certificates;
    let stranger = &certificates.stranger;
    let own = stranger.issue(&certificates.workload("stranger.example", "orders")).unwrap();
    let mut response = world.svid_response(&own, &[stranger]);
    response.svids[0].spiffe_id = spiffe_id("stranger.example", "orders");
    api.gives(response.clone());
    let proxy = world.start(READ);
    let words = "the source is of trust domain `stranger.example`, which no `[trust_domain]` names";
    readiness(&proxy, 503, words).await;
    let told = identity(&proxy, |it| it["awaited"] == false).await;
    assert_eq!(told["trust_domains_without_ca"].as_array().unwrap().len(), 2);
    assert!(told["mismatch"].as_str().unwrap().contains(words), "{told}");

    // Who believes others alone means to.
    response.federated_bundles.insert(TRUST_DOMAIN.to_owned(), bundle(&[&certificates.shop]));
    api.gives(response);
    readiness(&proxy, 200, "[]").await;
    let told = identity(&proxy, |it| it["mismatch"].is_null()).await;
    assert_eq!(told["trust_domains_without_ca"][0]["name"], PARTNER_DOMAIN);
}
