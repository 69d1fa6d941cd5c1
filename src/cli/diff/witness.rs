//! A request that shows a difference, as it can be asked again.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::Verdict;
use crate::clock::Timestamp;
use crate::identity::{Hop, Name, PeerName};
use crate::policy::difference::{Region, Witness};
use crate::trial::{self, Bearer, Claims, Presented, Question, Trial};

/// One request, for people and programs.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub method: String,
    pub url: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
    /// A SPIFFE ID, or the DNS names of a certificate.
    pub peer: Option<Vec<String>>,
    #[serde(skip)]
    pub is_spiffe: bool,
    pub issuer: Option<Name>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
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
}

/// What is put into every token that is made up, but for `iss` and `exp`, which it must have.
const ADDED: [&str; 4] = ["iat", "jti", "client_id", "aud"];
/// Until `exp`, of these.
const LIFETIME: Duration = Duration::from_secs(300);

impl Shown {
    pub fn of(
        region: &Region,
        issuer: Option<&[Option<Name>; 2]>,
        trials: [&mut Trial; 2],
        now: Timestamp,
    ) -> Shown {
        let witness = &region.witness;
        let side = region.change.permitting();
        let url = format!("https://{}{}", witness.host, witness.path);
        let claims = witness.token.as_ref().map(|(_, token)| &token.claims);
        let usual = issuer.and_then(|names| {
            let name = names[side].as_ref()?;
            let settings = trials[side].issuers().find(|settings| settings.name == *name)?;
            let audience = settings.audience.first().map(|audience| Value::from(&**audience));
            let tenant = || claims?.get("tid")?.as_str().map(str::to_owned);
            let iss = settings.url.issued(|| tenant().unwrap_or_default());
            Some([("aud", audience), ("iss", iss.map(Value::from))])
        });
        let mut trials = trials;
        let mut confirms = |without: &[&str]| {
            let sides = trials.iter_mut().enumerate();
            // a token of an issuer that one side does not know is refused there; there is nobody to sign it
            let mut answers = sides.filter_map(|(at, trial)| {
                let issuer = issuer.map(|names| names[at].clone());
                let answer = trial.ask(&question(witness, issuer, &url, without)?);
                let permitted = answer.is_ok_and(|answer| answer.verdict() == Verdict::Allow);
                Some(permitted == region.outcomes[at].is_permitted())
            });
            answers.all(|same| same)
        };
        // what a token need not have is left out only where that counts
        let lacking = ADDED.into_iter().filter(|name| claims.is_some_and(|all| !all.contains_key(*name)));
        let lacking: Vec<&str> = lacking.collect();
        let as_usual = confirms(&[]);
        let without = if as_usual { &[][..] } else { &lacking[..] };
        let confirmed = as_usual || (!lacking.is_empty() && confirms(without));
        let issuer = issuer.and_then(|names| names[side].clone());
        let mut shown = Shown { confirmed, ..Shown::alone(witness, issuer, now) };
        if confirmed {
            shown.claims.extend(without.iter().map(|name| ((*name).to_owned(), Value::Null)));
        }
        // An audience, or an `iss`, that is not what everybody would write is part of what shows the difference.
        for (name, usual) in usual.into_iter().flatten() {
            let seen =
                claims.and_then(|claims| claims.get(name)).filter(|seen| usual.as_ref() != Some(*seen));
            shown.claims.extend(seen.map(|seen| (name.to_owned(), seen.clone())));
        }
        shown
    }

    /// A request that nobody was asked about.
    pub fn alone(witness: &Witness, issuer: Option<Name>, now: Timestamp) -> Shown {
        let (peer, is_spiffe) = match witness.peer.verified().map(|peer| &peer.name) {
            Some(PeerName::Spiffe(id)) => (Some(vec![id.to_string()]), true),
            Some(PeerName::Dns { names, .. }) => {
                (Some(names.iter().map(ToString::to_string).collect()), false)
            }
            None => (None, false),
        };
        let headers = witness
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap_or_default())));
        let mut claims = witness.token.as_ref().map(|(_, token)| token.claims.clone()).unwrap_or_default();
        let client_ip = witness.client_ip.filter(|client| witness.peer_ip != Some(*client));
        let timed = claims.contains_key("auth_time");
        let (seconds, lasts) = (witness.at.unix_seconds(), LIFETIME.as_secs().cast_signed());
        claims.retain(|name, value| match name.as_str() {
            "iss" => false,
            "aud" => value.is_array(),
            "iat" => *value != seconds,
            "exp" => *value != seconds + lasts,
            _ => true,
        });
        Shown {
            method: witness.method.to_string(),
            url: format!("https://{}{}", witness.host, witness.path),
            headers: headers.collect(),
            peer,
            is_spiffe,
            issuer,
            claims,
            peer_ip: witness.peer_ip.map(|address| address.to_string()),
            client_ip: client_ip.map(|address| address.to_string()),
            hop: (witness.hop != Hop::Direct).then(|| witness.hop.as_str().to_owned()),
            at: (timed || witness.at != now).then(|| witness.at.to_string()),
            confirmed: false,
        }
    }

    /// The arguments of `countersign explain` that ask it; it has none for a certificate without a SPIFFE ID.
    pub fn explain(&self, config: &str) -> Option<String> {
        self.explain_with(&[config])
    }

    /// The same, of a configuration in several places.
    pub fn explain_with(&self, config: &[impl AsRef<str>]) -> Option<String> {
        let mut line = "countersign explain".to_owned();
        config.iter().for_each(|place| line.push_str(&format!(" -c {}", quoted(place.as_ref()))));
        let mut add = |option: &str, value: &str| line.push_str(&format!(" {option} {}", quoted(value)));
        match &self.peer {
            None => line.push_str(" --no-certificate"),
            Some(names) if self.is_spiffe => add("--spiffe-id", names.first()?),
            Some(_) => return None,
        }
        let mut add = |option: &str, value: &str| line.push_str(&format!(" {option} {}", quoted(value)));
        match &self.issuer {
            Some(issuer) => {
                add("--issuer", issuer.as_str());
                add("--claims", &Value::from(self.claims.clone()).to_string());
            }
            None => line.push_str(" --no-token"),
        }
        let mut add = |option: &str, value: &str| line.push_str(&format!(" {option} {}", quoted(value)));
        for (name, value) in &self.headers {
            add("-H", &format!("{name}: {}", value.as_str().unwrap_or_default()));
        }
        self.peer_ip.iter().for_each(|address| add("--peer-ip", address));
        self.client_ip.iter().for_each(|address| add("--client-ip", address));
        self.hop.iter().for_each(|hop| add("--hop", hop));
        self.at.iter().for_each(|at| add("--at", at));
        Some(format!("{line} {} {}", self.method, quoted(&self.url)))
    }

    /// A test of `countersign test` that fails as long as the difference is there.
    pub fn test(&self, name: &str, verdict: &str) -> String {
        let text = |text: &str| toml::Value::from(text).to_string();
        let mut lines = vec!["[[test]]".to_owned(), format!("name    = {}", text(name))];
        let peer = match &self.peer {
            None => "service = \"none\"".to_owned(),
            Some(names) => {
                let key = if self.is_spiffe { "spiffe_id" } else { "dns_name" };
                format!("{key} = {}", text(names.first().map_or("", String::as_str)))
            }
        };
        lines.push(peer);
        let caller = match &self.issuer {
            None => "\"none\"".to_owned(),
            Some(issuer) => {
                let claims = Value::from(self.claims.clone());
                let claims = toml::Value::try_from(&claims)
                    .map_or_else(|_| "{}".to_owned(), |claims| claims.to_string());
                format!("{{ issuer = {}, claims = {claims} }}", text(issuer.as_str()))
            }
        };
        lines.push(format!("caller  = {caller}"));
        lines.push(format!("request = {}", text(&format!("{} {}", self.method, self.url))));
        lines.extend(self.at.as_ref().map(|at| format!("at      = {at}")));
        lines.extend(self.peer_ip.as_ref().map(|address| format!("peer_ip = {}", text(address))));
        lines.extend(self.client_ip.as_ref().map(|address| format!("client_ip = {}", text(address))));
        lines.extend(self.hop.as_ref().map(|hop| format!("hop = {}", text(hop))));
        if !self.headers.is_empty() {
            let fields = self.headers.iter().map(|(name, value)| {
                format!("{} = {}", text(name), text(value.as_str().unwrap_or_default()))
            });
            lines.push(format!("header = {{ {} }}", fields.collect::<Vec<_>>().join(", ")));
        }
        lines.push(format!("expect  = {{ verdict = {} }}", text(verdict)));
        lines.join("\n")
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
        (Some((_, token)), Some(issuer)) => {
            Bearer::Claims(Claims { issuer: issuer?, claims: token.claims.clone(), without })
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
