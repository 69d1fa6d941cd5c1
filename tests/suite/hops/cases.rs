//! What hops tell, good and bad, and who is no hop.

use super::*;

/// Verdict of a handshake's or a request's record.
async fn of_handshakes(proxy: &Proxy<'_>, world: &World) -> Vec<(Who, String)> {
    let mut reasons = Vec::new();
    for (number, who) in Who::ALL.into_iter().filter(|who| *who != Who::NoCertificate).enumerate() {
        let config = world.certificates.client_config(who);
        if let Ok(client) = Client::tls(proxy.address("mesh"), HOST, config, Protocol::H1).await {
            _ = client.ask(get("/direct/1")).await;
        }
        let both = |all: &[Value]| {
            let told: Vec<_> =
                all.iter().filter(|it| it["event"] == "handshake" || it["event"] == "request").collect();
            told.get(number).map(|record| record["reason"].as_str().unwrap().to_owned())
        };
        reasons.push((who, proxy.records.until(both).await));
    }
    reasons
}

#[tokio::test]
async fn what_a_hop_tells_is_judged_as_in_a_handshake() {
    let world = World::new().await;
    for form in Form::ALL {
        let proxy = world.start(&edge(form, HERE));
        let expected = of_handshakes(&proxy, &world).await;
        let behind = proxy.behind(Protocol::H1).await;
        let mut reasons = Vec::new();
        for (who, expected) in &expected {
            let before = world.upstream.counts().requests;
            let fields = form.of(&client(&world, *who));
            let answer = behind.ask(passed("/told/1", &fields)).await.unwrap();
            let record = proxy.record_of(&answer).await;
            let reason = record["reason"].as_str().unwrap();
            reasons.push(reason.to_owned());
            // An ALB that verifies leaves intermediates to its own trust store.
            let cut = form == Form::AlbLeaf && *who == Who::StorefrontByIntermediate;
            assert_eq!(reason, if cut { "peer_untrusted" } else { expected }, "{form:?} {who:?}");
            let passed_on = u64::from(reason == "allowed");
            assert_eq!(answer.status, if passed_on == 1 { 200 } else { 403 }, "{form:?} {who:?}");
            assert_eq!(world.upstream.counts().requests - before, passed_on, "{form:?} {who:?}");
            assert_eq!(hop_of(&record)["name"], "edge");
            assert_eq!(hop_of(&record)["certificate"], Value::Null);
        }
        reasons.sort_unstable();
        reasons.dedup();
        assert!(reasons.len() >= 8, "{reasons:?}");
        std::fs::remove_file(world.folder.path().join("audit.jsonl")).unwrap();
    }
}

#[tokio::test]
async fn the_upstream_and_the_record_are_told_of_whom_the_hop_tells() {
    let world = World::new().await;
    for (form, protocol) in Form::ALL.into_iter().flat_map(|form| Protocol::BOTH.map(|it| (form, it))) {
        let proxy = world.start(&edge(form, HERE));
        let storefront = client(&world, Who::Storefront);
        let mut fields = form.of(&storefront);
        fields.push(("x-forwarded-for", "1.1.1.1, 203.0.113.7".into()));
        fields.push(("x-forwarded-proto", "https".into()));
        let answer = proxy.behind(protocol).await.ask(passed("/told/1", &fields)).await.unwrap();
        let seen = seen(&answer);
        assert_eq!(seen.header("x-auth-service"), ["storefront"]);
        let by = "By=spiffe://shop.example/ns/prod/sa/orders";
        let id = "URI=spiffe://shop.example/ns/prod/sa/storefront";
        let told = format!("{by};Hash={};{id}", hash_of(&storefront));
        assert_eq!(seen.header("x-forwarded-client-cert"), [told]);
        assert_eq!(seen.header("x-forwarded-for"), ["203.0.113.7"]);
        assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
        for gone in
            ["x-amzn-mtls-clientcert", "x-amzn-mtls-clientcert-leaf", "client-cert", "client-cert-chain"]
        {
            assert!(seen.header(gone).is_empty(), "{gone}");
        }
        let record = proxy.record_of(&answer).await;
        assert_eq!(
            (&record["peer"]["service"], &record["peer"]["hop"]),
            (&"storefront".into(), &"edge".into())
        );
        assert_eq!(record["rule"], "the storefront, through the edge");
        let connection = &record["connection"];
        assert_eq!(
            (&connection["peer_ip"], &connection["client_ip"]),
            (&"127.0.0.1".into(), &"203.0.113.7".into())
        );
    }
}

/// A header that tells the storefront, from whoever is not the hop it would have to be.
#[tokio::test]
async fn who_is_no_such_hop_tells_nothing() {
    let world = World::new().await;
    let proxied = "\n[listener.balanced]\naddress = \"127.0.0.1:0\"\nclient_certificate = \"optional\"\n\
                   proxy_protocol = \"v2\"\n[trusted_hop.balancer]\nkind = \"proxy\"\naddress = \"127.0.0.1/32\"\n";
    for form in Form::ALL {
        let fields = form.of(&client(&world, Who::Storefront));
        let by_id =
            if matches!(form, Form::AlbChain | Form::AlbLeaf) { "address = \"127.0.0.9/32\"" } else { BY_ID };
        for by in ["address = \"127.0.0.9/32\"", by_id] {
            let proxy = world.start(&edge(form, by));
            let behind = proxy.behind(Protocol::H1).await;
            let before = world.upstream.counts().requests;
            assert_eq!(
                refusal(&behind.ask(passed("/told/1", &fields)).await.unwrap()),
                expect(403, "peer_missing")
            );
            assert_eq!(world.upstream.counts().requests, before);
            let mut fields = fields.clone();
            fields.push(("x-forwarded-for", "203.0.113.7".into()));
            let answer = behind.ask(passed("/public/1", &fields)).await.unwrap();
            let seen = seen(&answer);
            for gone in ["x-auth-service", "x-forwarded-client-cert", "client-cert", "x-amzn-mtls-clientcert"]
            {
                assert!(seen.header(gone).is_empty(), "{form:?} {gone}");
            }
            assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);
            let record = proxy.record_of(&answer).await;
            assert_eq!((&record["peer"], hop_of(&record)), (&Value::Null, &Value::Null));
            assert_eq!(refusal(&behind.ask(passed("/office/1", &fields)).await.unwrap()).0, 403);
            // Whoever shows a certificate is that workload, here or not.
            let unnamed = proxy.client(Who::Unnamed, Protocol::H1).await;
            assert_eq!(
                refusal(&unnamed.ask(with(get("/told/1"), &fields)).await.unwrap()),
                expect(403, "peer_unknown")
            );
        }
        let proxy = world.start(&(edge(form, HERE) + proxied));
        let assistant = proxy.client(Who::Assistant, Protocol::H1).await;
        let answer = assistant.ask(with(get("/told/1"), &fields)).await.unwrap();
        assert_eq!(refusal(&answer), expect(403, "service_not_allowed"));
        let answer = assistant.ask(with(get("/edge/1"), &fields)).await.unwrap();
        assert_eq!(seen(&answer).header("x-auth-service"), ["assistant"]);
        // The balancer's word on an address is not the other end of the connection.
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend([127, 0, 0, 1, 10, 0, 0, 1, 0x9c, 0x40, 1, 0xbb]);
        let config = world.certificates.client_config(Who::NoCertificate);
        let behind =
            Client::behind(&header, proxy.address("balanced"), HOST, config, Protocol::H1).await.unwrap();
        let answer = behind.ask(with(get("/told/1"), &fields)).await.unwrap();
        assert_eq!(refusal(&answer), expect(403, "peer_missing"), "{form:?}");
    }
}

#[tokio::test]
async fn what_is_not_exactly_one_chain_goes_nowhere() {
    let world = World::new().await;
    let (storefront, other) = (client(&world, Who::Storefront), client(&world, Who::Assistant));
    let by_intermediate = chain_of(&client(&world, Who::StorefrontByIntermediate));
    let ca = crate::world::forge::der(&world.certificates.shop.pem());
    for form in Form::ALL {
        let proxy = world.start(&edge(form, HERE));
        let good = form.of(&storefront);
        let (name, value) = good[0].clone();
        let twice = [good.clone(), good.clone()].concat();
        let two = [good.clone(), form.of(&other)].concat();
        let changed = |change: &dyn Fn(&str) -> String| vec![(name, change(&value))];
        let large = "A".repeat(60_000);
        let cases: Vec<(&str, Fields, u16, &str)> = vec![
            ("twice", twice, 400, "request_malformed"),
            ("two", two, 400, "request_malformed"),
            ("empty", changed(&|_| String::new()), 403, "peer_malformed"),
            ("garbage", changed(&|_| "garbage".into()), 403, "peer_malformed"),
            ("an escape cut", changed(&|value| format!("{value}%4")), 403, "peer_malformed"),
            ("a NUL", changed(&|value| format!("{value}%00")), 403, "peer_malformed"),
            ("joined", changed(&|value| format!("{value}, {value}")), 403, "peer_malformed"),
            ("60 KB", changed(&|_| large.clone()), 403, "peer_malformed"),
            // hyper answers that without a body.
            ("66 KB", changed(&|_| "A".repeat(66_000)), 431, ""),
            ("a CA first", form.tell(&[ca.clone(), chain_of(&storefront)[0].clone()]), 403, "peer_malformed"),
            ("no certificate", form.tell(&[b"nothing".to_vec()]), 403, "peer_malformed"),
            (
                "reordered",
                form.tell(&[by_intermediate[1].clone(), by_intermediate[0].clone()]),
                403,
                "peer_malformed",
            ),
        ];
        for (what, fields, status, reason) in cases {
            let before = world.upstream.counts().requests;
            let answer = proxy.behind(Protocol::H2).await.ask(passed("/told/1", &fields)).await.unwrap();
            assert_eq!(refusal(&answer), expect(status, reason), "{form:?} {what}");
            assert_eq!(world.upstream.counts().requests, before, "{form:?} {what}");
        }
        // Also where no certificate is wanted: one that is presented and bad is refused always.
        let answer =
            proxy.behind(Protocol::H1).await.ask(passed("/public/1", &changed(&|_| "x".into()))).await;
        assert_eq!(refusal(&answer.unwrap()), expect(403, "peer_malformed"));
    }
    let chain: Vec<_> = std::iter::once(chain_of(&storefront)[0].clone()).chain(vec![ca; 6]).collect();
    let proxy = world.start(&edge(Form::AlbChain, HERE));
    let answer = proxy.behind(Protocol::H1).await.ask(passed("/told/1", &Form::AlbChain.tell(&chain))).await;
    assert_eq!(refusal(&answer.unwrap()), expect(403, "peer_untrusted"));
}

/// Which header an ALB writes depends on its listener, and what it does not write is its client's own.
#[tokio::test]
async fn a_hop_s_other_headers_are_not_read() {
    let world = World::new().await;
    let storefront = client(&world, Who::Storefront);
    for (form, others) in [
        (Form::AlbChain, [Form::AlbLeaf, Form::Envoy, Form::Rfc9440]),
        (Form::AlbLeaf, [Form::AlbChain, Form::Envoy, Form::Rfc9440]),
        (Form::Envoy, [Form::AlbChain, Form::AlbLeaf, Form::Rfc9440]),
        (Form::Rfc9440, [Form::AlbChain, Form::AlbLeaf, Form::Envoy]),
    ] {
        let proxy = world.start(&edge(form, HERE));
        for other in others {
            let answer =
                proxy.behind(Protocol::H1).await.ask(passed("/told/1", &other.of(&storefront))).await;
            assert_eq!(refusal(&answer.unwrap()), expect(403, "peer_missing"), "{form:?} {other:?}");
        }
    }
}
