//! AWS as a task on Fargate sees it: the endpoint that gives the role's credentials, and AWS Private CA, which
//! verifies signatures by itself and issues what a request asks for. Steered by its handle.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign::clock::{Clock, Timestamp};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::listen::{Listening, listen};
use super::{Body, Error, World, full, hex};

pub const CA_ARN: &str = "arn:aws:acm-pca:eu-central-1:123456789012:certificate-authority/7f3a";
const ACCESS_KEY_ID: &str = "ASIAEXAMPLE";
/// An hour in AWS; clients of tests go by the system's clock, wherever the proxy's is.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
/// How far a signature's time may be off.
const SKEW: Duration = Duration::from_secs(300);

pub struct Aws {
    pub url: String,
    state: Arc<State>,
    _listening: Listening,
}

struct State {
    clock: Clock,
    desk: Mutex<Desk>,
}

struct Desk {
    ca: Ca,
    /// The `Authorization` that credentials are given for.
    authorization: String,
    secret_key: String,
    session_token: String,
    /// By the ARN of the certificate: it and how often it is said to be in work.
    issued: HashMap<String, (String, u32)>,
    /// ARNs by idempotency token.
    orders: HashMap<String, String>,
    in_work: u32,
    /// What calls are answered instead: a status and a body; by their name.
    failing: HashMap<&'static str, (u16, String)>,
    /// The URI that certificates get instead of that of the request.
    other_name: Option<String>,
    calls: Vec<(String, Value)>,
}

/// An issuing CA below a root.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    certificate: String,
    root: Arc<Root>,
}

struct Root {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Ca {
    /// With a root of its own.
    pub fn new(name: &str, clock: &Clock) -> Ca {
        let (key, params) = (KeyPair::generate().unwrap(), params(&format!("{name} root"), clock));
        let certificate = params.self_signed(&key).unwrap().pem();
        Ca::below(Arc::new(Root { issuer: Issuer::new(params, key), certificate }), name, clock)
    }

    /// Below a root that somebody has already; both PEM.
    pub fn below_given(root: &str, key: &str, clock: &Clock) -> Ca {
        let issuer = Issuer::from_ca_cert_pem(root, KeyPair::from_pem(key).unwrap()).unwrap();
        Ca::below(Arc::new(Root { issuer, certificate: root.to_owned() }), "issuing CA", clock)
    }

    fn below(root: Arc<Root>, name: &str, clock: &Clock) -> Ca {
        let (key, params) = (KeyPair::generate().unwrap(), params(name, clock));
        let certificate = params.signed_by(&key, &root.issuer).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), certificate, root }
    }

    pub fn root(&self) -> &str {
        &self.root.certificate
    }

    /// From this CA up to the root, PEM.
    fn chain(&self) -> String {
        format!("{}{}", self.certificate, self.root.certificate)
    }
}

fn params(name: &str, clock: &Clock) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) =
        (moment(clock.now().minus(HOUR)), moment(clock.now().plus(1000 * HOUR)));
    params
}

fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.unix_seconds()).unwrap()
}

impl Aws {
    pub async fn start(ca: Ca, clock: Clock) -> Aws {
        let desk = Desk {
            ca,
            authorization: "container-authorization-1f0c4d".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+example".to_owned(),
            session_token: "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22w==".to_owned(),
            issued: HashMap::new(),
            orders: HashMap::new(),
            in_work: 1,
            failing: HashMap::new(),
            other_name: None,
            calls: Vec::new(),
        };
        let state = Arc::new(State { clock, desk: Mutex::new(desk) });
        let shared = state.clone();
        let listening = listen("127.0.0.1:0".parse().unwrap(), None, move |request| {
            let state = shared.clone();
            async move { state.answer(request).await }
        })
        .await;
        Aws { url: format!("http://{}", listening.address), state, _listening: listening }
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.state.desk.lock().unwrap()
    }

    /// What a task finds in its environment.
    pub fn environment(&self, world: &World) -> Vec<(&'static str, String)> {
        let token = world.write("authorization", &self.authorization());
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v2/credentials/7f3a", self.url)),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap().to_owned()),
        ]
    }

    pub fn authorization(&self) -> String {
        self.desk().authorization.clone()
    }

    /// The secret key and the session's token of the role.
    pub fn secrets(&self) -> [String; 2] {
        let desk = self.desk();
        [desk.secret_key.clone(), desk.session_token.clone()]
    }

    /// The role's credentials are others from now on.
    pub fn renews_credentials(&self, secret_key: &str, session_token: &str) {
        let mut desk = self.desk();
        (desk.secret_key, desk.session_token) = (secret_key.to_owned(), session_token.to_owned());
    }

    pub fn issues_by(&self, ca: Ca) {
        self.desk().ca = ca;
    }

    /// Calls of this name, or `credentials`, are answered so.
    pub fn fails(&self, call: &'static str, status: u16, body: &str) {
        self.desk().failing.insert(call, (status, body.to_owned()));
    }

    pub fn recovers(&self) {
        self.desk().failing.clear();
    }

    /// Certificates are for this name, whatever was asked for.
    pub fn names_others(&self, uri: Option<&str>) {
        self.desk().other_name = uri.map(str::to_owned);
    }

    /// What was asked by calls of this name.
    pub fn calls(&self, call: &str) -> Vec<Value> {
        let desk = self.desk();
        desk.calls.iter().filter(|(name, _)| name == call).map(|(_, asked)| asked.clone()).collect()
    }

    /// Certificates that were ordered, and would be paid for.
    pub fn issued(&self) -> usize {
        self.desk().issued.len()
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let now = self.clock.now();
        let mut desk = self.desk.lock().unwrap();
        let (status, answer) = match head.uri.path() {
            "/v2/credentials/7f3a" => desk.credentials(&head.headers),
            "/" => desk.call(&head, &body, now),
            _ => (404, String::new()),
        };
        Ok(Response::builder().status(status).body(full(answer))?)
    }
}

fn refusal(code: &str, message: &str) -> (u16, String) {
    (400, json!({"__type": code, "message": message}).to_string())
}

impl Desk {
    fn credentials(&self, headers: &HeaderMap) -> (u16, String) {
        if let Some(failing) = self.failing.get("credentials") {
            return failing.clone();
        }
        if headers.get("authorization").is_none_or(|sent| sent != self.authorization.as_str()) {
            return (401, String::new());
        }
        let credentials = json!({
            "RoleArn": "arn:aws:iam::123456789012:role/orders",
            "AccessKeyId": ACCESS_KEY_ID,
            "SecretAccessKey": self.secret_key,
            "Token": self.session_token,
            "Expiration": "2030-01-01T00:00:00Z",
        });
        (200, credentials.to_string())
    }

    fn call(&mut self, head: &Parts, body: &Bytes, now: Timestamp) -> (u16, String) {
        if let Err((why, canonical)) = self.verify(head, body, now) {
            // As AWS does, which quotes the session's token.
            return refusal("InvalidSignatureException", &format!("{why}: should have been {canonical}"));
        }
        let target = head.headers["x-amz-target"].to_str().unwrap();
        let asked: Value = serde_json::from_slice(body).unwrap();
        let call = target.strip_prefix("ACMPrivateCA.").unwrap().to_owned();
        self.calls.push((call.clone(), asked.clone()));
        if let Some(failing) = self.failing.get(call.as_str()) {
            return failing.clone();
        }
        if asked["CertificateAuthorityArn"] != CA_ARN {
            return refusal("ResourceNotFoundException", "no such CA");
        }
        match call.as_str() {
            "IssueCertificate" => self.issue(&asked, now),
            "GetCertificate" => self.get(&asked),
            _ => refusal("UnknownOperationException", ""),
        }
    }

    fn issue(&mut self, asked: &Value, now: Timestamp) -> (u16, String) {
        let token = asked["IdempotencyToken"].as_str().unwrap().to_owned();
        if let Some(arn) = self.orders.get(&token) {
            return (200, json!({"CertificateArn": arn}).to_string());
        }
        assert_eq!(
            (&asked["SigningAlgorithm"], &asked["Validity"]["Type"]),
            (&json!("SHA256WITHECDSA"), &json!("ABSOLUTE"))
        );
        let request = String::from_utf8(STANDARD.decode(asked["Csr"].as_str().unwrap()).unwrap()).unwrap();
        // Verifies that who asks has the key.
        let Ok(mut request) = CertificateSigningRequestParams::from_pem(&request) else {
            return refusal("MalformedCSRException", "");
        };
        // EndEntityCertificate/V1: subject and names of the request, all else of the template.
        let params = &mut request.params;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(self.issued.len() as u64 + 1));
        params.not_before = moment(now.minus(BACKDATED));
        let until = Timestamp::from_unix_seconds(asked["Validity"]["Value"].as_i64().unwrap());
        params.not_after = moment(until);
        if let Some(uri) = &self.other_name {
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        }
        let certificate = request.signed_by(&self.ca.issuer).unwrap().pem();
        let answer = json!({"Certificate": certificate, "CertificateChain": self.ca.chain()}).to_string();
        let arn = format!("{CA_ARN}/certificate/{:04}", self.issued.len());
        self.issued.insert(arn.clone(), (answer, self.in_work));
        self.orders.insert(token, arn.clone());
        (200, json!({"CertificateArn": arn}).to_string())
    }

    fn get(&mut self, asked: &Value) -> (u16, String) {
        let Some((certificate, in_work)) = self.issued.get_mut(asked["CertificateArn"].as_str().unwrap())
        else {
            return refusal("ResourceNotFoundException", "no such certificate");
        };
        if *in_work > 0 {
            *in_work -= 1;
            return refusal("RequestInProgressException", "try again");
        }
        (200, certificate.clone())
    }

    /// Signature Version 4, from the request as it came.
    fn verify(&self, head: &Parts, body: &[u8], now: Timestamp) -> Result<(), (&'static str, String)> {
        let none = |why| (why, String::new());
        let sent = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let authorization = sent("authorization").ok_or(none("no authorization"))?;
        let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(none("another scheme"))?;
        let parts: BTreeMap<&str, &str> =
            parts.split(", ").map(|part| part.split_once('=').unwrap()).collect();
        let names: Vec<&str> = parts["SignedHeaders"].split(';').collect();
        let mandatory = ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"];
        if !mandatory.iter().all(|name| names.contains(name)) || !names.is_sorted() {
            return Err(none("headers are not signed"));
        }
        let fields: String =
            names.iter().map(|name| format!("{name}:{}\n", sent(name).unwrap_or_default().trim())).collect();
        let canonical = [
            head.method.as_str(),
            head.uri.path(),
            head.uri.query().unwrap_or_default(),
            &fields,
            parts["SignedHeaders"],
            &hex(digest(&SHA256, body)),
        ]
        .join("\n");
        let date = sent("x-amz-date").unwrap();
        let at: Timestamp = format!(
            "{}-{}-{}T{}:{}:{}Z",
            &date[..4],
            &date[4..6],
            &date[6..8],
            &date[9..11],
            &date[11..13],
            &date[13..15]
        )
        .parse()
        .unwrap();
        if at.since(now) > SKEW || now.since(at) > SKEW {
            return Err(("expired", canonical));
        }
        let scope = format!("{}/eu-central-1/acm-pca/aws4_request", &date[..8]);
        if parts["Credential"] != format!("{ACCESS_KEY_ID}/{scope}")
            || sent("x-amz-security-token") != Some(&self.session_token)
        {
            return Err(("unknown credentials", canonical));
        }
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        let text =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(digest(&SHA256, canonical.as_bytes())));
        for part in scope.split('/').chain([text.as_str()]) {
            key = sign(&Key::new(HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        if parts["Signature"] == hex(key) { Ok(()) } else { Err(("wrong signature", canonical)) }
    }
}
