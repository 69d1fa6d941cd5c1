//! A request that shows a difference, as it can be asked again.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::Verdict;
use crate::clock::Timestamp;
use crate::identity::{Hop, Name, PeerName};
use crate::policy::difference::{Outcome, Region, Witness};
use crate::token::IssuerSettings;
use crate::trial::{self, Answer, Bearer, Bound, Claims, Presented, Question, Trial};

/// One request, for people and programs.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub method: String,
    pub url: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
    /// A SPIFFE ID, or the DNS names of a certificate.
    pub peer: Option<Vec<String>>,
    /// Of a certificate with DNS names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    pub issuer: Option<Name>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
    /// Whether the token is bound to a key, of which the request brings a proof.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dpop: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<String>,
    /// Where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Whether both configurations, asked as `explain` asks, answered as the difference says.
    pub confirmed: bool,
    /// What was answered that the difference does not say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unconfirmed: Vec<String>,
}

/// What is put into every token that is made up, but for `iss` and `exp`, which it must have.
const ADDED: [&str; 4] = ["iat", "jti", "client_id", "aud"];
/// Until `exp`, of these.
const LIFETIME: Duration = Duration::from_secs(300);

impl Shown {
    /// The request of a region, with what both configurations answer it.
    pub fn of(
        region: &Region,
        issuer: Option<&[Option<Name>; 2]>,
        trials: [&mut Trial; 2],
        now: Timestamp,
    ) -> Shown {
        let witness = &region.witness;
        let side = region.change.permitting();
        let own = issuer.and_then(|names| names[side].clone());
        let mut shown = Shown::alone(witness, settings(own.as_ref(), trials[side].issuers()), now);
        let mut trials = trials;
        let mut unconfirmed = |without: &[&str]| {
            let mut found = Vec::new();
            for (at, trial) in trials.iter_mut().enumerate() {
                // a token of an issuer that one side does not know is refused there; there is nobody to sign it
                let issuer = issuer.map(|names| names[at].clone());
                let Some(question) = question(witness, issuer, &shown.url, without) else { continue };
                let answered = match trial.ask(&question) {
                    Ok(answer) if is_as_told(&answer, &region.outcomes[at], trial) => continue,
                    Ok(answer) => format!("answers {}, {}", answer.verdict().as_str(), answer.reason()),
                    Err(error) => format!("cannot be asked: {error}"),
                };
                found.push(format!("the {} configuration {answered}", ["old", "new"][at]));
            }
            found
        };
        let mut answered = unconfirmed(&[]);
        // what a token need not have is left out only where that counts
        let claims = witness.token.as_ref().map(|(_, token)| &token.claims);
        let lacking = ADDED.into_iter().filter(|name| claims.is_some_and(|all| !all.contains_key(*name)));
        let lacking: Vec<&str> = lacking.collect();
        if !answered.is_empty() && !lacking.is_empty() && unconfirmed(&lacking).is_empty() {
            answered.clear();
            shown.claims.extend(lacking.iter().map(|name| ((*name).to_owned(), Value::Null)));
        }
        shown.confirmed = answered.is_empty();
        shown.unconfirmed = answered;
        shown
    }

    /// A request that nobody was asked about, with a token of this issuer.
    pub fn alone(witness: &Witness, issuer: Option<&IssuerSettings>, now: Timestamp) -> Shown {
        let (peer, trust_domain) = match witness.peer.verified().map(|peer| &peer.name) {
            Some(PeerName::Spiffe(id)) => (Some(vec![id.to_string()]), None),
            Some(PeerName::Dns { names, trust_domain }) => {
                let names = names.iter().map(ToString::to_string).collect();
                (Some(names), Some(trust_domain.to_string()))
            }
            None => (None, None),
        };
        let headers = witness
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap_or_default())));
        let mut claims = claims(witness);
        let client_ip = witness.client_ip.filter(|client| witness.peer_ip != Some(*client));
        let timed = claims.contains_key("auth_time");
        let dpop = is_bound(witness);
        // any other audience, or `iss`, than everybody would write is part of what is shown
        let tenant = claims.get("tid").and_then(Value::as_str).unwrap_or_default().to_owned();
        let usual = |name: &str, value: &Value| {
            let text = match (name, issuer) {
                ("aud", Some(issuer)) => issuer.audience.first().map(ToString::to_string),
                ("iss", Some(issuer)) => issuer.url.issued(|| tenant.clone()),
                _ => return true,
            };
            text.is_some_and(|text| *value == text)
        };
        let (seconds, lasts) = (witness.at.unix_seconds(), LIFETIME.as_secs().cast_signed());
        claims.retain(|name, value| match name.as_str() {
            "aud" | "iss" => !usual(name, value),
            "iat" => *value != seconds,
            "exp" => *value != seconds + lasts,
            _ => true,
        });
        Shown {
            method: witness.method.to_string(),
            url: format!("https://{}{}", witness.host, witness.path),
            headers: headers.collect(),
            peer,
            trust_domain,
            issuer: issuer.map(|issuer| issuer.name.clone()),
            claims,
            dpop,
            peer_ip: witness.peer_ip.map(|address| address.to_string()),
            client_ip: client_ip.map(|address| address.to_string()),
            hop: (witness.hop != Hop::Direct).then(|| witness.hop.as_str().to_owned()),
            at: (timed || witness.at != now).then(|| witness.at.to_string()),
            confirmed: false,
            unconfirmed: Vec::new(),
        }
    }

    /// The command that asks it, of a configuration in these places.
    pub fn explain(&self, config: &[impl AsRef<str>]) -> String {
        let mut words = vec!["countersign".to_owned(), "explain".to_owned()];
        let mut add = |option: &str, value: &str| words.extend([option.to_owned(), quoted(value)]);
        config.iter().for_each(|place| add("-c", place.as_ref()));
        let option = if self.trust_domain.is_some() { "--dns-name" } else { "--spiffe-id" };
        self.peer.iter().flatten().for_each(|name| add(option, name));
        self.trust_domain.iter().for_each(|domain| add("--trust-domain", domain));
        if let Some(issuer) = &self.issuer {
            add("--issuer", issuer.as_str());
            add("--claims", &Value::from(self.claims.clone()).to_string());
            words.extend(self.dpop.then(|| "--dpop".to_owned()));
        }
        let mut add = |option: &str, value: &str| words.extend([option.to_owned(), quoted(value)]);
        for (name, value) in &self.headers {
            add("-H", &format!("{name}: {}", value.as_str().unwrap_or_default()));
        }
        self.peer_ip.iter().for_each(|address| add("--peer-ip", address));
        self.client_ip.iter().for_each(|address| add("--client-ip", address));
        self.hop.iter().for_each(|hop| add("--hop", hop));
        self.at.iter().for_each(|at| add("--at", at));
        words.extend(self.peer.is_none().then(|| "--no-certificate".to_owned()));
        words.extend(self.issuer.is_none().then(|| "--no-token".to_owned()));
        words.extend([self.method.clone(), quoted(&self.url)]);
        words.join(" ")
    }

    /// A test of `countersign test` that fails as long as the difference is there.
    pub fn test(&self, name: &str, expect: &str) -> String {
        let text = |text: &str| toml::Value::from(text).to_string();
        let mut lines = vec!["[[test]]".to_owned(), format!("name    = {}", text(name))];
        match (&self.peer, &self.trust_domain) {
            (None, _) => lines.push("service = \"none\"".to_owned()),
            (Some(names), None) => lines.push(format!("spiffe_id = {}", text(&names.join(" ")))),
            (Some(names), Some(domain)) => {
                lines.push(format!("dns_name = {}", text(&names.join(" "))));
                lines.push(format!("trust_domain = {}", text(domain)));
            }
        }
        let caller = match &self.issuer {
            None => "\"none\"".to_owned(),
            Some(issuer) => {
                let claims = Value::from(self.claims.clone());
                let claims = toml::Value::try_from(&claims)
                    .map_or_else(|_| "{}".to_owned(), |claims| claims.to_string());
                let dpop = if self.dpop { ", dpop = true" } else { "" };
                format!("{{ issuer = {}, claims = {claims}{dpop} }}", text(issuer.as_str()))
            }
        };
        lines.push(format!("caller  = {caller}"));
        lines.push(format!("request = {}", text(&format!("{} {}", self.method, self.url))));
        lines.extend(self.at.as_ref().map(|at| format!("at      = {at}")));
        lines.extend(self.peer_ip.as_ref().map(|address| format!("peer_ip = {}", text(address))));
        lines.extend(self.client_ip.as_ref().map(|address| format!("client_ip = {}", text(address))));
        lines.extend(self.hop.as_ref().map(|hop| format!("hop     = {}", text(hop))));
        if !self.headers.is_empty() {
            let fields = self.headers.iter().map(|(name, value)| {
                format!("{} = {}", text(name), text(value.as_str().unwrap_or_default()))
            });
            lines.push(format!("header  = {{ {} }}", fields.collect::<Vec<_>>().join(", ")));
        }
        lines.push(format!("expect  = {{ {expect} }}"));
        lines.join("\n")
    }
}

/// What the token says, but to which key it is bound: who asks makes one.
fn claims(witness: &Witness) -> Map<String, Value> {
    let mut claims = witness.token.as_ref().map(|(_, token)| token.claims.clone()).unwrap_or_default();
    claims.remove("cnf");
    claims
}

fn is_bound(witness: &Witness) -> bool {
    witness.token.as_ref().is_some_and(|(_, token)| token.claims.contains_key("cnf"))
}

/// The issuer of this name.
pub fn settings<'i>(
    name: Option<&Name>,
    mut all: impl Iterator<Item = &'i IssuerSettings>,
) -> Option<&'i IssuerSettings> {
    let name = name?;
    all.find(|settings| settings.name == *name)
}

fn is_as_told(answer: &Answer, told: &Outcome, trial: &Trial) -> bool {
    let upstream = answer.record().and_then(|record| record.upstream.as_ref());
    match told {
        Outcome::Permitted { upstream: told, .. } => {
            let told = &trial.policy().parts().upstreams[told.index()];
            answer.verdict() == Verdict::Allow && upstream == Some(told)
        }
        Outcome::Denied { .. } | Outcome::Refused(_) => answer.verdict() == Verdict::Deny,
    }
}

/// `None` where this side cannot be asked: it knows no such issuer.
fn question(
    witness: &Witness,
    issuer: Option<Option<Name>>,
    url: &str,
    without: &[&str],
) -> Option<Question> {
    let fields =
        witness.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()));
    let head = trial::head(witness.method.as_str(), url, fields).ok()?;
    let without = without.iter().map(|name| (*name).to_owned()).collect();
    let caller = match (&witness.token, issuer) {
        (Some(_), Some(issuer)) => {
            let bound = is_bound(witness).then_some(Bound::Key);
            Bearer::Claims(Claims { issuer: issuer?, claims: claims(witness), without, bound })
        }
        _ => Bearer::Nothing,
    };
    let peer = witness.peer.verified().map_or(Presented::Nothing, |peer| Presented::Named(peer.name.clone()));
    Some(Question {
        peer,
        caller,
        hop: witness.hop.clone(),
        peer_ip: witness.peer_ip,
        client_ip: witness.client_ip,
        at: Some(witness.at),
        ..Question::new(head)
    })
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
