//! Whose signature counts: algorithms, keys and headers that must be refused.

use aws_lc_rs::hmac;

use super::*;

async fn world_with_all_keys() -> World {
    let world = World::new(|settings| settings.algorithms = Algorithm::ALL.to_vec()).await;
    let keys = [P256.jwk("k1"), P384.jwk("k2"), RSA.jwk("k3"), ED25519.jwk("k4")];
    world.provider.set("/jwks", key_set(&keys));
    world
}

#[tokio::test]
async fn every_algorithm_verifies_with_its_own_kind_of_key() {
    let world = world_with_all_keys().await;
    let kid = |algorithm: Algorithm| match algorithm {
        Algorithm::Es256 => ("k1", &*P256),
        Algorithm::Es384 => ("k2", &*P384),
        Algorithm::EdDsa => ("k4", &*ED25519),
        _ => ("k3", &*RSA),
    };
    let mut seen = 0;
    for algorithm in Algorithm::ALL {
        let (own, pair) = kid(algorithm);
        for named in ["k1", "k2", "k3", "k4"] {
            let token = mint_with(
                pair,
                json!({ "alg": algorithm.as_str(), "kid": named }),
                good_claims().to_string(),
            );
            let expected = if named == own { "ok" } else { "token_key_unknown" };
            assert_eq!(world.code(&token).await, expected, "{algorithm} with {named}");
            seen += 1;
        }
    }
    assert_eq!(seen, 36);
}

#[tokio::test]
async fn an_algorithm_that_is_not_the_issuers_is_refused() {
    let world = world_with_all_keys().await;
    let secret = RSA.jwk("k3").to_string();
    let parts: Vec<String> = ["n", "e"].iter().map(|part| RSA.jwk("k3")[part].to_string()).collect();
    let mut seen = 0;
    for algorithm in
        ["none", "None", "nOnE", "NONE", "", "HS256", "HS384", "HS512", "rs256", "RS256 ", "ES512"]
    {
        for kid in ["k1", "k3"] {
            let message = format!(
                "{}.{}",
                b64(json!({ "alg": algorithm, "kid": kid }).to_string()),
                b64(good_claims().to_string())
            );
            let mac = |secret: &str| {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                b64(hmac::sign(&key, message.as_bytes()))
            };
            for signature in [String::new(), mac(&secret), mac(&parts[0]), mac(&format!("{}\n", parts[0]))] {
                let token = format!("{message}.{signature}");
                assert_eq!(world.code(&token).await, "token_algorithm_refused", "{algorithm} {kid}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 88);
    assert_eq!(world.metrics.signature_checks.get(), 0);

    let narrow = World::new(|settings| settings.algorithms = vec![Algorithm::Rs256]).await;
    assert_eq!(narrow.code(&mint(&good_claims())).await, "token_algorithm_refused", "though the key could");
    assert_eq!(narrow.provider.hits("/jwks"), 0);
}

#[tokio::test]
async fn a_signature_is_exactly_the_one_of_the_algorithm() {
    let world = world_with_all_keys().await;
    let good = mint(&good_claims());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let bytes = jwt::decode(signature).expect("base64url");
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&order[2 * at..2 * at + 2], 16).expect("hex")).collect();
    let der = {
        let integer = |half: &[u8]| [&[2, 33, 0], half].concat();
        let body = [integer(&bytes[..32]), integer(&bytes[32..])].concat();
        [vec![0x30, u8::try_from(body.len()).expect("short")], body].concat()
    };
    let mut flipped = bytes.clone();
    flipped[40] ^= 1;
    let mut seen = 0;
    for (what, forged) in [
        ("zeros", vec![0; 64]),
        ("r and s are the order", [order.clone(), order.clone()].concat()),
        ("r is zero", [vec![0; 32], bytes[32..].to_vec()].concat()),
        ("der", der),
        ("short", bytes[..63].to_vec()),
        ("long", [&bytes[..], &[0]].concat()),
        ("empty", Vec::new()),
        ("flipped", flipped),
        ("another key's", OTHER.sign("ES256", message)),
        ("another message's", P256.sign("ES256", "x")),
    ] {
        assert_eq!(world.code(&format!("{message}.{}", b64(forged))).await, "token_bad_signature", "{what}");
        seen += 1;
    }
    assert_eq!(seen, 10);
    assert_eq!(world.code(&good).await, "ok");
    for changed in [json!({ "sub": "bob" }), json!({ "exp": NOW + 601 })] {
        let claims = b64(with(good_claims(), changed).to_string());
        let header = message.split('.').next().expect("a header");
        assert_eq!(world.code(&format!("{header}.{claims}.{signature}")).await, "token_bad_signature");
    }
}

#[tokio::test]
async fn a_kid_is_compared_and_has_no_other_effect() {
    let world = World::new(|_| {}).await;
    let mut seen = 0;
    for kid in [
        "../../../../dev/null",
        "' OR 1=1 --",
        "https://evil.example/jwks",
        "k1\0",
        "K1",
        " k1",
        "",
        "k1 ",
        "file:///etc/passwd",
        "k2",
    ] {
        let token = mint_with(&P256, json!({ "alg": "ES256", "kid": kid }), good_claims().to_string());
        assert_eq!(world.code(&token).await, "token_key_unknown", "{kid:?}");
        seen += 1;
    }
    assert_eq!(seen, 10);
    let without = mint_with(&P256, json!({ "alg": "ES256" }), good_claims().to_string());
    assert_eq!(world.code(&without).await, "ok", "no choice");
    let two = World::new(|_| {}).await;
    two.provider.set("/jwks", key_set(&[P256.jwk("k1"), OTHER.jwk("k2")]));
    assert_eq!(two.code(&without).await, "token_key_unknown", "a choice");
}

#[tokio::test]
async fn a_key_signs_for_its_own_issuer_only() {
    let provider = Provider::start(None).await;
    provider.set("/a", key_set(&[P256.jwk("k1")]));
    provider.set("/b", key_set(&[OTHER.jwk("k1")]));
    let at = |path| keys_at(KeySource::Url(provider.url(path)));
    let a = settings(Preset::Generic, "https://a.example", at("/a"));
    let mut b = settings(Preset::Generic, "https://b.example", at("/b"));
    b.name = "other".parse().expect("a name");
    let world = World::of(provider, vec![a, b]);
    let mut seen = 0;
    for (iss, pair, expected) in [
        ("https://a.example", &*P256, "ok"),
        ("https://b.example", &*OTHER, "ok"),
        ("https://a.example", &*OTHER, "token_bad_signature"),
        ("https://b.example", &*P256, "token_bad_signature"),
        ("https://a.example/", &*P256, "token_issuer_unknown"),
        ("https://c.example", &*P256, "token_issuer_unknown"),
    ] {
        let claims = with(good_claims(), json!({ "iss": iss }));
        let token = mint_with(pair, json!({ "alg": "ES256", "kid": "k1" }), claims.to_string());
        assert_eq!(world.code(&token).await, expected, "{iss}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[test]
fn two_issuers_with_one_url_are_refused() {
    let keys = keys_at(KeySource::File("/nowhere".into()));
    let clock = Clock::system();
    let issuer = |name: &str| {
        let mut settings = settings(Preset::Generic, ISS, keys.clone());
        settings.name = name.parse().expect("a name");
        let keys = IssuerKeys::new(keys.clone(), &no_roots(), IssuerMetrics::default(), clock.clone());
        Issuer { settings, keys: Arc::new(keys), introspection: None }
    };
    let issuers = vec![issuer("a"), issuer("b")];
    let metrics = TokenMetrics::default();
    let made = Verifier::new(issuers, TokenLimits::FOR_TESTS, CACHE, Arc::default(), metrics, clock.clone());
    assert!(made.is_err_and(|error| error.to_string().starts_with("issuers `a` and `b`")));
}

#[test]
fn keys_that_cannot_be_trusted_are_left_out_one_by_one() {
    let rsa = || RSA.jwk("r");
    let ec = || P256.jwk("e");
    let weak = |bits: usize| {
        let mut n = vec![0xff; bits / 8];
        n[0] = 0xc0;
        b64(n)
    };
    let mut seen = 0;
    for (what, entry) in [
        ("symmetric", json!({ "kty": "oct", "k": "AAAA", "kid": "x" })),
        ("private", with(ec(), json!({ "d": "AAAA" }))),
        ("private rsa", with(rsa(), json!({ "p": "AAAA" }))),
        ("for encryption", with(rsa(), json!({ "use": "enc" }))),
        ("use of another type", with(rsa(), json!({ "use": 1 }))),
        ("a SPIFFE key", with(ec(), json!({ "use": "jwt-svid" }))),
        ("only signs", with(rsa(), json!({ "key_ops": ["sign"] }))),
        ("no operations", with(rsa(), json!({ "key_ops": [] }))),
        ("operations as text", with(rsa(), json!({ "key_ops": "verify" }))),
        ("an encryption algorithm", with(rsa(), json!({ "alg": "RSA-OAEP" }))),
        ("a MAC", with(rsa(), json!({ "alg": "HS256" }))),
        ("the algorithm of another kind", with(rsa(), json!({ "alg": "ES256" }))),
        ("the algorithm of another curve", with(ec(), json!({ "alg": "ES384" }))),
        ("1024 bits", with(rsa(), json!({ "n": weak(1024) }))),
        ("2047 bits", with(rsa(), json!({ "n": b64([&[0x7f][..], &[0xff; 255]].concat()) }))),
        ("2040 bits", with(rsa(), json!({ "n": weak(2040) }))),
        ("16384 bits", with(rsa(), json!({ "n": weak(16384) }))),
        ("even modulus", with(rsa(), json!({ "n": b64([0xc0; 256]) }))),
        (
            "zeros before the modulus",
            with(rsa(), json!({ "n": b64([&[0; 200][..], &[0xff; 100]].concat()) })),
        ),
        ("exponent 1", with(rsa(), json!({ "e": "AQ" }))),
        ("exponent 3", with(rsa(), json!({ "e": "Aw" }))),
        ("exponent 65536", with(rsa(), json!({ "e": "AQAA" }))),
        ("huge exponent", with(rsa(), json!({ "e": b64([0xff; 9]) }))),
        ("no exponent", with(rsa(), json!({ "e": "" }))),
        ("padded modulus", with(rsa(), json!({ "n": "AQAB==" }))),
        ("off its curve", with(ec(), json!({ "y": b64([1; 32]) }))),
        ("short coordinate", with(ec(), json!({ "x": b64([1; 31]) }))),
        ("another curve's name", with(ec(), json!({ "crv": "P-384" }))),
        ("a curve nobody asked for", with(ec(), json!({ "crv": "secp256k1" }))),
        ("P-521", with(ec(), json!({ "crv": "P-521" }))),
        ("short Ed25519", json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" })),
        ("X25519", with(ED25519.jwk("o"), json!({ "crv": "X25519" }))),
        ("no kty", with(ec(), json!({ "kty": null }))),
        ("kid of another type", with(ec(), json!({ "kid": 1 }))),
    ] {
        let alone = json!({ "keys": [entry] }).to_string();
        let read = keys::KeySet::parse(alone.as_bytes(), KeyUse::Signature).map(|set| set.len());
        assert_eq!(read, Err(keys::KeySetError::Empty), "{what}");
        let beside = json!({ "keys": [entry, P384.jwk("good")] }).to_string();
        let read = keys::KeySet::parse(beside.as_bytes(), KeyUse::Signature).map(|set| set.len());
        assert_eq!(read, Ok(1), "{what}");
        seen += 1;
    }
    assert_eq!(seen, 34);
    let fine = json!({ "keys": [
        with(rsa(), json!({ "use": "sig", "alg": "PS256", "key_ops": ["verify"], "x5c": ["AA"] })), ec(), ED25519.jwk("o"),
    ] });
    let set = keys::KeySet::parse(fine.to_string().as_bytes(), KeyUse::Signature).expect("a set");
    assert_eq!(set.len(), 3);
    assert_eq!(set.candidates(Algorithm::Ps256, Some("r")).len(), 1);
    assert_eq!(set.candidates(Algorithm::Rs256, Some("r")).len(), 0, "`alg` pins it");

    let many = |count| {
        let document = json!({ "keys": vec![ec(); count] }).to_string();
        keys::KeySet::parse(document.as_bytes(), KeyUse::Signature).map(|set| set.len())
    };
    assert_eq!(many(keys::KEYS_MAX), Ok(keys::KEYS_MAX));
    assert_eq!(many(keys::KEYS_MAX + 1), Err(keys::KeySetError::TooMany));
}
