//! AWS Private CA: we make a key, which never leaves this process, and have its certificate issued with the
//! credentials of the role that the task runs as.
//!
//! A certificate costs money, so one that was ordered is asked for until it comes, and one that comes and is of no
//! use is not ordered again at once.

mod credentials;
mod sigv4;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;
use url::{Position, Url};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use credentials::{Endpoint, NoEndpoint};

use super::{BackOff, Issued, Publisher, client_of};
use crate::clock::{Clock, Timestamp};
use crate::fetch::{Client, FetchError, FetchSettings, sensitive};
use crate::identity::SpiffeId;
use crate::tls::client::ClientTlsError;
use crate::tls::{BadCa, Bundles, Cas, OwnCertificate, Roots, Unusable};
use credentials::Credentials;
use sigv4::Scope;

/// `[identity.aws_private_ca]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The ARN of the CA.
    pub authority: String,
    pub region: String,
    /// https, or http at a loopback address.
    pub api: Url,
    pub spiffe_id: SpiffeId,
    pub dns: Vec<String>,
    pub signing_algorithm: &'static str,
    /// The ARN of a template. `None`: what the service takes by default.
    pub template: Option<String>,
    pub validity: Duration,
    /// From where the environment says, if it does.
    pub credentials: Option<Endpoint>,
}

/// What goes wrong between us and AWS. Messages of the service are not repeated: that of a bad signature quotes
/// the session's token.
#[derive(Debug, thiserror::Error)]
enum CaError {
    #[error("{}", NoEndpoint::Unset)]
    NoCredentials,
    #[error("the credentials of the task's role: {0}")]
    Credentials(FetchError),
    #[error("AWS Private CA: {0}")]
    Fetch(#[from] FetchError),
    #[error("AWS Private CA cannot be asked: {0}")]
    Tls(#[from] ClientTlsError),
    #[error("AWS Private CA refuses {action}: {code} (status {status}){}", remedy(code, action))]
    Refused { action: &'static str, code: String, status: StatusCode },
    #[error("AWS Private CA could not issue the certificate; it is ordered anew")]
    Failed,
    #[error("an answer does not parse ({0})")]
    Malformed(&'static str),
    #[error("a key or a request for its certificate cannot be made: {0}")]
    Request(#[from] rcgen::Error),
    #[error("AWS Private CA has not issued the certificate within {} s", (GET_PAUSE * GETS_MAX).as_secs())]
    Slow,
    #[error("{0}")]
    Useless(#[from] Useless),
}

/// Why a certificate that was issued is of no use; another one would be of none either.
#[derive(Debug, thiserror::Error)]
enum Useless {
    #[error("AWS Private CA: {0}")]
    Certificate(#[from] Unusable),
    #[error(
        "AWS Private CA gives a certificate without the SPIFFE ID that was asked for; see `template_arn`"
    )]
    OtherId,
    #[error("AWS Private CA gives no chain")]
    NoChain,
    #[error("AWS Private CA gives as root {0}")]
    Root(#[from] BadCa),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(20);
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Between two looks whether an ordered certificate is there.
const GET_PAUSE: Duration = Duration::from_millis(500);
const GETS_MAX: u32 = 120;
/// After a certificate that is of no use: at most, and at least while there is a good one.
const USELESS_PAUSE: Duration = Duration::from_secs(60 * 60);
const USELESS_PAUSE_MIN: Duration = Duration::from_secs(60);
/// The service may not know at once that it took an order; after that it never will.
const LOST_AGE: Duration = Duration::from_secs(5 * 60);
const ISSUE: &str = "IssueCertificate";
const GET: &str = "GetCertificate";
/// How often the clock is looked at: one that jumps must not make a renewal late.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
const SERVICE: &str = "acm-pca";
const TARGET: &str = "ACMPrivateCA";

/// A certificate that was, or will be, asked for.
struct Order {
    key: KeyPair,
    /// PKCS #10, PEM.
    request: String,
    made: Timestamp,
    /// What it is called, once the service took the order.
    arn: Option<String>,
}

/// `IssueCertificate`.
#[derive(Deserialize)]
struct Ordered {
    #[serde(rename = "CertificateArn")]
    arn: String,
}

/// `GetCertificate`.
#[derive(Deserialize)]
struct Certificate {
    #[serde(rename = "Certificate")]
    leaf: String,
    /// From the CA that issued it up to the root.
    #[serde(rename = "CertificateChain")]
    chain: Option<String>,
}

/// Orders until dropped, again after two thirds of what was left of each certificate's life.
pub async fn follow(settings: Settings, publisher: Publisher, clock: Clock) {
    let mut back_off = BackOff::default();
    let mut order: Option<Order> = None;
    let mut last_good = None;
    loop {
        let is_good = |order: &Order| clock.now() < order.made.plus(settings.validity / 3);
        let taken = match order.take().filter(is_good) {
            Some(order) => Ok(order),
            None => Order::new(&settings, clock.now()),
        };
        let outcome = match taken {
            Ok(taken) => settings.certificate(order.insert(taken), &clock).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(issued) => {
                let renewal = renewal(clock.now(), issued.own.not_after);
                last_good = Some(issued.own.not_after);
                publisher.issued(issued);
                order = None;
                back_off.good(clock.now());
                wait_until(renewal, &clock).await;
            }
            Err(error) => {
                let now = clock.now();
                publisher.failed(&error);
                order = order.filter(|order| !error.ends(order, now));
                if let CaError::Useless(_) = error {
                    wait_until(now.plus(useless_pause(now, last_good)), &clock).await;
                } else {
                    back_off.wait(now).await;
                }
            }
        }
    }
}

async fn wait_until(moment: Timestamp, clock: &Clock) {
    while clock.now() < moment {
        sleep(LOOK_PAUSE.min(moment.since(clock.now()))).await;
    }
}

/// Each certificate costs, but somebody may put right what makes them useless, and the last good one ends.
fn useless_pause(now: Timestamp, last_good: Option<Timestamp>) -> Duration {
    match last_good.map(|end| end.since(now)) {
        None | Some(Duration::ZERO) => USELESS_PAUSE,
        Some(left) => (left / 4).clamp(USELESS_PAUSE_MIN, USELESS_PAUSE),
    }
}

impl CaError {
    /// Whether nothing can come of an order any more.
    fn ends(&self, order: &Order, now: Timestamp) -> bool {
        match self {
            CaError::Failed | CaError::Useless(_) => true,
            // Whatever is wrong with it, the service has not taken it.
            CaError::Refused { action: ISSUE, status, .. } => status.is_client_error(),
            CaError::Refused { code, .. } if code == "ResourceNotFoundException" => {
                now >= order.made.plus(LOST_AGE)
            }
            _ => false,
        }
    }
}

/// What to do about an error, by its code.
fn remedy(code: &str, action: &str) -> String {
    let other = match code {
        "AccessDeniedException" => {
            return format!(
                "; the role of the task needs `acm-pca:{action}` on `certificate_authority_arn`, by its own policy or that of the CA"
            );
        }
        "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "RequestExpired"
        | "ExpiredTokenException" => "; is the clock of this machine right?",
        "UnrecognizedClientException" => "; do the credentials belong to the account of the CA?",
        "ResourceNotFoundException" | "InvalidArnException" => {
            "; see `certificate_authority_arn` and `template_arn`"
        }
        "InvalidStateException" => "; is the CA active?",
        "ValidationException" | "InvalidArgsException" => {
            "; does the CA end before `validity`, or is `signing_algorithm` not of its key?"
        }
        "MalformedCSRException" => "; see `spiffe_id` and `dns`",
        _ => "",
    };
    other.to_owned()
}

/// After two thirds of the time that is left; somewhat earlier, by chance, so that many who started at once do not
/// renew at once.
fn renewal(now: Timestamp, not_after: Timestamp) -> Timestamp {
    now.plus(not_after.since(now).mul_f64((2.0 - 0.2 * fastrand::f64()) / 3.0))
}

impl Order {
    fn new(settings: &Settings, made: Timestamp) -> Result<Order, CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(settings.dns.clone())?;
        let uri = SanType::URI(settings.spiffe_id.as_str().try_into()?);
        params.subject_alt_names.insert(0, uri);
        // RFC 5280 §4.1.2.6 wants the names critical where there is no subject, which is the template's to say.
        params.distinguished_name = DistinguishedName::new();
        let name = settings.spiffe_id.segments().last().unwrap_or_default();
        params.distinguished_name.push(DnType::CommonName, name.get(..64).unwrap_or(name));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let request = params.serialize_request(&key)?.pem()?;
        Ok(Order { key, request, made, arn: None })
    }
}

impl Settings {
    /// The certificate of this order, which the service is given unless it has it already.
    async fn certificate(&self, order: &mut Order, clock: &Clock) -> Result<Issued, CaError> {
        let fetch = FetchSettings {
            allow_http: self.api.scheme() == "http",
            allow_private_addresses: true,
            body_bytes_max: BODY_BYTES_MAX,
            connect_timeout: CONNECT_TIMEOUT,
            total_timeout: TOTAL_TIMEOUT,
        };
        let endpoint = self.credentials.as_ref().ok_or(CaError::NoCredentials)?;
        let credentials = endpoint.credentials(fetch.clone(), clock).await?;
        let ca = fetch.allow_http.then(Roots::none);
        let service =
            Service { settings: self, credentials, client: client_of(fetch, ca, clock).await?, clock };
        let arn = match &order.arn {
            Some(arn) => arn.clone(),
            None => order.arn.insert(service.issue(order).await?).clone(),
        };
        let certificate = service.get(&arn).await?;
        Ok(issued(self, &certificate, &order.key, clock.now())?)
    }

    /// `IssueCertificate`. The service takes the same token for the same order (for five minutes).
    fn asked(&self, order: &Order) -> Value {
        let mut asked = json!({
            "CertificateAuthorityArn": self.authority,
            "Csr": STANDARD.encode(&order.request),
            "SigningAlgorithm": self.signing_algorithm,
            "Validity": { "Type": "ABSOLUTE", "Value": order.made.plus(self.validity).unix_seconds() },
            "IdempotencyToken": hex::encode(&digest(&SHA256, order.request.as_bytes()).as_ref()[..16]),
        });
        if let Some(template) = &self.template {
            asked["TemplateArn"] = template.as_str().into();
        }
        asked
    }
}

/// The service, asked as a role.
struct Service<'a> {
    settings: &'a Settings,
    credentials: Credentials,
    client: Client,
    clock: &'a Clock,
}

impl Service<'_> {
    async fn issue(&self, order: &Order) -> Result<String, CaError> {
        let ordered: Ordered = self.ask(ISSUE, &self.settings.asked(order)).await?;
        Ok(ordered.arn)
    }

    async fn get(&self, arn: &str) -> Result<Certificate, CaError> {
        let asked = json!({ "CertificateAuthorityArn": self.settings.authority, "CertificateArn": arn });
        for _ in 0..GETS_MAX {
            match self.ask(GET, &asked).await {
                Err(CaError::Refused { code, .. }) if code == "RequestInProgressException" => {
                    sleep(GET_PAUSE).await;
                }
                Err(CaError::Refused { code, .. }) if code == "RequestFailedException" => {
                    return Err(CaError::Failed);
                }
                outcome => return outcome,
            }
        }
        Err(CaError::Slow)
    }

    /// One call of the JSON protocol, version 1.1.
    async fn ask<T: DeserializeOwned>(&self, action: &'static str, asked: &Value) -> Result<T, CaError> {
        let body = asked.to_string();
        let url = &self.settings.api;
        let date = sigv4::date_of(self.clock.now());
        let target = format!("{TARGET}.{action}");
        let mut signed = BTreeMap::from([
            ("content-type", "application/x-amz-json-1.1"),
            ("host", &url[Position::BeforeHost..Position::AfterPort]),
            ("x-amz-date", &date),
            ("x-amz-target", &target),
        ]);
        if let Some(token) = &self.credentials.session_token {
            signed.insert("x-amz-security-token", token);
        }
        let scope = Scope { region: &self.settings.region, service: SERVICE };
        let authorization = sigv4::authorization(&self.credentials, scope, "POST", &signed, body.as_bytes());
        signed.insert("authorization", &authorization);
        let mut headers = HeaderMap::new();
        for (name, value) in signed {
            let value = sensitive(value).ok_or(FetchError::Credential)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let answer = self.client.send(url, Method::POST, headers, body.into()).await?;
        if answer.status != StatusCode::OK {
            let code = error_code(&answer.body).unwrap_or("without a code").to_owned();
            return Err(CaError::Refused { action, code, status: answer.status });
        }
        serde_json::from_slice(&answer.body).map_err(|_| CaError::Malformed(action))
    }
}

/// What kind of error an answer is: `ThrottlingException`, perhaps with a namespace before it.
fn error_code(body: &[u8]) -> Option<&str> {
    #[derive(Deserialize)]
    struct Error<'a> {
        #[serde(rename = "__type")]
        kind: &'a str,
    }
    let kind = serde_json::from_slice::<Error<'_>>(body).ok()?.kind;
    let code = kind.rsplit('#').next()?;
    (code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}

/// What a certificate gives, if all of it is good. The last of the chain is the CA to believe; it is presented
/// too unless it is a root, which whoever believes it has.
fn issued(
    settings: &Settings,
    certificate: &Certificate,
    key: &KeyPair,
    now: Timestamp,
) -> Result<Issued, Useless> {
    let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let mut chain = read(&certificate.leaf).map_err(|_| Unusable::Certificate)?;
    chain.extend(read(certificate.chain.as_deref().unwrap_or_default()).map_err(|_| Unusable::Certificate)?);
    let ca = match &chain[..] {
        [_, .., last] => last.clone(),
        _ => return Err(Useless::NoChain),
    };
    chain.pop_if(|last| is_root(last));
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let own = OwnCertificate::new(chain, key, now)?;
    if own.spiffe_id.as_ref() != Some(&settings.spiffe_id) {
        return Err(Useless::OtherId);
    }
    let cas = Cas::new(&[ca])?;
    Ok(Issued { own, bundles: Bundles::from([(settings.spiffe_id.trust_domain().clone(), Ok(cas))]) })
}

fn is_root(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, it)| it.subject().as_raw() == it.issuer().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_not_all_at_once() {
        let now = Timestamp::from_unix_seconds(1_000);
        let renewals: Vec<_> = (0..1000).map(|_| renewal(now, now.plus(Duration::from_secs(3000)))).collect();
        let seconds = |at: &Timestamp| at.since(now).as_secs();
        assert!(renewals.iter().all(|at| (1799..=2000).contains(&seconds(at))));
        let (first, last) = (renewals.iter().min().map(seconds), renewals.iter().max().map(seconds));
        assert!(last.unwrap() - first.unwrap() > 150, "{first:?} {last:?}");
        assert_eq!(renewal(now, now.minus(Duration::from_secs(1))), now);
    }

    #[test]
    fn the_code_of_an_error_is_read_and_nothing_else_of_it() {
        for (body, expected) in [
            (r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#, Some("ThrottlingException")),
            (r#"{"__type":"com.amazonaws.acmpca#InvalidArnException"}"#, Some("InvalidArnException")),
            (r#"{"__type":"a token: AQoDYXdz"}"#, None),
            (r#"{"message":"AQoDYXdz"}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(error_code(body.as_bytes()), expected, "{body}");
        }
    }
}
