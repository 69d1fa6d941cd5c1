//! Identity from AWS Private CA with the credentials of a task's role: ordered, renewed in time, and the last good
//! kept whatever comes.

use std::time::Duration;

use countersign::clock::{Clock, Timestamp};
use http::Request;
use http::header::AUTHORIZATION;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::canary::Canaries;
use crate::spiffe::{identity, readiness};
use crate::world::aws::{Aws, CA_ARN, Ca};
use crate::world::certificates::{Who, parsed};
use crate::world::client::{Client, Protocol, get};
use crate::world::presented::presented;
use crate::world::proxy::{HOST, Proxy};
use crate::world::{Body, World, sha256, soon};

const IDENTITY: &str = r#"[identity]
source = "aws_private_ca"
[identity.aws_private_ca]
certificate_authority_arn = "@arn@"
spiffe_id = "spiffe://orders.example/ns/prod/sa/orders"
dns = ["orders.shop.example"]
validity = "10m"
endpoint = "@aws@"

[trust_domain."orders.example"]
[trust_domain."shop.example"]
ca = "shop-ca.pem"
[trust_domain."partner.example"]
ca = "partner-ca.pem"
"#;

const READ: &str =
    "\n[[allow]]\nname = \"read\"\nservice = \"storefront\"\nrole = \"order-reader\"\nmethod = \"GET\"\n";
const LIFE: Duration = Duration::from_secs(600);

/// Whole seconds, as certificates count.
fn start() -> Timestamp {
    Timestamp::from_unix_seconds(Clock::system().now().unix_seconds())
}

async fn world(clock: Clock, aws: &Aws) -> World {
    let mut world = World::at(clock).await;
    world.identity = Some(IDENTITY.replace("@aws@", &aws.url).replace("@arn@", CA_ARN));
    world.environment = aws.environment(&world);
    world
}

/// The certificate that new connections are shown once it is another than this.
async fn another(proxy: &Proxy<'_>, than: Option<&CertificateDer<'static>>) -> CertificateDer<'static> {
    let shown = async {
        loop {
            match presented(proxy.address("mesh")).await {
                Some(leaf) if Some(&leaf) != than => return leaf,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let leaf = soon("another certificate", shown).await;
    let hash = format!("sha256:{}", sha256(&leaf));
    let is_told = |all: &[Value]| all.iter().any(|it| it["certificate"] == hash).then_some(());
    proxy.records.until(is_told).await;
    leaf
}

/// A client that believes this root alone.
async fn client(world: &World, proxy: &Proxy<'_>, root: &str) -> Client {
    let config = client_config(world, root);
    Client::tls(proxy.address("mesh"), HOST, config, Protocol::H1).await.unwrap()
}

fn client_config(world: &World, root: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let (chain, key) = parsed(&world.certificates.client(Who::Storefront).unwrap());
    ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap()
}

fn signed(world: &World) -> Request<Body> {
    let mut request = get("/orders/7");
    let token = format!("Bearer {}", world.issuer.token(json!({})));
    request.headers_mut().insert(AUTHORIZATION, token.parse().unwrap());
    request
}

async fn failure(proxy: &Proxy<'_>, words: &str) {
    identity(proxy, |it| it["failure"].as_str().is_some_and(|told| told.contains(words))).await;
}

#[tokio::test]
async fn a_certificate_is_ordered_with_the_spiffe_id_and_a_key_that_nobody_else_has() {
    let start = start();
    let clock = Clock::manual(start);
    let ca = Ca::new("Orders CA", &clock);
    let root = ca.root().to_owned();
    let aws = Aws::start(ca, clock.clone()).await;
    aws.fails("credentials", 500, "");
    let world = world(clock.clone(), &aws).await;
    let proxy = world.start(READ);
    readiness(&proxy, 503, "our certificate is awaited from aws_private_ca").await;
    failure(&proxy, "the credentials of the task's role: the answer has status 500").await;
    aws.recovers();
    readiness(&proxy, 200, "").await;
    let leaf = another(&proxy, None).await;
    // The chain leads to the root by the CA between them.
    let client = client(&world, &proxy, &root).await;
    assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200);
    let (_, read) = X509Certificate::from_der(&leaf).unwrap();
    let names = read.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].contains("spiffe://orders.example/ns/prod/sa/orders"), "{names:?}");
    assert!(names[1].contains("orders.shop.example"), "{names:?}");
    assert_eq!(read.validity().not_after.timestamp(), start.plus(LIFE).unix_seconds());
    let asked = aws.calls("IssueCertificate");
    assert_eq!((asked.len(), &asked[0]["Validity"]["Value"]), (1, &json!(start.plus(LIFE).unix_seconds())));
    assert_eq!(asked[0].get("TemplateArn"), None);
    assert!(aws.calls("GetCertificate").len() >= 2, "it was in work at first");
    assert_eq!(aws.issued(), 1);
}

#[tokio::test]
async fn it_is_renewed_at_two_thirds_of_its_life_with_a_new_key() {
    let start = start();
    let clock = Clock::manual(start);
    let ca = Ca::new("Orders CA", &clock);
    let aws = Aws::start(ca, clock.clone()).await;
    let world = world(clock.clone(), &aws).await;
    let proxy = world.start(READ);
    let first = another(&proxy, None).await;
    clock.set(start.plus(LIFE.mul_f64(0.59)));
    // The clock is looked at once a second; nothing may come of it.
    proxy.metrics_once("countersign_identity_updates_total 1").await;
    assert_eq!(aws.issued(), 1);
    // Other credentials by then, and another CA.
    aws.renews_credentials("another/secret+key", "another//session//token==");
    let next_ca = Ca::new("Orders CA 2", &clock);
    let next_root = next_ca.root().to_owned();
    aws.issues_by(next_ca);
    clock.set(start.plus(LIFE.mul_f64(0.67)));
    let second = another(&proxy, Some(&first)).await;
    assert_eq!(aws.issued(), 2);
    let key = |der| X509Certificate::from_der(der).unwrap().1.public_key().raw.to_vec();
    assert_ne!(key(&first), key(&second));
    let client = client(&world, &proxy, &next_root).await;
    assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200);
}

#[tokio::test]
async fn whatever_fails_the_last_good_stays_and_one_order_is_paid_once() {
    let start = start();
    let clock = Clock::manual(start);
    let ca = Ca::new("Orders CA", &clock);
    let root = ca.root().to_owned();
    let aws = Aws::start(ca, clock.clone()).await;
    let world = world(clock.clone(), &aws).await;
    let proxy = world.start(READ);
    let first = another(&proxy, None).await;
    let error = |code: &str| json!({"__type": code, "message": "CANARY"}).to_string();
    let cases = [
        ("credentials", 401, String::new(), "the credentials of the task's role"),
        ("credentials", 200, "<html>".to_owned(), "does not parse (the role's credentials)"),
        (
            "IssueCertificate",
            400,
            error("ThrottlingException"),
            "refuses IssueCertificate: ThrottlingException",
        ),
        ("IssueCertificate", 429, String::new(), "without a code (status 429"),
        (
            "IssueCertificate",
            400,
            error("com.amazonaws.acmpca#AccessDeniedException"),
            "AccessDeniedException",
        ),
        ("IssueCertificate", 400, error("a secret: 7f3a"), "without a code"),
        ("IssueCertificate", 500, "<html>".to_owned(), "status 500"),
        ("IssueCertificate", 302, String::new(), "is a redirect"),
        ("IssueCertificate", 200, "{}".to_owned(), "does not parse (IssueCertificate)"),
        ("GetCertificate", 400, error("ResourceNotFoundException"), "refuses GetCertificate"),
        ("GetCertificate", 200, "[]".to_owned(), "does not parse (GetCertificate)"),
    ];
    let (mut seen, mut last) = (0, first);
    for (call, status, body, why) in &cases {
        aws.fails(call, *status, body);
        clock.advance(LIFE.mul_f64(0.67));
        failure(&proxy, why).await;
        assert_eq!(presented(proxy.address("mesh")).await.as_ref(), Some(&last), "{why}");
        let client = client(&world, &proxy, &root).await;
        assert_eq!(client.ask(signed(&world)).await.unwrap().status, 200, "{why}");
        assert_eq!(proxy.admin("/readyz").await.status, 200, "{why}");
        aws.recovers();
        last = another(&proxy, Some(&last)).await;
        identity(&proxy, |it| it["failure"].is_null()).await;
        seen += 1;
        assert_eq!(aws.issued(), seen + 1, "one order for all attempts: {why}");
    }
    assert_eq!(seen, 11);
}

/// Waits until this was called so often.
async fn called(aws: &Aws, call: &str, times: usize) {
    let calling = async {
        while aws.calls(call).len() < times {
            tokio::task::yield_now().await;
        }
    };
    soon(&format!("{times} times {call}"), calling).await;
}

#[tokio::test]
async fn what_is_of_no_use_is_not_ordered_again_at_once() {
    let start = start();
    let clock = Clock::manual(start);
    let aws = Aws::start(Ca::new("Orders CA", &clock), clock.clone()).await;
    aws.names_others(Some("spiffe://orders.example/ns/prod/sa/other"));
    let world = world(clock.clone(), &aws).await;
    let proxy = world.start(READ);
    failure(&proxy, "without the SPIFFE ID that was asked for; see `template_arn`").await;
    readiness(&proxy, 503, "our certificate is awaited").await;
    assert_eq!(aws.issued(), 1);
    clock.advance(Duration::from_secs(3599));
    proxy.admin("/readyz").await;
    assert_eq!(aws.issued(), 1);
    aws.names_others(None);
    clock.advance(Duration::from_secs(1));
    let leaf = another(&proxy, None).await;
    assert_eq!(aws.issued(), 2);

    // While the last good one comes to its end, somebody may have put it right in time.
    aws.names_others(Some("spiffe://orders.example/ns/prod/sa/other"));
    clock.advance(LIFE.mul_f64(0.67));
    failure(&proxy, "without the SPIFFE ID that was asked for").await;
    aws.names_others(None);
    let ordered = aws.issued();
    clock.advance(Duration::from_secs(60));
    another(&proxy, Some(&leaf)).await;
    assert_eq!(aws.issued(), ordered + 1);
}

#[tokio::test]
async fn an_order_that_can_come_to_nothing_is_given_up_and_another_made_soon() {
    let mut seen = 0;
    for (call, code, words) in [
        ("GetCertificate", "RequestFailedException", "could not issue the certificate; it is ordered anew"),
        ("GetCertificate", "ResourceNotFoundException", "see `certificate_authority_arn`"),
        ("IssueCertificate", "MalformedCSRException", "see `spiffe_id` and `dns`"),
        ("IssueCertificate", "ValidationException", "does the CA end before `validity`"),
        (
            "IssueCertificate",
            "AccessDeniedException",
            "the role of the task needs `acm-pca:IssueCertificate` on `certificate_authority_arn`",
        ),
        ("IssueCertificate", "InvalidSignatureException", "is the clock of this machine right?"),
    ] {
        let clock = Clock::manual(start());
        let aws = Aws::start(Ca::new("Orders CA", &clock), clock.clone()).await;
        aws.fails(call, 400, &json!({"__type": code, "message": "CANARY"}).to_string());
        let mut world = world(clock.clone(), &aws).await;
        world.identity = world.identity.map(|text| text.replace("\"10m\"", "\"1h\""));
        let proxy = world.start(READ);
        failure(&proxy, words).await;
        if code == "ResourceNotFoundException" {
            // It may come to be known.
            called(&aws, call, 2).await;
            assert_eq!(aws.calls("IssueCertificate").len(), 1);
            clock.advance(Duration::from_secs(300));
        }
        called(&aws, "IssueCertificate", 2).await;
        let orders = aws.calls("IssueCertificate");
        assert_ne!(orders[0]["Csr"], orders[1]["Csr"], "{code}");
        aws.recovers();
        another(&proxy, None).await;
        readiness(&proxy, 200, "[]").await;
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[tokio::test]
async fn who_gets_none_until_his_certificate_ends_is_not_ready() {
    let start = start();
    let clock = Clock::manual(start);
    let aws = Aws::start(Ca::new("Orders CA", &clock), clock.clone()).await;
    let world = world(clock.clone(), &aws).await;
    let proxy = world.start(READ);
    another(&proxy, None).await;
    drop(aws);
    clock.set(start.plus(LIFE.mul_f64(0.67)));
    failure(&proxy, "could not connect").await;
    assert_eq!(proxy.admin("/readyz").await.status, 200);
    clock.set(start.plus(LIFE));
    readiness(&proxy, 503, "certificate identity: expired at").await;
}

#[tokio::test]
async fn outside_of_a_task_the_configuration_is_good_and_says_what_lacks() {
    let aws = Aws::start(Ca::new("Orders CA", &Clock::system()), Clock::system()).await;
    let mut world = world(Clock::system(), &aws).await;
    world.environment.clear();
    let proxy = world.start(READ);
    failure(&proxy, "this is no task with a role").await;
    assert_eq!(aws.issued(), 0);
}

#[tokio::test]
async fn no_secret_of_the_role_is_said_aloud() {
    let aws = Aws::start(Ca::new("Orders CA", &Clock::system()), Clock::system()).await;
    let mut canaries = Canaries::default();
    canaries.add("what is shown for the credentials", aws.authorization());
    let [secret_key, session_token] = aws.secrets();
    canaries.add("the secret key", secret_key.clone());
    canaries.add("the session's token", session_token);
    let world = world(Clock::system(), &aws).await;
    world.configuration(&format!("{READ}\n[log]\nlevel = \"trace\"\nformat = \"json\"\n"));
    let binary = world.run(&[]);
    let address = binary.address("listener", "mesh").await;
    soon("a certificate", async { while presented(address).await.is_none() {} }).await;
    binary.end().await;
    // The service quotes the session's token where a signature is wrong.
    let garbled =
        json!({"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "another", "Token": aws.secrets()[1]});
    aws.fails("credentials", 200, &garbled.to_string());
    let binary = world.run(&[]);
    let is_told =
        |line: &Value| line["why"].as_str().is_some_and(|why| why.contains("InvalidSignatureException"));
    binary.logged(is_told).await;
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap();
    let (log, stdout) = binary.end().await;
    for (what, text) in [("log", log), ("standard output", stdout), ("audit records", audit)] {
        assert_eq!(canaries.found_in(&text), [""; 0], "{what}");
    }
}
