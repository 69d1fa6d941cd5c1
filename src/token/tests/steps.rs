//! A token's way through the verifier.

use serde_json::json;

use super::*;
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};

#[tokio::test]
async fn a_trace_says_at_which_step_a_token_is_refused() {
    let only = ClaimTest {
        claim: ClaimPath::top_level("tenant"),
        values: vec![ClaimValue::Text("shop".parse().expect("a glob"))],
    };
    let world = World::new(|settings| {
        settings.requires = vec!["client_id".into()];
        settings.only = vec![only];
    })
    .await;
    let good = with(good_claims(), json!({ "tenant": "shop" }));
    let claims = |changes| mint(&with(good.clone(), changes));
    let header = |header| mint_with(&P256, header, good.to_string());
    let bound = json!({ "cnf": { "x5t#S256": b64([7; 32]) } });
    let mut steps = Vec::new();
    for (token, last, code) in [
        ("opaque".to_owned(), Step::Structure, "token_malformed"),
        (claims(json!({ "iss": "https://other.example" })), Step::Issuer, "token_issuer_unknown"),
        (
            header(json!({ "alg": "ES256", "kid": "k1", "typ": "logout+jwt" })),
            Step::Type,
            "token_type_refused",
        ),
        (header(json!({ "alg": "ES512", "kid": "k1" })), Step::Algorithm, "token_algorithm_refused"),
        (header(json!({ "alg": "ES256", "kid": "k2" })), Step::Key, "token_key_unknown"),
        (
            mint_with(&OTHER, json!({ "alg": "ES256", "kid": "k1" }), good.to_string()),
            Step::Signature,
            "token_bad_signature",
        ),
        (claims(json!({ "typ": "ID" })), Step::Kind, "token_type_refused"),
        (claims(json!({ "exp": NOW - 301 })), Step::Times, "token_expired"),
        (claims(json!({ "exp": "soon" })), Step::Times, "token_malformed"),
        (claims(json!({ "aud": "https://other.example" })), Step::Audience, "token_wrong_audience"),
        (claims(json!({ "client_id": null })), Step::Required, "token_malformed"),
        (claims(json!({ "tenant": "other" })), Step::Only, "token_issuer_unknown"),
        (claims(json!({ "scope": 7 })), Step::Claims, "token_malformed"),
        (claims(bound.clone()), Step::Binding, "token_not_sender_constrained"),
    ] {
        let trace = world.verifier.trace(Scheme::Bearer, &token, &Shown::on(None)).await;
        let refused = trace.outcome.expect_err("a refusal");
        assert_eq!((trace.last, refused.code()), (last, code), "{refused}");
        // the same as a request gets
        assert_eq!(world.code(&token).await, code);
        let issuer = trace.issuer.is_some_and(|name| name.as_str() == "corp");
        assert_eq!(issuer, last > Step::Issuer);
        steps.push(last);
    }
    steps.dedup();
    // the list of what is revoked is asked beside it
    assert_eq!(steps, Step::ALL[..13]);

    let certificate = CertificateHash([7; 32]);
    for (token, certificate) in [(claims(json!({})), None), (claims(bound), Some(&certificate))] {
        let trace = world.verifier.trace(Scheme::Bearer, &token, &Shown::on(certificate)).await;
        assert_eq!(trace.last, Step::Binding);
        assert_eq!(trace.outcome.expect("a caller").subject.as_deref(), Some("alice"));
        let said = trace.said.expect("a token");
        assert_eq!((said.algorithm, said.kid.as_deref()), (Some(Algorithm::Es256), Some("k1")));
    }
}
