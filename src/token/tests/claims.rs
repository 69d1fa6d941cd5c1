//! What a verified token says, and which claims keep it from saying anything.

use super::*;
use crate::identity::Confirmation;
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};
use crate::policy::pattern::Glob;

#[tokio::test]
async fn times_are_whole_seconds_or_the_token_is_malformed() {
    let world = World::new(|_| {}).await;
    let mut seen = 0;
    for name in ["exp", "nbf", "iat", "auth_time"] {
        for wrong in [
            r#""1800000600""#,
            "null",
            "true",
            "[]",
            "[1800000600]",
            "{}",
            "1800000600.0",
            "1800000600.5",
            "1.8e9",
            "-1",
            "-0",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "99999999999999999999999",
            "253402300800",
            "1e400",
        ] {
            let base = with(good_claims(), json!({ name: null })).to_string();
            let claims = format!("{},\"{name}\":{wrong}}}", base.trim_end_matches('}'));
            let token = mint_with(&P256, json!({ "alg": "ES256", "kid": "k1" }), claims);
            assert_eq!(world.code(&token).await, "token_malformed", "{name}: {wrong}");
            seen += 1;
        }
    }
    assert_eq!(seen, 68);
}

#[tokio::test]
async fn a_token_holds_from_its_first_to_its_last_moment_and_the_leeway() {
    let world = World::new(|settings| settings.leeway = Duration::from_secs(60)).await;
    let mut seen = 0;
    for (changes, expected) in [
        (json!({}), "ok"),
        (json!({ "exp": null }), "token_malformed"),
        (json!({ "exp": NOW }), "ok"),
        (json!({ "exp": NOW - 59 }), "ok"),
        (json!({ "exp": NOW - 60 }), "token_expired"),
        (json!({ "exp": NOW - 61 }), "token_expired"),
        (json!({ "exp": 0 }), "token_expired"),
        (json!({ "nbf": NOW + 60 }), "ok"),
        (json!({ "nbf": NOW + 61 }), "token_not_yet_valid"),
        (json!({ "iat": NOW + 60 }), "ok"),
        (json!({ "iat": NOW + 61 }), "token_not_yet_valid"),
        (json!({ "iat": null }), "ok"),
        (json!({ "auth_time": NOW + 1000 }), "ok"), // `max_age` judges it
    ] {
        assert_eq!(world.code(&mint(&with(good_claims(), changes.clone()))).await, expected, "{changes}");
        seen += 1;
    }
    assert_eq!(seen, 13);
}

#[tokio::test]
async fn a_token_is_meant_for_us() {
    let world = World::new(|_| {}).await;
    let mut seen = 0;
    for (aud, expected) in [
        (json!(AUD), "ok"),
        (json!([AUD]), "ok"),
        (json!(["x", AUD]), "ok"),
        (json!(null), "token_wrong_audience"),
        (json!([]), "token_wrong_audience"),
        (json!(["x"]), "token_wrong_audience"),
        (json!(""), "token_wrong_audience"),
        (json!("*"), "token_wrong_audience"),
        (json!("https://orders.example/"), "token_wrong_audience"),
        (json!("https://orders.exampl"), "token_wrong_audience"),
        (json!("HTTPS://ORDERS.EXAMPLE"), "token_wrong_audience"),
        (json!(format!("{AUD} x")), "token_wrong_audience"),
        (json!(1), "token_malformed"),
        (json!({ AUD: true }), "token_malformed"),
        (json!([AUD, 1]), "token_malformed"),
        (json!([[AUD]]), "token_malformed"),
    ] {
        assert_eq!(world.code(&mint(&with(good_claims(), json!({ "aud": aud })))).await, expected, "{aud}");
        seen += 1;
    }
    assert_eq!(seen, 16);
    let others = mint(&with(good_claims(), json!({ "aud": ["https://orders.example/", "x"] })));
    let detail = r#"its `aud` is ["https://orders.example/","x"], none of the issuer's `audience`"#;
    assert_eq!(world.caller(&others).await.unwrap_err(), TokenError::WrongAudience(detail.into()));
    let several = World::new(|settings| settings.audience.insert(0, "https://refunds.example".into())).await;
    assert_eq!(several.code(&mint(&good_claims())).await, "ok", "for one of ours");
    // a client is an audience only where the provider has no other
    let by_client = with(good_claims(), json!({ "aud": null, "client_id": AUD }));
    assert_eq!(world.code(&mint(&by_client)).await, "token_wrong_audience");
    let null = good_claims().to_string().replace(&format!("\"{AUD}\""), "null");
    let token = mint_with(&P256, json!({ "alg": "ES256", "kid": "k1" }), null);
    assert_eq!(world.code(&token).await, "token_malformed");
}

#[tokio::test]
async fn an_issuer_is_a_string_and_known() {
    let world = World::new(|_| {}).await;
    for (iss, expected) in [
        (json!(null), "token_issuer_unknown"),
        (json!([ISS]), "token_malformed"),
        (json!(1), "token_malformed"),
        (json!(format!("{ISS}/")), "token_issuer_unknown"),
        (json!("https://LOGIN.example.com"), "token_issuer_unknown"),
        (json!("https://evil.example"), "token_issuer_unknown"),
    ] {
        assert_eq!(world.code(&mint(&with(good_claims(), json!({ "iss": iss })))).await, expected, "{iss}");
    }
    let slash = mint(&with(good_claims(), json!({ "iss": format!("{ISS}/") })));
    let detail = format!("its `iss` is \"{ISS}/\", no configured issuer's `url`");
    assert_eq!(world.caller(&slash).await.unwrap_err(), TokenError::IssuerUnknown(detail.into()));
    assert_eq!(world.provider.hits("/jwks"), 0, "an unknown issuer causes no fetch");
}

#[tokio::test]
async fn only_access_tokens_are_taken() {
    let world = World::new(|_| {}).await;
    let mut seen = 0;
    for (typ, expected) in [
        (json!(null), "ok"),
        (json!("JWT"), "ok"),
        (json!("jwt"), "ok"),
        (json!("at+jwt"), "ok"),
        (json!("Application/AT+jwt"), "ok"),
        (json!("logout+jwt"), "token_type_refused"),
        (json!("dpop+jwt"), "token_type_refused"),
        (json!("secevent+jwt"), "token_type_refused"),
        (json!("id_token+jwt"), "token_type_refused"),
        (json!("JOSE"), "token_type_refused"),
        (json!(""), "token_type_refused"),
    ] {
        let header = with(json!({ "alg": "ES256", "kid": "k1" }), json!({ "typ": typ }));
        assert_eq!(world.code(&mint_with(&P256, header, good_claims().to_string())).await, expected, "{typ}");
        seen += 1;
    }
    for changes in [
        json!({ "nonce": "n" }),
        json!({ "at_hash": "h" }),
        json!({ "c_hash": "h" }),
        json!({ "token_use": "id" }),
        json!({ "typ": "ID" }),
        json!({ "typ": "Refresh" }),
        json!({ "typ": "Logout" }),
        json!({ "events": {} }),
    ] {
        let code = world.code(&mint(&with(good_claims(), changes.clone()))).await;
        assert_eq!(code, "token_type_refused", "{changes}");
        seen += 1;
    }
    assert_eq!(seen, 19);
}

#[tokio::test]
async fn the_profile_of_rfc_9068_wants_its_type_and_claims() {
    let world = World::new(|settings| settings.token_type = TokenType::AccessToken).await;
    let token = |typ: Value, changes: Value| {
        let header = with(json!({ "alg": "ES256", "kid": "k1" }), json!({ "typ": typ }));
        mint_with(&P256, header, with(good_claims(), changes).to_string())
    };
    assert_eq!(world.code(&token(json!("at+jwt"), json!({}))).await, "ok");
    assert_eq!(world.code(&token(json!("application/at+JWT"), json!({}))).await, "ok");
    for typ in [json!(null), json!("JWT")] {
        assert_eq!(world.code(&token(typ, json!({}))).await, "token_type_refused");
    }
    for name in ["sub", "client_id", "iat", "jti", "exp"] {
        assert_eq!(
            world.code(&token(json!("at+jwt"), json!({ name: null }))).await,
            "token_malformed",
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_an_issuer_requires_is_there() {
    let world = World::new(|settings| settings.requires = vec!["tier".into()]).await;
    assert_eq!(world.code(&mint(&good_claims())).await, "token_malformed");
    assert_eq!(world.code(&mint(&with(good_claims(), json!({ "tier": "gold" })))).await, "ok");
    let null = good_claims().to_string().replace("\"jti\":\"1\"", "\"tier\":null");
    assert_eq!(
        world.code(&mint_with(&P256, json!({ "alg": "ES256", "kid": "k1" }), null)).await,
        "token_malformed"
    );
}

#[tokio::test]
async fn a_required_claim_is_there_down_to_what_is_read_of_it() {
    let world = World::new(|settings| {
        settings.requires = vec!["realm_access".into()];
        settings.claims.roles = Some(ClaimPath(vec!["realm_access".into(), "roles".into()]));
    })
    .await;
    let mut seen = 0;
    for (access, expected) in [
        (json!({ "roles": ["banned"] }), "ok"),
        (json!({ "roles": [] }), "ok"),
        (json!({}), "token_malformed"),
        (json!({ "roles": null }), "token_malformed"),
        (json!({ "role": ["banned"] }), "token_malformed"),
        (json!([]), "token_malformed"),
        (json!(null), "token_malformed"),
    ] {
        let token = mint(&with(good_claims(), json!({ "realm_access": access })));
        assert_eq!(world.code(&token).await, expected, "{access}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[tokio::test]
async fn only_those_whose_tokens_are_taken() {
    let only = ClaimTest {
        claim: ClaimPath::top_level("org"),
        values: vec![ClaimValue::Text(Glob::Exact("ours".into()))],
    };
    let world = World::new(|settings| settings.only = vec![only]).await;
    for (org, expected) in [
        (json!("ours"), "ok"),
        (json!("theirs"), "token_issuer_unknown"),
        (json!(null), "token_issuer_unknown"),
    ] {
        assert_eq!(world.code(&mint(&with(good_claims(), json!({ "org": org })))).await, expected, "{org}");
    }
}

#[tokio::test]
async fn words_are_read_in_every_form_and_no_wrong_one() {
    let path = |names: &[&str]| Some(ClaimPath(names.iter().map(|name| (*name).into()).collect()));
    let world = World::new(|settings| {
        settings.claims.roles = path(&["https://corp/realm", "roles"]);
    })
    .await;
    let (scopes_max, groups_max) =
        (TokenLimits::FOR_TESTS.scope_count_max, TokenLimits::FOR_TESTS.group_count_max);
    let mut seen = 0;
    for (changes, expected) in [
        (json!({}), Ok((1, 0, 0))),
        (json!({ "scope": "a b  c " }), Ok((3, 0, 0))),
        (json!({ "scope": "" }), Ok((0, 0, 0))),
        (json!({ "scope": ["a", "b"] }), Ok((2, 0, 0))),
        (json!({ "scope": null }), Ok((0, 0, 0))),
        (json!({ "groups": "Domain Admins" }), Ok((1, 1, 0))),
        (json!({ "groups": ["a", "b c"] }), Ok((1, 2, 0))),
        (json!({ "groups": { "a": {}, "b": {} } }), Ok((1, 2, 0))),
        (json!({ "https://corp/realm": { "roles": ["x"] } }), Ok((1, 0, 1))),
        (json!({ "https://corp/realm": {} }), Ok((1, 0, 0))),
        (json!({ "https://corp/realm": "x" }), Err("token_malformed")),
        (json!({ "https://corp/realm": { "roles": 1 } }), Err("token_malformed")),
        (json!({ "scope": 1 }), Err("token_malformed")),
        (json!({ "scope": { "a": 1 } }), Err("token_malformed")),
        (json!({ "scope": ["a", 1] }), Err("token_malformed")),
        (json!({ "groups": [["a"]] }), Err("token_malformed")),
        (json!({ "groups": true }), Err("token_malformed")),
        (json!({ "sub": 7 }), Err("token_malformed")),
        (json!({ "sub": "" }), Err("token_malformed")),
        (json!({ "client_id": ["web"] }), Err("token_malformed")),
        (json!({ "acr": 1 }), Err("token_malformed")),
        (json!({ "jti": {} }), Err("token_malformed")),
        (json!({ "act": "x" }), Err("token_malformed")),
        (json!({ "_claim_names": { "groups": "src1" } }), Err("token_malformed")),
        (json!({ "_claim_names": { "https://corp/realm": "src1" } }), Err("token_malformed")),
        (json!({ "_claim_names": { "address": "src1" } }), Ok((1, 0, 0))),
        (json!({ "_claim_names": { "address": "src1", "groups": "src1" } }), Err("token_malformed")),
        (json!({ "_claim_names": "groups" }), Err("token_malformed")),
        (json!({ "hasgroups": true }), Err("token_malformed")),
        (json!({ "hasgroups": "true" }), Err("token_malformed")),
        (json!({ "hasgroups": false }), Ok((1, 0, 0))),
        (json!({ "scope": vec!["a"; scopes_max] }), Ok((scopes_max, 0, 0))),
        (json!({ "scope": vec!["a"; scopes_max + 1] }), Err("limit_exceeded")),
        (json!({ "groups": vec!["a"; groups_max] }), Ok((1, groups_max, 0))),
        (json!({ "groups": vec!["a"; groups_max + 1] }), Err("limit_exceeded")),
    ] {
        let read = world.caller(&mint(&with(good_claims(), changes.clone()))).await;
        let read = read.map(|caller| (caller.scopes.len(), caller.groups.len(), caller.roles.len()));
        assert_eq!(read.map_err(|error| error.code()), expected, "{changes}");
        seen += 1;
    }
    assert_eq!(seen, 35);
    let world = World::new(|settings| settings.claims.groups = None).await;
    let elsewhere = mint(&with(good_claims(), json!({ "hasgroups": true })));
    assert_eq!(world.code(&elsewhere).await, "ok", "nobody asks for its groups");
}

#[tokio::test]
async fn a_bound_token_is_worth_nothing_elsewhere() {
    let world = World::new(|_| {}).await;
    let ours = CertificateHash([7; 32]);
    let token = |cnf: Value| mint(&with(good_claims(), json!({ "cnf": cnf })));
    let bound = token(json!({ "x5t#S256": b64([7; 32]) }));
    let caller = world.caller_on(&bound, Some(&ours)).await.expect("a caller");
    assert_eq!(caller.confirmation, Some(Confirmation::Certificate([7; 32])));
    // the second time from memory, and judged all the same
    for certificate in [None, Some(&CertificateHash([8; 32]))] {
        let refused = world.caller_on(&bound, certificate).await.map_err(|error| error.code());
        assert_eq!(refused.err(), Some("token_not_sender_constrained"), "{certificate:?}");
    }
    assert!(world.caller_on(&bound, Some(&ours)).await.is_ok());
    let mut seen = 0;
    for (cnf, expected) in [
        (json!({ "jkt": b64([7; 32]) }), "token_not_sender_constrained"),
        (json!({ "jkt": "abc" }), "token_malformed"),
        (json!({ "kid": "abc" }), "token_not_sender_constrained"),
        (json!({ "jwk": {} }), "token_not_sender_constrained"),
        (json!({}), "token_not_sender_constrained"),
        (json!({ "x5t#S256": b64([7; 32]), "jkt": "abc" }), "token_not_sender_constrained"),
        (json!({ "x5t#S256": b64([7; 31]) }), "token_malformed"),
        (json!({ "x5t#S256": 7 }), "token_malformed"),
        (json!({ "jkt": 7 }), "token_malformed"),
        (json!("x"), "token_malformed"),
    ] {
        let read = world.caller_on(&token(cnf.clone()), Some(&ours)).await;
        assert_eq!(read.map_or_else(|error| error.code(), |_| "ok"), expected, "{cnf}");
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[tokio::test]
async fn no_error_says_what_the_token_said_but_for_whom_and_by_whom() {
    let world = World::new(|_| {}).await;
    let canary = "canary7f3a";
    let mut seen = 0;
    for changes in [
        json!({ "exp": canary }),
        json!({ "sub": [canary] }),
        json!({ canary: 1, "nonce": canary }),
        json!({ "scope": { canary: 1 } }),
        json!({ "act": { "sub": [canary] } }),
        json!({ "cnf": { canary: 1 } }),
        json!({ "typ": "ID", "x": canary }),
        json!({ "_claim_names": canary }),
    ] {
        let error = world.caller(&mint(&with(good_claims(), changes.clone()))).await.expect_err("a refusal");
        assert!(!format!("{error} {error:?}").contains(canary), "{error}");
        seen += 1;
    }
    for header in [
        json!({ "alg": canary }),
        json!({ "alg": "ES256", canary: 1 }),
        json!({ "alg": "ES256", "kid": canary }),
    ] {
        let error =
            world.caller(&mint_with(&P256, header, good_claims().to_string())).await.expect_err("a refusal");
        assert!(!format!("{error} {error:?}").contains(canary), "{error}");
        seen += 1;
    }
    assert_eq!(seen, 11);
}
