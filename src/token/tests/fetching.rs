//! An issuer's keys: storms, rotation, outages, poisoned documents, and where they come from.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn a_storm_of_unknown_keys_causes_one_fetch_in_a_while() {
    let world = World::new(|_| {}).await;
    assert_eq!(world.code(&token_of(&P256, "k1", 0)).await, "ok");
    world.clock.advance(UNKNOWN_KEY_REST);
    let storm: Vec<String> = (0..200).map(|at| token_of(&OTHER, &format!("random-{at}"), at)).collect();
    world.provider.gate.forget_permits(usize::MAX);
    let open = async {
        while world.provider.hits(JWKS) < 2 {
            tokio::task::yield_now().await;
        }
        // while that fetch is under way, known keys work
        assert_eq!(world.code(&token_of(&P256, "k1", 1)).await, "ok");
        world.provider.gate.add_permits(1000);
    };
    let (codes, ()) = tokio::join!(join_all(storm.iter().map(|token| world.code(token))), open);
    assert!(codes.iter().all(|code| *code == "token_key_unknown"), "{codes:?}");
    assert_eq!(world.provider.hits(JWKS), 2);
    join_all(storm.iter().map(|token| world.code(token))).await;
    assert_eq!(world.provider.hits(JWKS), 2, "resting");
    world.clock.advance(UNKNOWN_KEY_REST);
    join_all(storm.iter().map(|token| world.code(token))).await;
    assert_eq!(world.provider.hits(JWKS), 3);
    // a clock that was set back does not hold off the next fetch for ever
    world.clock.set(Timestamp::from_unix_seconds(NOW - 100_000));
    world.keys().current().await.expect("keys");
    assert_eq!(world.code(&storm[0]).await, "token_key_unknown");
    assert_eq!(world.provider.hits(JWKS), 4);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_void_the_rest() {
    let world = World::new(|_| {}).await;
    assert_eq!(world.code(&token_of(&P256, "k1", 0)).await, "ok");
    world.clock.advance(UNKNOWN_KEY_REST);
    world.provider.gate.forget_permits(usize::MAX);
    for at in 0..20 {
        let token = token_of(&OTHER, &format!("random-{at}"), at);
        let mut request = Box::pin(world.code(&token));
        let seen = world.provider.hits(JWKS);
        for _ in 0..100 {
            assert!(futures_util::poll!(&mut request).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(world.provider.hits(JWKS), if at == 0 { seen + 1 } else { 2 });
    }
}

/// As on the cores of a proxy that just started: nobody may see that a fetch has ended before its keys.
#[test]
fn all_cores_wait_for_the_first_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": [P256.jwk("k1")] }).to_string()).expect("a file");
    let settings = keys_at(KeySource::File(path));
    let mut seen = 0;
    for _ in 0..200 {
        let metrics = IssuerMetrics::default();
        let keys = IssuerKeys::new(settings.clone(), &no_roots(), metrics.clone(), Clock::system());
        let keys = Arc::new(keys);
        let core = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().expect("a runtime");
            runtime.block_on(async {
                for _ in 0..50 {
                    keys.current().await.expect("keys");
                }
            });
        };
        std::thread::scope(|scope| {
            let cores: Vec<_> = (0..4).map(|_| scope.spawn(core)).collect();
            seen += cores.into_iter().map(|core| core.join().expect("no panic")).count();
        });
        assert_eq!(metrics.fetches.get(), 1);
    }
    assert_eq!(seen, 800);
}

#[tokio::test]
async fn a_cold_start_without_a_provider_recovers_by_itself() {
    let world = World::new(|_| {}).await;
    world.provider.set(JWKS, Answer { status: 500, ..Answer::json("") });
    let token = mint(&good_claims());
    assert_eq!(world.code(&token).await, "issuer_unavailable");
    assert_eq!(world.code(&token).await, "issuer_unavailable");
    assert_eq!(world.provider.hits(JWKS), 1, "resting");
    let status = world.keys().status();
    assert_eq!((status.keys, status.fetched), (0, None));
    assert_eq!(status.last_error.as_deref(), Some("key set: the answer has status 500"));
    world.provider.set(JWKS, key_set(&[P256.jwk("k1")]));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.code(&token).await, "ok");
    assert_eq!(world.keys().status().last_error, None);
}

#[tokio::test]
async fn old_keys_serve_while_the_provider_fails_but_not_for_ever() {
    let world = World::new(|settings| settings.keys.max_stale = Duration::from_secs(3600)).await;
    let token = mint(&with(good_claims(), json!({ "exp": NOW + 100_000 })));
    assert_eq!(world.code(&token).await, "ok");
    world.provider.set(JWKS, Answer { status: 503, ..Answer::json("") });
    assert!(world.keys().refresh().await.is_err());
    world.clock.advance(Duration::from_secs(3599));
    assert_eq!(world.code(&token).await, "ok");
    let status = world.keys().status();
    assert_eq!(status.keys, 1);
    assert!(status.last_error.is_some() && status.fresh_until < Some(world.clock.now()));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.code(&token).await, "issuer_unavailable");
    world.provider.set(JWKS, key_set(&[P256.jwk("k1")]));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.code(&token).await, "ok");
}

#[tokio::test]
async fn a_poisoned_document_changes_nothing() {
    let world = World::new(|_| {}).await;
    let token = mint(&good_claims());
    assert_eq!(world.code(&token).await, "ok");
    let good = json!({ "keys": [OTHER.jwk("k2")] }).to_string();
    let many: Vec<Value> = (0..10_000).map(|at| json!({ "kty": "x", "n": at })).collect();
    let mut seen = 0;
    for (what, answer) in [
        ("html", Answer::json("<html></html>")),
        ("empty", Answer::json("")),
        ("no keys", Answer::json(r#"{"keys":[]}"#)),
        ("no usable key", key_set(&[json!({ "kty": "oct", "k": "AAAA" })])),
        ("no member", Answer::json("{}")),
        ("keys of another type", Answer::json(r#"{"keys":{}}"#)),
        ("a key of another type", Answer::json(r#"{"keys":[1]}"#)),
        ("truncated", Answer::json(&good[..good.len() - 2])),
        ("twice", Answer::json(format!("{},\"keys\":[]}}", good.trim_end_matches('}')))),
        ("trailing", Answer::json(format!("{good}x"))),
        ("nested", Answer::json(format!("{{\"keys\":{}", "[".repeat(100_000)))),
        ("long", Answer::json(format!("{good}{}", " ".repeat(256 * 1024)))),
        ("many", key_set(&many)),
        ("compressed", Answer::json(&good).with("content-encoding", "gzip")),
        ("redirect", Answer { status: 301, ..Answer::json(&good).with("location", "/elsewhere") }),
        ("created", Answer { status: 201, ..Answer::json(&good) }),
    ] {
        world.provider.set(JWKS, answer);
        assert!(world.keys().refresh().await.is_err(), "{what}");
        assert_eq!(world.code(&token).await, "ok", "{what}");
        assert_eq!(world.code(&token_of(&OTHER, "k2", 1)).await, "token_key_unknown", "{what}");
        assert_eq!(world.keys().status().keys, 1, "{what}");
        seen += 1;
    }
    assert_eq!(seen, 16);
    assert_eq!(world.provider.hits("/elsewhere"), 0);
}

#[tokio::test]
async fn a_lifetime_has_a_floor_and_a_ceiling() {
    let world = World::new(|_| {}).await;
    let mut seen = 0;
    for (control, seconds) in [
        ("max-age=0", 60),
        ("no-store", 60),
        ("max-age=300, public", 300),
        ("max-age=31536000", 86_400),
        ("public", 600),
    ] {
        world.provider.set(JWKS, key_set(&[P256.jwk("k1")]).with("cache-control", control));
        world.keys().refresh().await.expect("keys");
        let fresh_until = world.keys().status().fresh_until;
        assert_eq!(fresh_until, Some(Timestamp::from_unix_seconds(NOW + seconds)), "{control}");
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn discovery_takes_the_document_of_exactly_this_issuer() {
    let provider = Provider::start(None).await;
    provider.set(JWKS, key_set(&[P256.jwk("k1")]));
    let well_known = "/.well-known/openid-configuration";
    let iss = provider.url("/");
    let source = IssuerUrl::parse(&[iss.as_str()]).expect("a url").discovery().expect("a source");
    let mut settings = settings(Preset::Generic, iss.as_str(), keys_at(source));
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "s3cret").expect("a secret");
    settings.keys.credential = Some(crate::fetch::SecretSource::File(secret.path().to_owned()));
    let world = World::of(provider.clone(), vec![settings]);
    let jwks = provider.url(JWKS);
    let mut seen = 0;
    for (what, document, good) in [
        ("other issuer", json!({ "issuer": "https://evil.example", "jwks_uri": jwks }), false),
        (
            "without the slash",
            json!({ "issuer": iss.as_str().trim_end_matches('/'), "jwks_uri": jwks }),
            false,
        ),
        ("no issuer", json!({ "jwks_uri": jwks }), false),
        ("no keys", json!({ "issuer": iss }), false),
        ("keys inside", json!({ "issuer": iss, "jwks_uri": "https://10.0.0.1/jwks" }), false),
        ("metadata", json!({ "issuer": iss, "jwks_uri": "http://169.254.169.254/jwks" }), false),
        ("a file", json!({ "issuer": iss, "jwks_uri": "file:///etc/passwd" }), false),
        ("relative", json!({ "issuer": iss, "jwks_uri": JWKS }), false),
        ("good, and no more than it needs", json!({ "issuer": iss, "jwks_uri": jwks }), true),
    ] {
        provider.set(well_known, Answer::json(document));
        assert_eq!(world.keys().refresh().await.is_ok(), good, "{what}");
        seen += 1;
    }
    assert_eq!(seen, 9);
    assert_eq!(provider.hits(JWKS), 1);
    assert_eq!(provider.last(JWKS)["authorization"], "Bearer s3cret");

    // another origin gets the request without the credential
    let elsewhere = Provider::start(None).await;
    elsewhere.set(JWKS, key_set(&[P256.jwk("k1")]));
    provider.set(well_known, Answer::json(json!({ "issuer": iss, "jwks_uri": elsewhere.url(JWKS) })));
    world.keys().refresh().await.expect("keys");
    assert_eq!(elsewhere.hits(JWKS), 1);
    assert!(!elsewhere.last(JWKS).contains_key("authorization"));
}

#[tokio::test]
async fn keys_that_move_to_another_host_are_taken_and_told_of_once() {
    let provider = Provider::start(None).await;
    provider.set(JWKS, key_set(&[P256.jwk("k1")]));
    let iss = provider.url("/");
    let source = IssuerUrl::parse(&[iss.as_str()]).expect("a url").discovery().expect("a source");
    let world = World::of(provider.clone(), vec![settings(Preset::Generic, iss.as_str(), keys_at(source))]);
    let mut here = provider.url(JWKS);
    here.set_host(Some("127.0.0.1")).expect("a host");
    let mut there = here.clone();
    there.set_host(Some("localhost")).expect("a host");
    let log = tempfile::NamedTempFile::new().expect("a file");
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let to = Arc::new(log.reopen().expect("the file"));
    let _default = tracing::dispatcher::set_default(&subscriber.with_writer(to).into());
    let logged = || -> Vec<Value> {
        let text = std::fs::read_to_string(log.path()).expect("lines");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    };
    for (named, lines) in [(&here, 0), (&here, 0), (&there, 1), (&there, 1), (&here, 2)] {
        let document = json!({ "issuer": iss, "jwks_uri": named });
        provider.set("/.well-known/openid-configuration", Answer::json(document));
        world.keys().refresh().await.expect("keys");
        assert_eq!(logged().len(), lines, "{named}");
    }
    let [moved, back] = &logged()[..] else { panic!("two lines") };
    assert_eq!([&moved["before"], &moved["now"]], ["127.0.0.1", "localhost"]);
    assert_eq!([&back["before"], &back["now"]], ["localhost", "127.0.0.1"]);
    assert_eq!((&moved["level"], &moved["issuer"]), (&json!("WARN"), &json!(iss)));
}

#[tokio::test]
async fn keys_come_from_a_file_too() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), json!({ "keys": [P256.jwk("k1")] }).to_string()).expect("keys");
    let world = World::new(|settings| settings.keys.source = KeySource::File(file.path().to_owned())).await;
    let token = mint(&good_claims());
    assert_eq!(world.code(&token).await, "ok");
    std::fs::write(file.path(), "{").expect("garbage");
    assert!(world.keys().refresh().await.is_err());
    assert_eq!(world.code(&token).await, "ok");
    std::fs::write(file.path(), json!({ "keys": [OTHER.jwk("k2")] }).to_string()).expect("keys");
    world.keys().refresh().await.expect("new keys");
    assert_eq!(world.code(&token).await, "token_key_unknown");
    assert_eq!(world.provider.hits(JWKS), 0);
}

#[test]
fn several_runtimes_share_one_fetch() {
    let runtime = || {
        let built =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        built.expect("a runtime")
    };
    let (ready, world) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = std::thread::spawn(move || {
        runtime().block_on(async move {
            ready.send(World::new(|_| {}).await).expect("a test that waits");
            stopped.await.expect("the end of the test");
        });
    });
    let world = world.recv().expect("a world");
    let codes: Vec<&str> = std::thread::scope(|scope| {
        let ask = |core: usize| {
            let tokens: Vec<String> = (0..20).map(|at| token_of(&P256, "k1", core * 20 + at)).collect();
            runtime().block_on(join_all(tokens.iter().map(|token| world.code(token))))
        };
        let cores: Vec<_> = (0..4).map(|core| scope.spawn(move || ask(core))).collect();
        cores.into_iter().flat_map(|core| core.join().expect("a core")).collect()
    });
    assert_eq!(codes, ["ok"; 80]);
    assert_eq!(world.provider.hits(JWKS), 1);
    stop.send(()).expect("a server that waits");
    serving.join().expect("the server");
}
