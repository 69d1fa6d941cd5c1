//! What was typed becomes a question. A token's text is a secret: it is read from where shells, process lists
//! and histories do not see it, and never shown again.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use super::Unexplained;
use crate::clock::Timestamp;
use crate::identity::{Hop, Name, PeerName};
use crate::tls::{PemSource, dns_peer};
use crate::trial::{self, Bearer, Bound, Claims, Presented, Question, Trial};

#[derive(Debug, Args)]
pub struct QuestionArgs {
    /// As GET
    #[arg(required_unless_present = "record")]
    method: Option<String>,
    /// With scheme and host, as https://orders.shop.example/customers/alice/orders/7
    #[arg(required_unless_present = "record")]
    url: Option<String>,
    /// A header field, as 'content-type: application/grpc'; may be given again
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,

    /// A good certificate of this [service] is presented
    #[arg(long, value_name = "NAME", group = "peer", help_heading = "Who carries it")]
    service: Option<Name>,
    /// A good certificate with this SPIFFE ID is presented
    #[arg(long, value_name = "ID", group = "peer", help_heading = "Who carries it")]
    spiffe_id: Option<String>,
    /// A good certificate with this DNS name, and no SPIFFE ID, is presented; given again, with both names
    #[arg(
        long,
        value_name = "NAME",
        group = "peer",
        requires = "trust_domain",
        help_heading = "Who carries it"
    )]
    dns_name: Vec<String>,
    /// The [trust_domain] whose CA vouches for the DNS name
    #[arg(long, value_name = "DOMAIN", requires = "dns_name", help_heading = "Who carries it")]
    trust_domain: Option<String>,
    /// This certificate is presented, and verified as in a handshake: PEM, leaf first
    #[arg(long, value_name = "FILE", group = "peer", help_heading = "Who carries it")]
    certificate: Option<PathBuf>,
    /// No certificate is presented
    #[arg(long, group = "peer", help_heading = "Who carries it")]
    no_certificate: bool,

    /// This token is presented: a file, `-` for standard input, or env:NAME. Never the token itself
    #[arg(long, value_name = "FILE", groups = ["caller", "presented"], help_heading = "For whom")]
    token: Option<String>,
    /// This assertion of another Countersign is presented, as --token gives one
    #[arg(long, value_name = "FILE", groups = ["caller", "presented"], help_heading = "For whom")]
    assertion: Option<String>,
    /// This x-amzn-oidc-data of an AWS load balancer is presented, as --token gives one
    #[arg(long, value_name = "FILE", groups = ["caller", "presented"], help_heading = "For whom")]
    oidc_data: Option<String>,
    /// The key set of an issuer whose keys are not in a file, to verify the token with; of a load balancer a key in
    /// PEM, in a file that is called as AWS calls it (its kid); may be given again
    #[arg(long, value_name = "ISSUER=FILE", requires = "presented", help_heading = "For whom")]
    keys: Vec<String>,
    /// A good token with these claims is presented, an assertion if its issuer is another Countersign, and a log-in at
    /// a load balancer if it is one: a JSON object, a file with one, or `-`. What the issuer puts into each of its
    /// tokens is added; null leaves a claim out
    #[arg(long, value_name = "JSON", group = "caller", help_heading = "For whom")]
    claims: Option<String>,
    /// Whose token has the claims; may be left out where one issuer is configured
    #[arg(long, value_name = "NAME", requires = "claims", help_heading = "For whom")]
    issuer: Option<Name>,
    /// The token with these claims is bound to a key, and the request proves to have it (DPoP, RFC 9449)
    #[arg(long, requires = "claims", help_heading = "For whom")]
    dpop: bool,
    /// The token with these claims is bound to the certificate of whoever carries it (RFC 8705), as an assertion is
    /// anyway
    #[arg(long, requires = "claims", conflicts_with = "dpop", help_heading = "For whom")]
    certificate_bound: bool,
    /// No token is presented
    #[arg(long, group = "caller", help_heading = "For whom")]
    no_token: bool,

    /// When it is asked, as 2027-01-15T12:00:00Z; now if left out
    #[arg(long, value_name = "TIME", help_heading = "Circumstances")]
    at: Option<Timestamp>,
    /// The [listener] that it comes to; else the first that deals with such a peer
    #[arg(long, value_name = "NAME", help_heading = "Circumstances")]
    listener: Option<Name>,
    /// The other end of the connection
    #[arg(long, value_name = "ADDRESS", help_heading = "Circumstances")]
    peer_ip: Option<IpAddr>,
    /// The client as trusted hops tell it; else the peer's address
    #[arg(long, value_name = "ADDRESS", help_heading = "Circumstances")]
    client_ip: Option<IpAddr>,
    /// Where the certificate was learned: direct, local or a trusted hop's name. One that is another Countersign
    /// presents its own
    #[arg(long, value_name = "HOP", default_value = "direct", help_heading = "Circumstances")]
    hop: String,
}

/// Header fields that no argument holds, and by what their secrets are given.
const SECRET: [(&str, &str); 3] =
    [("authorization", "--token"), ("x-auth-assertion", "--assertion"), ("x-amzn-oidc-data", "--oidc-data")];

/// What a key in PEM starts with (RFC 7468).
const PEM_START: &[u8] = b"-----BEGIN";

/// What a real token starts with: `{"` in base64url.
const TOKEN_START: &str = "eyJ";

impl QuestionArgs {
    pub fn question(&self, trial: &mut Trial) -> Result<Question, Unexplained> {
        let (Some(method), Some(url)) = (&self.method, &self.url) else {
            return Err(Unexplained::usage("a METHOD and a URL are needed"));
        };
        let head = trial::head(method, url, self.fields()?).map_err(Unexplained::usage)?;
        let caller = self.caller(trial)?;
        Ok(Question {
            peer: self.peer()?,
            caller,
            listener: self.listener.clone(),
            hop: self.hop()?,
            peer_ip: self.peer_ip,
            client_ip: self.client_ip,
            at: self.at,
            ..Question::new(head)
        })
    }

    /// As it was typed.
    pub fn asked(&self) -> String {
        let typed = [&self.method, &self.url].map(|typed| typed.as_deref().unwrap_or_default());
        typed.join(" ")
    }

    fn fields(&self) -> Result<Vec<(&str, &str)>, Unexplained> {
        let mut fields = Vec::new();
        for header in &self.headers {
            let field = header.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
            let (name, value) = field.ok_or_else(|| {
                Unexplained::usage("a header is `name: value`, in one argument: -H 'name: value'")
            })?;
            if let Some((_, instead)) = SECRET.iter().find(|(secret, _)| name.eq_ignore_ascii_case(secret)) {
                return Err(Unexplained::usage(format!(
                    "a token stands in no argument, where other processes and histories see it: give {instead}"
                )));
            }
            fields.push((name, value));
        }
        Ok(fields)
    }

    fn peer(&self) -> Result<Presented, Unexplained> {
        if let Some(service) = &self.service {
            Ok(Presented::Service(service.clone()))
        } else if let Some(id) = &self.spiffe_id {
            let id = id.parse().map_err(|error| Unexplained::usage(format!("--spiffe-id: {error}")))?;
            Ok(Presented::Named(PeerName::Spiffe(id)))
        } else if let Some(domain) = &self.trust_domain {
            let domain =
                domain.parse().map_err(|error| Unexplained::usage(format!("--trust-domain: {error}")))?;
            let names = dns_peer(self.dns_name.iter().map(String::as_str), domain);
            names.map(Presented::Named).map_err(|error| Unexplained::usage(format!("--dns-name: {error}")))
        } else if let Some(file) = &self.certificate {
            let chain = PemSource::File(file.clone()).certificates();
            chain.map(Presented::Chain).map_err(Unexplained::usage)
        } else if self.no_certificate || self.hop != Hop::Direct.as_str() {
            // What the local application sends comes from this proxy itself; a hop presents or tells one.
            Ok(Presented::Nothing)
        } else {
            Err(Unexplained::usage(
                "who carries it? one of --service, --spiffe-id, --dns-name, --certificate, --no-certificate",
            ))
        }
    }

    fn caller(&self, trial: &mut Trial) -> Result<Bearer, Unexplained> {
        for given in &self.keys {
            give_keys(trial, given)?;
        }
        if let Some(place) = &self.token {
            Ok(Bearer::Token(token(place, "token")?))
        } else if let Some(place) = &self.assertion {
            Ok(Bearer::Assertion(token(place, "assertion")?))
        } else if let Some(place) = &self.oidc_data {
            Ok(Bearer::UserClaims(token(place, "oidc-data")?))
        } else if let Some(claims) = &self.claims {
            let issuer = match &self.issuer {
                Some(issuer) => issuer.clone(),
                None => only_issuer(trial)?,
            };
            let mut claims = object(claims)?;
            let without: Vec<_> = claims.iter().filter(|it| it.1.is_null()).map(|it| it.0.clone()).collect();
            claims.retain(|_, value| !value.is_null());
            let bound = match (self.dpop, self.certificate_bound) {
                (true, _) => Some(Bound::Key),
                (_, true) => Some(Bound::Certificate),
                (false, false) => None,
            };
            Ok(Bearer::Claims(Claims { issuer, claims, without, bound }))
        } else if self.no_token {
            Ok(Bearer::Nothing)
        } else {
            Err(Unexplained::usage(
                "for whom? one of --token, --assertion, --oidc-data, --claims, --no-token",
            ))
        }
    }

    fn hop(&self) -> Result<Hop, Unexplained> {
        match self.hop.as_str() {
            "direct" => Ok(Hop::Direct),
            "local" => Ok(Hop::Local),
            name => {
                name.parse().map(Hop::Trusted).map_err(|error| Unexplained::usage(format!("--hop: {error}")))
            }
        }
    }
}

fn token(place: &str, option: &str) -> Result<String, Unexplained> {
    let bytes = if let Some(name) = place.strip_prefix("env:") {
        let missing = || Unexplained::usage(format!("there is no `{name}` in the environment"));
        std::env::var(name).map_err(|_| missing())?.into_bytes()
    } else if place.starts_with(TOKEN_START) && !Path::new(place).exists() {
        return Err(Unexplained::usage(format!(
            "--{option} takes a file, `-` or env:NAME, and this looks like a token. It is now in your shell's \
             history and was in the list of processes: if it is still good, see that it is revoked"
        )));
    } else {
        read_or_stdin(place)?
    };
    let text = String::from_utf8(bytes).map_err(|_| Unexplained::usage("the token is not text"))?;
    // a header field as it is kept for other programs will do, too
    let is_secret = |name: &str| SECRET.iter().any(|(secret, _)| name.eq_ignore_ascii_case(secret));
    let field = text.trim().split_once(':').filter(|(name, _)| is_secret(name));
    let text = field.map_or(text.trim(), |(_, value)| value.trim());
    Ok(text.strip_prefix("Bearer ").unwrap_or(text).trim_start().to_owned())
}

fn give_keys(trial: &mut Trial, given: &str) -> Result<(), Unexplained> {
    let (issuer, file) = given.split_once('=').ok_or_else(|| Unexplained::usage("--keys is ISSUER=FILE"))?;
    let name: Name = issuer.parse().map_err(|error| Unexplained::usage(format!("--keys: {error}")))?;
    let file = Path::new(file);
    let document = read(file)?;
    let kid = file.file_name().and_then(|name| name.to_str()).filter(|_| document.starts_with(PEM_START));
    match kid {
        Some(kid) => trial.give_key(&name, kid, &document),
        None => trial.give_keys(&name, &document),
    }
    .map_err(|error| of_file(file, error))
}

fn only_issuer(trial: &Trial) -> Result<Name, Unexplained> {
    let names: Vec<_> = trial.issuers().map(|issuer| issuer.name.clone()).collect();
    match &names[..] {
        [only] => Ok(only.clone()),
        names => {
            let names: Vec<_> = names.iter().map(Name::as_str).collect();
            Err(Unexplained::usage(format!("whose claims? give --issuer, one of: {}", names.join(", "))))
        }
    }
}

fn object(given: &str) -> Result<Map<String, Value>, Unexplained> {
    let bytes = if given.trim_start().starts_with('{') { given.into() } else { read_or_stdin(given)? };
    serde_json::from_slice(&bytes)
        .map_err(|error| Unexplained::usage(format!("the claims are no JSON object: {error}")))
}

/// What a file holds, or standard input for `-`.
pub fn read_or_stdin(place: &str) -> Result<Vec<u8>, Unexplained> {
    if place != "-" {
        return read(Path::new(place));
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|error| Unexplained::usage(format!("standard input: {error}")))?;
    Ok(bytes)
}

fn read(file: &Path) -> Result<Vec<u8>, Unexplained> {
    std::fs::read(file).map_err(|error| of_file(file, error))
}

fn of_file(file: &Path, error: impl std::fmt::Display) -> Unexplained {
    Unexplained::usage(format!("`{}`: {error}", file.display()))
}
