//! Tokens for upstreams, got from a double of a token endpoint: who asks, how often, and what is kept.

mod waiting;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::authentication::Fields;
use super::endpoint::TokenEndpoint;
use super::*;
use crate::clock::Clock;
use crate::fetch::SecretSource;
use crate::fetch::double::{Answer, Provider};
use crate::metrics::CredentialMetrics;
use crate::tls::Own;
use crate::token::Location;
use crate::upstream::testing::trusting_nobody;

const TOKEN: &str = "/token";
const SECOND: Duration = Duration::from_secs(1);

struct Desk {
    provider: Provider,
    clock: Clock,
    folder: tempfile::TempDir,
}

impl Desk {
    async fn open() -> Desk {
        let desk = Desk {
            provider: Provider::start(None).await,
            clock: Clock::manual(Clock::system().now()),
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(desk.folder.path().join("secret"), "s3cr:t &ü\n").unwrap();
        desk.issues("first", 300);
        desk
    }

    fn issues(&self, token: &str, seconds: u64) {
        let issued_token_type = "urn:ietf:params:oauth:token-type:access_token";
        let token = json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds,
            "issued_token_type": issued_token_type });
        self.provider.set(TOKEN, Answer::json(token));
    }

    fn refuses(&self, status: u16, code: &str) {
        let body = json!({ "error": code, "error_description": "do not repeat me" }).to_string().into();
        self.provider.set(TOKEN, Answer { status, headers: Vec::new(), body });
    }

    fn secret(&self) -> SecretSource {
        SecretSource::File(self.folder.path().join("secret"))
    }

    fn endpoint(&self, authentication: Authentication) -> EndpointSettings {
        EndpointSettings {
            location: Location::Url(self.provider.url(TOKEN)),
            ca: None,
            allow_http: true,
            allow_private_addresses: false,
            client_id: "orders:1".into(),
            authentication,
            own: None,
        }
    }

    fn wanted() -> Wanted {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Wanted {
            scope: words(&["a", "b"]),
            audience: words(&["payments"]),
            resource: words(&["https://payments.example", "https://ledger.example"]),
        }
    }

    fn own(&self, authentication: Authentication) -> Arc<OwnToken> {
        let settings = OwnSettings { endpoint: self.endpoint(authentication), wanted: Desk::wanted() };
        let metrics = CredentialMetrics::default();
        Arc::new(OwnToken::new(settings, &trusting_nobody().config, metrics, self.clock.clone()))
    }

    fn exchanges(&self, actor: Option<Arc<OwnToken>>) -> Arc<Exchanges> {
        self.exchanges_as(None, actor)
    }

    fn exchanges_as(&self, own: Option<Own>, actor: Option<Arc<OwnToken>>) -> Arc<Exchanges> {
        let endpoint = self.endpoint(Authentication::SecretPost(self.secret()));
        let settings = ExchangeSettings {
            endpoint: EndpointSettings { own, ..endpoint },
            wanted: Desk::wanted(),
            with_actor: actor.is_some(),
            entries_max: 100,
        };
        let metrics = CredentialMetrics::default();
        Arc::new(Exchanges::new(settings, &trusting_nobody().config, actor, metrics, self.clock.clone()))
    }

    /// The fields of the last form, with several values of one name in one.
    fn form(&self) -> HashMap<String, String> {
        let body = self.provider.last_request(TOKEN).unwrap().body;
        let mut fields: HashMap<String, String> = HashMap::new();
        for (name, value) in form_urlencoded::parse(&body) {
            let field = fields.entry(name.into_owned()).or_default();
            field.push_str(if field.is_empty() { "" } else { "|" });
            field.push_str(&value);
        }
        fields
    }

    fn subject<'t>(&self, token: &'t str, seconds: u64) -> Subject<'t> {
        Subject { token, expires: self.clock.now().plus(SECOND * u32::try_from(seconds).unwrap()) }
    }
}

fn shown(value: Result<HeaderValue, CredentialError>) -> String {
    let value = value.unwrap();
    assert!(value.is_sensitive());
    value.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn many_who_need_our_token_cause_one_request_until_it_ends() {
    let desk = Desk::open().await;
    let own = desk.own(Authentication::SecretBasic(desk.secret()));
    let all = futures_util::future::join_all((0..32).map(|_| own.current())).await;
    assert!(all.into_iter().all(|token| shown(token) == "Bearer first"));
    assert_eq!(desk.provider.hits(TOKEN), 1);
    desk.issues("second", 300);
    desk.clock.advance(SECOND * 294);
    assert_eq!(shown(own.current().await), "Bearer first");
    desk.clock.advance(SECOND);
    assert_eq!(shown(own.current().await), "Bearer second");
    assert_eq!(desk.provider.hits(TOKEN), 2);
    let status = own.status();
    assert_eq!(status.expires, Some(desk.clock.now().plus(SECOND * 300)));
    assert_eq!(status.refresh, Some(desk.clock.now().plus(SECOND * 200)));
    assert!(!format!("{own:?}").contains("second"));
}

#[tokio::test]
async fn the_last_good_token_serves_until_its_end_and_then_nothing_does() {
    let desk = Desk::open().await;
    let own = desk.own(Authentication::SecretBasic(desk.secret()));
    let kept = tokio::spawn(Arc::clone(&own).keep_fresh());
    assert_eq!(shown(own.current().await), "Bearer first");
    kept.abort();
    desk.refuses(503, "temporarily_unavailable");
    desk.clock.advance(SECOND * 290);
    assert_eq!(shown(own.current().await), "Bearer first");
    desk.clock.advance(SECOND * 10);
    let before = desk.provider.hits(TOKEN);
    for _ in 0..20 {
        let error = own.current().await.unwrap_err();
        assert!(
            matches!(&error, CredentialError::Unavailable(why) if why.contains("answers 503")),
            "{error}"
        );
        assert!(!error.to_string().contains("do not repeat me"));
    }
    assert_eq!(desk.provider.hits(TOKEN), before + 1, "it rests after a failure");
    desk.issues("again", 300);
    desk.clock.advance(SECOND);
    assert_eq!(shown(own.current().await), "Bearer again");
}

#[tokio::test]
async fn the_endpoint_is_told_who_asks_and_for_what() {
    let desk = Desk::open().await;
    let own = desk.own(Authentication::SecretBasic(desk.secret()));
    own.current().await.unwrap();
    let (form, headers) = (desk.form(), desk.provider.last(TOKEN));
    let expected = [
        ("grant_type", "client_credentials"),
        ("scope", "a b"),
        ("audience", "payments"),
        ("resource", "https://payments.example|https://ledger.example"),
    ];
    assert_eq!(form, HashMap::from(expected.map(|(name, value)| (name.to_owned(), value.to_owned()))));
    // RFC 6749 §2.3.1: `orders:1` and `s3cr:t &ü`, each in the encoding of forms
    assert_eq!(headers["authorization"], "Basic b3JkZXJzJTNBMTpzM2NyJTNBdCslMjYlQzMlQkM=");
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");

    let own = desk.own(Authentication::SecretPost(desk.secret()));
    own.current().await.unwrap();
    let (form, headers) = (desk.form(), desk.provider.last(TOKEN));
    assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), ("orders:1", "s3cr:t &ü"));
    assert!(!headers.contains_key("authorization"));

    let own = desk.own(Authentication::Tls);
    own.current().await.unwrap();
    assert_eq!((desk.form().len(), desk.form()["client_id"].as_str()), (5, "orders:1"));

    std::fs::write(desk.folder.path().join("secret"), " \n").unwrap();
    let own = desk.own(Authentication::SecretPost(desk.secret()));
    let hits = desk.provider.hits(TOKEN);
    assert!(matches!(own.current().await, Err(CredentialError::Unavailable(_))));
    assert_eq!(desk.provider.hits(TOKEN), hits, "without its secret nothing is asked");
}

#[tokio::test]
async fn an_assertion_is_for_one_endpoint_one_minute_and_once() {
    let desk = Desk::open().await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let key = Arc::new(AssertionKey::read(&der, Some("orders-1".to_owned())).unwrap());
    let mut seen = Vec::new();
    for _ in 0..2 {
        desk.own(Authentication::PrivateKeyJwt(Arc::clone(&key))).current().await.unwrap();
        let form = desk.form();
        assert_eq!(form["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        let (message, signature) = form["client_assertion"].rsplit_once('.').unwrap();
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key_raw());
        public.verify(message.as_bytes(), &decoded(signature)).unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let [header, claims]: [Value; 2] =
            [header, claims].map(|part| serde_json::from_slice(&decoded(part)).unwrap());
        assert_eq!(header, json!({ "alg": "ES256", "typ": "JWT", "kid": "orders-1" }));
        let now = desk.clock.now().unix_seconds();
        let endpoint = desk.provider.url(TOKEN);
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("orders:1"), &json!("orders:1")));
        assert_eq!((&claims["aud"], &claims["exp"]), (&json!(endpoint.as_str()), &json!(now + 60)));
        seen.push(claims["jti"].as_str().unwrap().to_owned());
    }
    assert_ne!(seen[0], seen[1]);
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(p384.serialize_der()));
    assert!(AssertionKey::read(&der, None).is_err(), "ES256 is P-256");
    let again = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    assert!(AssertionKey::read(&again, None).unwrap() != *key && !format!("{key:?}").contains("Pair"));
    assert_eq!(AssertionKey::read(&again, Some("orders-1".to_owned())).unwrap(), *key);
}

#[tokio::test]
async fn the_endpoint_is_the_one_that_discovery_names_for_exactly_this_issuer() {
    let desk = Desk::open().await;
    let document = "/.well-known/openid-configuration";
    let issuer = desk.provider.url("/").to_string();
    let named = |issuer: &str| {
        json!({ "issuer": issuer, "token_endpoint": desk.provider.url(TOKEN),
            "mtls_endpoint_aliases": { "token_endpoint": desk.provider.url("/mtls") } })
    };
    let token_by = |authentication: Authentication| {
        let location =
            Location::Discovery { document: desk.provider.url(document), issuer: issuer.as_str().into() };
        let endpoint = EndpointSettings { location, ..desk.endpoint(authentication) };
        let settings = OwnSettings { endpoint, wanted: Wanted::default() };
        let metrics = CredentialMetrics::default();
        Arc::new(OwnToken::new(settings, &trusting_nobody().config, metrics, desk.clock.clone()))
    };
    let secret = || Authentication::SecretPost(desk.secret());
    let bad = [
        named("https://other.example"),
        json!({ "issuer": issuer }),
        json!({ "token_endpoint": "x" }),
        json!([]),
        json!({ "issuer": issuer, "token_endpoint": "http://10.0.0.1/token" }),
    ];
    for document_of in &bad {
        desk.provider.set(document, Answer::json(document_of));
        let error = token_by(secret()).current().await.unwrap_err();
        assert!(matches!(error, CredentialError::Unavailable(_)), "{document_of}");
    }
    assert_eq!((bad.len(), desk.provider.hits(TOKEN)), (5, 0));
    desk.provider.set(document, Answer::json(named(&issuer)));
    assert_eq!(shown(token_by(secret()).current().await), "Bearer first");
    assert!(token_by(Authentication::Tls).current().await.is_err());
    assert_eq!((desk.provider.hits(TOKEN), desk.provider.hits("/mtls")), (1, 1), "RFC 8705 §5");
}

#[tokio::test]
async fn an_endpoint_that_moves_to_another_host_is_told_of() {
    let desk = Desk::open().await;
    let (document, issuer) = ("/.well-known/openid-configuration", desk.provider.url("/").to_string());
    let location =
        Location::Discovery { document: desk.provider.url(document), issuer: issuer.as_str().into() };
    let settings = EndpointSettings { location, ..desk.endpoint(Authentication::SecretPost(desk.secret())) };
    let endpoint = TokenEndpoint::new(settings, &trusting_nobody().config, desk.clock.clone());
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let to = Arc::new(log.reopen().unwrap());
    let _default = tracing::dispatcher::set_default(&subscriber.with_writer(to).into());
    let logged = || -> Vec<Value> {
        let text = std::fs::read_to_string(log.path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let there = desk.provider.url(TOKEN);
    let mut elsewhere = there.clone();
    elsewhere.set_host(Some("localhost")).unwrap();
    for (named, lines) in [(&there, 0), (&there, 0), (&elsewhere, 1), (&elsewhere, 1)] {
        let named = json!({ "issuer": issuer, "token_endpoint": named });
        desk.provider.set(document, Answer::json(named));
        // found anew after a failure
        desk.provider.set(TOKEN, Answer { status: 503, ..Answer::json("") });
        let _ = endpoint.ask(Fields::new(), false).await;
        assert_eq!(logged().len(), lines);
    }
    let moved = &logged()[0];
    assert_eq!([&moved["before"], &moved["now"]], ["127.0.0.1", "localhost"]);
    assert_eq!([&moved["level"], &moved["named"]], ["WARN", "token endpoint"]);
    assert_eq!(desk.provider.hits(document), 4);
}

#[tokio::test]
async fn each_caller_has_an_exchanged_token_of_their_own_no_longer_than_their_own_lasts() {
    let desk = Desk::open().await;
    let exchanges = desk.exchanges(None);
    desk.issues("for-alice", 300);
    let alice = desk.subject("alice.token", 1000);
    let all = futures_util::future::join_all((0..32).map(|_| exchanges.token_for(alice))).await;
    assert!(all.into_iter().all(|token| shown(token) == "Bearer for-alice"));
    let form = desk.form();
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "alice.token"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", "payments"),
        ("scope", "a b"),
    ] {
        assert_eq!(form[name], value);
    }
    assert!(!form.contains_key("actor_token"));
    desk.issues("for-bob", 300);
    assert_eq!(shown(exchanges.token_for(desk.subject("bob.token", 100)).await), "Bearer for-bob");
    assert_eq!(shown(exchanges.token_for(alice).await), "Bearer for-alice");
    assert_eq!((desk.provider.hits(TOKEN), exchanges.status().entries), (2, 2));
    // Bob's own ends before the exchanged one, Alice's after.
    desk.clock.advance(SECOND * 100);
    desk.issues("for-bob-again", 300);
    assert_eq!(shown(exchanges.token_for(desk.subject("bob.token", 1)).await), "Bearer for-bob-again");
    assert_eq!(shown(exchanges.token_for(alice).await), "Bearer for-alice");
    desk.clock.advance(SECOND * 195);
    desk.issues("for-alice-again", 300);
    assert_eq!(shown(exchanges.token_for(alice).await), "Bearer for-alice-again");
    assert_eq!(desk.provider.hits(TOKEN), 4);
    assert!(!format!("{exchanges:?}").contains("for-alice"));
}

#[tokio::test]
async fn a_refusal_is_the_callers_a_failure_is_the_endpoints_and_both_are_remembered_briefly() {
    let desk = Desk::open().await;
    let exchanges = desk.exchanges(None);
    let mallory = desk.subject("mallory.token", 1000);
    desk.refuses(400, "access_denied");
    for _ in 0..20 {
        let error = exchanges.token_for(mallory).await.unwrap_err();
        assert_eq!(error, CredentialError::Refused("the token endpoint answers `access_denied`".into()));
    }
    assert_eq!(desk.provider.hits(TOKEN), 1);
    desk.issues("for-alice", 300);
    assert_eq!(shown(exchanges.token_for(desk.subject("alice.token", 9)).await), "Bearer for-alice");
    assert!(exchanges.token_for(mallory).await.is_err());
    desk.clock.advance(SECOND * 10);
    assert_eq!(shown(exchanges.token_for(mallory).await), "Bearer for-alice");

    desk.refuses(401, "invalid_client");
    let eve = desk.subject("eve.token", 1000);
    for _ in 0..20 {
        let error = exchanges.token_for(eve).await.unwrap_err();
        assert!(matches!(error, CredentialError::Unavailable(_)), "{error}");
    }
    assert_eq!(desk.provider.hits(TOKEN), 4);
    desk.issues("for-eve", 300);
    assert_eq!(shown(exchanges.token_for(desk.subject("carol.token", 9)).await), "Bearer for-eve");
    desk.clock.advance(SECOND);
    assert_eq!(shown(exchanges.token_for(eve).await), "Bearer for-eve");
    assert!(exchanges.status().failure.is_none());
}

#[tokio::test]
async fn what_was_exchanged_is_not_kept_over_the_certificate_that_it_may_be_bound_to() {
    let desk = Desk::open().await;
    let actor = || desk.own(Authentication::SecretBasic(desk.secret()));
    let before = desk.exchanges_as(Some(Own::Awaited), Some(actor()));
    let after = desk.exchanges(Some(actor()));
    desk.issues("by-the-old-one", 300);
    let alice = desk.subject("alice.token", 1000);
    assert_eq!(shown(before.token_for(alice).await), "Bearer by-the-old-one");
    assert_eq!(desk.provider.hits(TOKEN), 2);
    UpstreamCredential::exchange(Arc::clone(&after)).take_over(&UpstreamCredential::exchange(before));
    desk.issues("by-the-new-one", 300);
    assert_eq!(shown(after.token_for(alice).await), "Bearer by-the-new-one");
    assert_eq!(desk.provider.hits(TOKEN), 3, "our own is taken over");
}

#[tokio::test]
async fn with_an_actor_the_exchange_names_us_and_without_our_token_there_is_none() {
    let desk = Desk::open().await;
    let actor = desk.own(Authentication::SecretBasic(desk.secret()));
    let exchanges = desk.exchanges(Some(Arc::clone(&actor)));
    exchanges.token_for(desk.subject("alice.token", 1000)).await.unwrap();
    let form = desk.form();
    assert_eq!((form["actor_token"].as_str(), form["subject_token"].as_str()), ("first", "alice.token"));
    assert_eq!(form["actor_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    desk.clock.advance(SECOND * 400);
    desk.refuses(503, "x");
    let hits = desk.provider.hits(TOKEN);
    let error = exchanges.token_for(desk.subject("bob.token", 1000)).await.unwrap_err();
    assert!(matches!(error, CredentialError::Unavailable(_)));
    assert_eq!(desk.provider.hits(TOKEN), hits + 1, "the caller's token was not sent");
}

#[tokio::test]
async fn what_is_only_asked_about_gets_nothing() {
    let asked = UpstreamCredential::of_kind(CredentialKind::Exchange);
    assert!(asked.obtain(None).await.is_err() && asked.status().is_none());
    let desk = Desk::open().await;
    let exchange = UpstreamCredential::exchange(desk.exchanges(None));
    assert!(matches!(exchange.obtain(None).await, Err(CredentialError::Refused(_))));
    assert_eq!(desk.provider.hits(TOKEN), 0);
}
