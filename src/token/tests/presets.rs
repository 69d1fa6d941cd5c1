//! One set of claims for each provider: good, and what must be refused.

use super::*;
use crate::identity::ActorKind;
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};
use crate::policy::pattern::Glob;

struct Fixture {
    preset: Preset,
    urls: &'static [&'static str],
    audience: &'static str,
    /// As [`IssuerSettings::only`].
    only: Option<(&'static str, &'static str)>,
    good: Value,
    /// Actor, client, scopes, groups and roles of the good one.
    reads: (ActorKind, Option<&'static str>, usize, usize, usize),
    /// Changes to the good one, and what then happens.
    cases: Vec<(&'static str, Value, &'static str)>,
}

fn fixtures() -> Vec<Fixture> {
    use ActorKind::{Human, Service, Unknown};
    let times = |claims: Value| with(claims, json!({ "iat": NOW, "exp": NOW + 600 }));
    let tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47";
    let entra = |iss: &str| iss.replace("{tid}", tenant);
    let v2 = "https://login.microsoftonline.com/{tid}/v2.0";
    vec![
        Fixture {
            preset: Preset::Okta,
            urls: &["https://x.okta.com/oauth2/default"],
            audience: "api://default",
            only: None,
            good: times(
                json!({ "iss": "https://x.okta.com/oauth2/default", "aud": "api://default", "ver": 1,
                "scp": ["orders:read", "openid"], "cid": "0oa1", "uid": "00u1", "sub": "a@x.example", "groups": ["ops"] }),
            ),
            reads: (Human, Some("0oa1"), 2, 1, 0),
            cases: vec![
                ("machine", json!({ "uid": null, "sub": "0oa1" }), "ok"),
                (
                    "ID token",
                    json!({ "cid": null, "scp": null, "nonce": "n", "at_hash": "h" }),
                    "token_type_refused",
                ),
                ("ID token without nonce", json!({ "cid": null, "scp": null }), "token_type_refused"),
            ],
        },
        Fixture {
            preset: Preset::Auth0,
            urls: &["https://t.eu.auth0.com/"],
            audience: "https://api",
            only: None,
            good: times(
                json!({ "iss": "https://t.eu.auth0.com/", "sub": "auth0|7", "azp": "spa", "scope": "openid a",
                "aud": ["https://api", "https://t.eu.auth0.com/userinfo"], "permissions": ["read:a"] }),
            ),
            reads: (Human, Some("spa"), 2, 0, 1),
            cases: vec![
                ("machine", json!({ "sub": "x@clients", "gty": "client-credentials" }), "ok"),
                ("without the slash", json!({ "iss": "https://t.eu.auth0.com" }), "token_issuer_unknown"),
                ("ID token", json!({ "aud": "spa", "nonce": "n" }), "token_type_refused"),
            ],
        },
        Fixture {
            preset: Preset::Entra,
            urls: &["https://login.microsoftonline.com/{tid}/v2.0"],
            audience: "6a7b",
            only: Some(("tid", "72f988bf-86f1-41af-91ab-2d7cd011db47")),
            good: times(
                json!({ "iss": entra(v2), "tid": tenant, "aud": "6a7b", "azp": "c1", "azpacr": "1", "ver": "2.0",
                "scp": "a b", "oid": "o", "sub": "s", "groups": ["g1"], "roles": ["R"] }),
            ),
            reads: (Human, Some("c1"), 2, 1, 1),
            cases: vec![
                ("machine", json!({ "scp": null, "idtyp": "app" }), "ok"),
                (
                    "overage",
                    json!({ "groups": null, "_claim_names": { "groups": "src1" } }),
                    "token_malformed",
                ),
                ("overage, implicit", json!({ "groups": null, "hasgroups": true }), "token_malformed"),
                ("ID token", json!({ "azp": null, "scp": null, "azpacr": null }), "token_type_refused"),
                ("ID token with nonce", json!({ "nonce": "n" }), "token_type_refused"),
                (
                    "other tenant",
                    json!({ "tid": "t2", "iss": v2.replace("{tid}", "t2") }),
                    "token_issuer_unknown",
                ),
                ("tenants mixed", json!({ "tid": "t2" }), "token_issuer_unknown"),
                (
                    "v1",
                    json!({ "iss": format!("https://sts.windows.net/{tenant}/") }),
                    "token_issuer_unknown",
                ),
                ("the template itself", json!({ "iss": v2, "tid": "{tid}" }), "token_issuer_unknown"),
            ],
        },
        Fixture {
            preset: Preset::Entra,
            urls: &["https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/"],
            audience: "api://orders",
            only: None,
            good: times(
                json!({ "iss": entra("https://sts.windows.net/{tid}/"), "tid": tenant, "aud": "api://orders",
                "appid": "c1", "appidacr": "1", "ver": "1.0", "roles": ["R"], "idtyp": "app" }),
            ),
            reads: (Service, Some("c1"), 0, 0, 1),
            cases: vec![("neither person nor app", json!({ "idtyp": null }), "ok")],
        },
        Fixture {
            preset: Preset::Cognito,
            urls: &["https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab1"],
            audience: "5n9",
            only: None,
            good: times(
                json!({ "iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab1", "client_id": "5n9",
                "token_use": "access", "scope": "openid orders/read", "cognito:groups": ["ops"], "sub": "9a1c",
                "username": "9a1c", "jti": "j", "auth_time": NOW, "version": 2 }),
            ),
            reads: (Human, Some("5n9"), 2, 1, 0),
            cases: vec![
                ("machine", json!({ "username": null, "sub": "5n9", "cognito:groups": null }), "ok"),
                ("with aud", json!({ "aud": "5n9" }), "ok"),
                ("other client", json!({ "client_id": "6x" }), "token_wrong_audience"),
                ("client of another type", json!({ "client_id": ["5n9"] }), "token_malformed"),
                (
                    "ID token",
                    json!({ "aud": "5n9", "token_use": "id", "client_id": null }),
                    "token_type_refused",
                ),
                ("no mark", json!({ "token_use": null }), "token_type_refused"),
            ],
        },
        Fixture {
            preset: Preset::Keycloak,
            urls: &["https://kc/realms/r"],
            audience: "orders",
            only: None,
            good: times(
                json!({ "iss": "https://kc/realms/r", "aud": ["account", "orders"], "typ": "Bearer", "azp": "web",
                "sub": "u", "sid": "s", "scope": "openid", "realm_access": { "roles": ["a", "b"] }, "acr": "1" }),
            ),
            reads: (Human, Some("web"), 1, 0, 2),
            cases: vec![
                ("with nonce, as older ones", json!({ "nonce": "n" }), "ok"),
                ("machine", json!({ "sid": null, "preferred_username": "service-account-x" }), "ok"),
                ("ID token", json!({ "typ": "ID" }), "token_type_refused"),
                ("refresh token", json!({ "typ": "Refresh" }), "token_type_refused"),
                ("offline token", json!({ "typ": "Offline" }), "token_type_refused"),
                ("no type", json!({ "typ": null }), "token_type_refused"),
                ("DPoP, without a key", json!({ "typ": "DPoP" }), "token_type_refused"),
                (
                    "DPoP, by a certificate",
                    json!({ "typ": "DPoP", "cnf": { "x5t#S256": b64([7; 32]) } }),
                    "token_type_refused",
                ),
                // Taken for an access token, and then shown without a proof.
                (
                    "DPoP",
                    json!({ "typ": "DPoP", "cnf": { "jkt": b64([7; 32]) } }),
                    "token_not_sender_constrained",
                ),
                (
                    "DPoP, as older ones",
                    json!({ "cnf": { "jkt": b64([7; 32]) } }),
                    "token_not_sender_constrained",
                ),
                (
                    "a bound refresh token",
                    json!({ "typ": "Refresh", "cnf": { "jkt": b64([7; 32]) } }),
                    "token_type_refused",
                ),
                ("roles of another type", json!({ "realm_access": [] }), "token_malformed"),
                ("only account", json!({ "aud": "account" }), "token_wrong_audience"),
            ],
        },
        Fixture {
            preset: Preset::Google,
            urls: &["https://accounts.google.com"],
            audience: "https://orders.example",
            only: Some(("hd", "shop.example")),
            good: times(
                json!({ "iss": "https://accounts.google.com", "aud": "https://orders.example", "azp": "c1",
                "sub": "1", "hd": "shop.example", "email": "a@shop.example", "email_verified": true, "at_hash": "h" }),
            ),
            reads: (Human, Some("c1"), 0, 0, 0),
            cases: vec![
                ("short issuer", json!({ "iss": "accounts.google.com" }), "ok"),
                ("other domain", json!({ "hd": "evil.example" }), "token_issuer_unknown"),
                ("no domain", json!({ "hd": null }), "token_issuer_unknown"),
            ],
        },
        Fixture {
            preset: Preset::Kubernetes,
            urls: &["https://kubernetes.default.svc.cluster.local"],
            audience: "orders",
            only: None,
            good: times(json!({ "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["orders"],
                "sub": "system:serviceaccount:shop:web", "kubernetes.io": { "namespace": "shop", "warnafter": 1 } })),
            reads: (Service, None, 0, 0, 0),
            cases: vec![
                ("legacy secret", json!({ "exp": null }), "token_malformed"),
                (
                    "for the API server",
                    json!({ "aud": ["https://kubernetes.default.svc"] }),
                    "token_wrong_audience",
                ),
            ],
        },
        Fixture {
            preset: Preset::Github,
            urls: &["https://token.actions.githubusercontent.com"],
            audience: "orders",
            only: Some(("repository_owner_id", "65")),
            good: times(json!({ "iss": "https://token.actions.githubusercontent.com", "aud": "orders",
                "sub": "repo:o/r:ref:refs/heads/main", "repository_id": "74", "repository_owner_id": "65" })),
            reads: (Service, None, 0, 0, 0),
            cases: vec![
                ("other owner", json!({ "repository_owner_id": "66" }), "token_issuer_unknown"),
                ("default audience", json!({ "aud": "https://github.com/o" }), "token_wrong_audience"),
            ],
        },
        Fixture {
            preset: Preset::Spiffe,
            urls: &["spiffe://shop.example"],
            audience: "orders",
            only: None,
            good: times(json!({ "aud": ["orders"], "sub": "spiffe://shop.example/web" })),
            reads: (Service, None, 0, 0, 0),
            cases: vec![
                ("other trust domain", json!({ "sub": "spiffe://evil.example/web" }), "token_issuer_unknown"),
                (
                    "issuer that nobody named",
                    json!({ "iss": "https://spire.example" }),
                    "token_issuer_unknown",
                ),
                (
                    "its issuer, another's subject",
                    json!({ "iss": "spiffe://shop.example", "sub": "spiffe://x/y" }),
                    "token_issuer_unknown",
                ),
                ("no expiry", json!({ "exp": null }), "token_malformed"),
            ],
        },
        Fixture {
            preset: Preset::Generic,
            urls: &["https://as.example"],
            audience: "orders",
            only: None,
            good: times(
                json!({ "iss": "https://as.example", "aud": "orders", "sub": "a", "client_id": "c", "scope": "x",
                "groups": ["g"], "roles": ["r"] }),
            ),
            reads: (Unknown, Some("c"), 1, 1, 1),
            cases: vec![("ID token", json!({ "nonce": "n" }), "token_type_refused")],
        },
    ]
}

async fn world_of(fixture: &Fixture) -> World {
    let provider = Provider::start(None).await;
    let key = match fixture.preset {
        Preset::Spiffe => with(P256.jwk("k1"), json!({ "use": "jwt-svid" })),
        Preset::Entra => with(
            P256.jwk("k1"),
            json!({ "issuer": if fixture.urls[0].starts_with("https://sts") {
                "https://sts.windows.net/{tenantid}/"
            } else {
                "https://login.microsoftonline.com/{tenantid}/v2.0"
            } }),
        ),
        _ => with(P256.jwk("k1"), json!({ "use": "sig", "alg": "ES256" })),
    };
    provider.set("/jwks", key_set(&[key]));
    let keys = keys_at(KeySource::Url(provider.url("/jwks")));
    let mut settings = settings(fixture.preset, fixture.urls[0], keys);
    let urls: Vec<&str> = fixture.urls.iter().chain(fixture.preset.also_issuer()).copied().collect();
    settings.url = IssuerUrl::parse(&urls).expect("urls");
    settings.audience = vec![fixture.audience.into()];
    settings.only = fixture
        .only
        .iter()
        .map(|(claim, value)| ClaimTest {
            claim: ClaimPath::top_level(claim),
            values: vec![ClaimValue::Text(Glob::Exact((*value).into()))],
        })
        .collect();
    assert_eq!(fixture.preset.needs_only(&settings.url).is_some(), fixture.only.is_some());
    World::of(provider, vec![settings])
}

#[tokio::test]
async fn every_provider_is_read_and_its_other_tokens_are_refused() {
    let mut seen = (0, 0);
    for fixture in fixtures() {
        let world = world_of(&fixture).await;
        let name = fixture.preset.as_str();
        let caller = match world.caller(&mint(&fixture.good)).await {
            Ok(caller) => caller,
            Err(error) => panic!("{name}: {error}"),
        };
        let read = (
            caller.actor,
            caller.client.as_deref(),
            caller.scopes.len(),
            caller.groups.len(),
            caller.roles.len(),
        );
        assert_eq!(read, fixture.reads, "{name}");
        let common = [
            ("wrong audience", json!({ "aud": "x", "client_id": "x" }), "token_wrong_audience"),
            ("expired", json!({ "exp": NOW - 600 }), "token_expired"),
        ];
        for (what, changes, expected) in common.into_iter().chain(fixture.cases) {
            let token = mint(&with(fixture.good.clone(), changes));
            assert_eq!(world.code(&token).await, expected, "{name}: {what}");
            if what == "machine" {
                let actor = world.caller(&token).await.map(|caller| caller.actor);
                assert_eq!(actor, Ok(ActorKind::Service), "{name}: {what}");
            }
            seen.1 += 1;
        }
        seen.0 += 1;
    }
    assert_eq!(seen, (11, 69));
}

#[tokio::test]
async fn a_key_of_entra_signs_for_its_own_tenants() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.preset == Preset::Entra).expect("entra");
    let token = mint(&fixture.good);
    let mut seen = 0;
    for (issuer, expected) in [
        ("https://login.microsoftonline.com/{tenantid}/v2.0", "ok"),
        ("https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0", "ok"),
        ("https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0", "token_key_unknown"),
        ("https://evil.example/{tenantid}/v2.0", "token_key_unknown"),
    ] {
        let world = world_of(&fixture).await;
        world.provider.set("/jwks", key_set(&[with(P256.jwk("k1"), json!({ "issuer": issuer }))]));
        assert_eq!(world.code(&token).await, expected, "{issuer}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[tokio::test]
async fn a_bundle_gives_its_token_keys_alone() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.preset == Preset::Spiffe).expect("spiffe");
    let world = world_of(&fixture).await;
    let svid = with(OTHER.jwk("k2"), json!({ "use": "x509-svid", "x5c": ["AA"] }));
    let plain = with(P384.jwk("k3"), json!({ "use": "sig" }));
    let key = with(P256.jwk("k1"), json!({ "use": "jwt-svid" }));
    world.provider.set("/jwks", key_set(&[svid, plain, key]));
    for (typ, expected) in [
        (json!(null), "ok"),
        (json!("JWT"), "ok"),
        (json!("JOSE"), "ok"),
        (json!("at+jwt"), "token_type_refused"),
    ] {
        let header = with(json!({ "alg": "ES256", "kid": "k1" }), json!({ "typ": typ }));
        assert_eq!(world.code(&mint_with(&P256, header, fixture.good.to_string())).await, expected, "{typ}");
    }
    assert_eq!(world.verifier.issuers()[0].keys.status().keys, 1);
    let other = mint_with(&OTHER, json!({ "alg": "ES256", "kid": "k2" }), fixture.good.to_string());
    assert_eq!(world.code(&other).await, "token_key_unknown");
    let eddsa = mint_with(&ED25519, json!({ "alg": "EdDSA", "kid": "k1" }), fixture.good.to_string());
    assert_eq!(world.code(&eddsa).await, "token_algorithm_refused");
}

#[tokio::test]
async fn a_graph_token_says_why_it_cannot_be_taken() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.preset == Preset::Entra).expect("entra");
    let world = world_of(&fixture).await;
    let header = json!({ "alg": "ES256", "kid": "k1", "nonce": "n" });
    let error =
        world.caller(&mint_with(&P256, header, fixture.good.to_string())).await.expect_err("a refusal");
    assert!(error.to_string().contains("Microsoft Graph"), "{error}");
}

#[tokio::test]
async fn the_policy_knows_what_a_preset_filled_in() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.preset == Preset::Okta).expect("okta");
    let world = world_of(&fixture).await;
    let mut settings = world.verifier.issuers()[0].settings.clone();
    let facts = settings.facts();
    assert_eq!(facts.actors, [ActorKind::Human, ActorKind::Service, ActorKind::Unknown]);
    let claims: Vec<&str> = facts.actor_claims.iter().map(|claim| &**claim).collect();
    assert_eq!(claims, ["cid", "sub", "uid"]);
    assert_eq!(
        (facts.client.as_deref(), facts.groups.as_deref(), facts.roles),
        (Some("cid"), Some("groups"), None)
    );
    assert!(facts.requires.is_empty());
    settings.token_type = TokenType::AccessToken;
    assert!(settings.facts().requires.contains(&"client_id".into()));
}
