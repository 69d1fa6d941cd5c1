//! What the configuration says of an issuer: whose tokens are taken, and how they are read.
//! Plain data; `preset.rs` fills most of it, `claims.rs` and `verifier.rs` obey it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use url::{Position, Url};

use super::actor::ActorEntry;
use super::alb::ALB_CLAIMS;
use super::algorithm::Algorithm;
use super::assertion::{ASSERTION_CLAIMS, ASSERTION_TYPE};
use super::introspection::IntrospectionSettings;
use super::issuer_url::IssuerUrl;
use super::keys::KeyUse;
use super::possession::PossessionSettings;
use crate::fetch::SecretSource;
use crate::identity::{ActorKind, Name, SUBJECT_ISSUER, SpiffePattern};
use crate::policy::claim::{ClaimPath, ClaimTest};
use crate::policy::role::{Asserts, IssuerFacts};
use crate::tls::Roots;

/// `[issuer.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerSettings {
    pub name: Name,
    pub url: IssuerUrl,
    pub keys: KeySettings,
    /// A token must be meant for one of these. Never empty: an issuer without is a configuration error.
    pub audience: Vec<Arc<str>>,
    /// Never empty.
    pub algorithms: Vec<Algorithm>,
    pub token_type: TokenType,
    /// Grace for `exp`, `nbf` and `iat`: at most [`LEEWAY_MAX`].
    pub leeway: Duration,
    /// Top-level claims that every token must have.
    pub requires: Vec<Arc<str>>,
    /// Whose tokens are taken at all; every test must hold.
    pub only: Vec<ClaimTest>,
    pub claims: ClaimMap,
    pub actors: Vec<ActorEntry>,
    pub quirks: Quirks,
    pub possession: PossessionSettings,
    /// Where opaque tokens are asked about; without it there are none of this issuer.
    pub introspection: Option<IntrospectionSettings>,
}

/// The longest [`IssuerSettings::leeway`].
pub const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// Where an issuer's keys come from and under which conditions. Two issuers, or two generations of one,
/// with equal settings may share one key cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySettings {
    pub source: KeySource,
    pub key_use: KeyUse,
    /// What the issuer's TLS certificates are verified with; `None` for the system's roots.
    pub ca: Option<Roots>,
    /// Who the issuer's server must be, where that is not told by its name.
    pub server_spiffe_ids: Vec<SpiffePattern>,
    /// Sent as a bearer token to the origin of the configured URL, never to another.
    pub credential: Option<SecretSource>,
    /// http, to loopback addresses only.
    pub allow_http: bool,
    pub allow_private_addresses: bool,
    /// How long keys stay in use that could not be fetched anew.
    pub max_stale: Duration,
    /// Of a key set or discovery document that is fetched.
    pub document_bytes_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// OpenID Connect Discovery §4; only `issuer`, which must be equal, and `jwks_uri` are read.
    Discovery {
        document: Url,
        issuer: Arc<str>,
    },
    Url(Url),
    /// Each key by itself, as PEM, under this address and its `kid`; fetched when a token names it.
    Each(Url),
    File(PathBuf),
    /// Our own, for what we vouched for ourselves: handed over, never fetched.
    Own,
}

/// Which `typ` a token's header must have (RFC 8725 §3.11). Case does not count, nor does
/// `application/` before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// RFC 9068: `at+jwt`, and all claims of its §2.2.
    AccessToken,
    /// None, or one of these; as providers do it.
    Provider(&'static [&'static str]),
    /// What another Countersign vouches for: [`ASSERTION_TYPE`], in the header of assertions and nowhere else.
    Assertion,
    /// What an AWS load balancer says of who logged in there, in a header of its own; one of these, by its ARN.
    Alb { signers: Vec<Arc<str>> },
}

/// The header that a token comes in: those of one type come in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Authorization,
    Assertion,
    UserClaims,
}

/// Where a caller's words stand in a token. Scopes are a string with spaces or a list; groups and
/// roles a string (one name, spaces included), a list, or an object whose member names count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMap {
    pub subject: ClaimPath,
    pub client: Option<ClaimPath>,
    pub scopes: Option<ClaimPath>,
    pub groups: Option<ClaimPath>,
    pub roles: Option<ClaimPath>,
}

/// What a provider does unlike the RFCs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// What every access token says and no other token: claim and value.
    pub access_mark: Option<(&'static str, &'static str)>,
    /// What that claim may say instead in one that is bound to a key (`cnf.jkt`).
    pub bound_mark: Option<&'static str>,
    /// Every access token has at least one of these claims. Empty for no such rule.
    pub access_claims: &'static [&'static str],
    /// ID tokens are what callers present.
    pub takes_id_tokens: bool,
    /// A token without `aud` is meant for the one that its `client_id` names.
    pub client_is_audience: bool,
    /// A key with an `issuer` signs that issuer's tokens only.
    pub keys_have_issuers: bool,
}

/// RFC 9068 §2.2.
const ACCESS_TOKEN_CLAIMS: [&str; 7] = ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"];

impl KeySettings {
    /// Whether the same is fetched from the same server, whoever vouches for it.
    pub fn asks_as(&self, other: &KeySettings) -> bool {
        *self == KeySettings { ca: self.ca.clone(), ..other.clone() }
    }
}

impl IssuerSettings {
    /// Whether the same server is asked, about the same tokens, whoever vouches for it.
    pub fn asks_as(&self, other: &IssuerSettings) -> bool {
        self.name == other.name && self.introspection == other.introspection && self.keys.asks_as(&other.keys)
    }

    /// Whether the issuer's server is asked for anything under its name.
    pub fn is_dialled(&self) -> bool {
        let by_file = matches!(self.keys.source, KeySource::File(_) | KeySource::Own);
        self.keys.server_spiffe_ids.is_empty() && (!by_file || self.introspection.is_some())
    }

    /// Whether a token could be of either: those that come in a header of load balancers are of no other issuer.
    pub fn overlaps(&self, other: &IssuerSettings) -> bool {
        self.token_type.is_alb() == other.token_type.is_alb() && self.url.overlaps(&other.url)
    }

    /// What the policy must know of this issuer: the preset's entries count like those given by hand.
    pub fn facts(&self) -> IssuerFacts {
        let top = |path: &ClaimPath| path.0.first().cloned();
        let mut actors: Vec<ActorKind> = self.actors.iter().map(|entry| entry.kind).collect();
        actors.push(ActorKind::Unknown);
        actors.sort_unstable();
        actors.dedup();
        let mut actor_claims: Vec<Arc<str>> =
            self.actors.iter().flat_map(ActorEntry::claims).map(Arc::clone).collect();
        actor_claims.sort_unstable();
        actor_claims.dedup();
        let profile = self.token_type.claims().iter().copied().map(Arc::from);
        IssuerFacts {
            name: self.name.clone(),
            requires: self.requires.iter().cloned().chain(profile).collect(),
            subject: top(&self.claims.subject),
            client: self.claims.client.as_ref().and_then(top),
            scopes: self.claims.scopes.as_ref().and_then(top),
            groups: self.claims.groups.as_ref().and_then(top),
            roles: self.claims.roles.as_ref().and_then(top),
            actors,
            actor_claims,
            asserts: self.token_type.is_assertion().then(|| match self.only.iter().any(names_issuer) {
                true => Asserts::Named,
                false => Asserts::Anybodys,
            }),
        }
    }
}

fn names_issuer(test: &ClaimTest) -> bool {
    test.claim == ClaimPath::top_level(SUBJECT_ISSUER)
}

/// For logs: where, without a query.
impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Discovery { document: url, .. } | KeySource::Url(url) => {
                f.write_str(&url[..Position::AfterPath])
            }
            KeySource::Each(base) => write!(f, "{}{{kid}}", &base[..Position::AfterPath]),
            KeySource::File(path) => path.display().fmt(f),
            KeySource::Own => f.write_str("this proxy"),
        }
    }
}

impl Quirks {
    /// Whether a key with this `issuer` may sign this token.
    pub(super) fn key_may_sign(
        &self,
        key_issuer: Option<&str>,
        url: &IssuerUrl,
        claims: &Map<String, Value>,
    ) -> bool {
        !self.keys_have_issuers || key_issuer.is_none_or(|issuer| url.accepts_key_issuer(issuer, claims))
    }
}

impl TokenType {
    /// Access tokens as most providers label them.
    pub const PLAIN: TokenType = TokenType::Provider(&["jwt", "at+jwt"]);

    /// Whether such tokens come in the header of assertions, and in no other.
    pub fn is_assertion(&self) -> bool {
        *self == TokenType::Assertion
    }

    /// Whether it is what load balancers say.
    pub fn is_alb(&self) -> bool {
        matches!(self, TokenType::Alb { .. })
    }

    pub(super) fn carrier(&self) -> Carrier {
        match self {
            TokenType::AccessToken | TokenType::Provider(_) => Carrier::Authorization,
            TokenType::Assertion => Carrier::Assertion,
            TokenType::Alb { .. } => Carrier::UserClaims,
        }
    }

    /// The claims that every token of this type has.
    pub(super) fn claims(&self) -> &'static [&'static str] {
        match self {
            TokenType::AccessToken => &ACCESS_TOKEN_CLAIMS,
            TokenType::Provider(_) => &[],
            TokenType::Assertion => &ASSERTION_CLAIMS,
            TokenType::Alb { .. } => &ALB_CLAIMS,
        }
    }

    /// The `typ` that such tokens have.
    pub fn media_type(&self) -> &'static str {
        match self {
            TokenType::AccessToken => "at+jwt",
            TokenType::Provider(_) | TokenType::Alb { .. } => "JWT",
            TokenType::Assertion => ASSERTION_TYPE,
        }
    }

    /// Whether a header with this `typ` is of this type.
    pub(super) fn accepts(&self, media_type: Option<&str>) -> bool {
        let name = media_type.map(str::to_ascii_lowercase);
        let name = name.as_deref().map(|name| name.strip_prefix("application/").unwrap_or(name));
        match (self, name) {
            (TokenType::AccessToken, name) => name == Some("at+jwt"),
            (TokenType::Assertion, name) => name == Some(ASSERTION_TYPE),
            (TokenType::Provider(_) | TokenType::Alb { .. }, None) => true,
            (TokenType::Alb { .. }, name) => name == Some("jwt"),
            (TokenType::Provider(names), Some(name)) => names.contains(&name),
        }
    }
}
