//! What is known of providers: where their tokens say what, how their actors are told apart, and what
//! they do unlike the RFCs. A preset only fills in [`IssuerSettings`]; nothing else knows that it exists.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::actor::ActorEntry;
use super::algorithm::Algorithm;
use super::assertion::ASSERTION_KEYS_PATH;
use super::issuer::{ClaimMap, IssuerSettings, KeySettings, KeySource, Quirks, TokenType};
use super::issuer_url::{IssuerUrl, IssuerUrlError};
use super::keys::KeyUse;
use super::possession::PossessionSettings;
use crate::identity::{ActorKind, Name};
use crate::policy::claim::{ClaimPath, ClaimTest, ClaimValue};
use crate::policy::pattern::Glob;

/// `preset = "…"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A custom authorization server; the org server's access tokens are opaque to everyone else.
    Okta,
    Auth0,
    /// v1 tokens where the URL is `https://sts.windows.net/…`, else v2.
    Entra,
    Cognito,
    Keycloak,
    /// ID tokens of people and service accounts; Google's access tokens are opaque.
    Google,
    /// Service account tokens.
    Kubernetes,
    /// Actions workflows.
    Github,
    /// JWT-SVIDs of one trust domain; `url = "spiffe://TRUST_DOMAIN"`, keys from its bundle.
    Spiffe,
    /// Assertions of another Countersign.
    Countersign,
    /// Who logged in at an AWS Application Load Balancer.
    Alb,
    /// RFC 9068 and RFC 7519 names, no kinds of actors.
    Generic,
}

/// A text that names no [`Preset`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is none of okta auth0 entra cognito keycloak google kubernetes github spiffe countersign alb generic"
)]
pub struct UnknownPreset(pub String);

/// SPIFFE JWT-SVID §2.3.
const SVID: TokenType = TokenType::Provider(&["jwt", "jose"]);
const LEEWAY_DEFAULT: Duration = Duration::from_secs(60);

/// The starts of `sub` that Auth0 gives to people, by connection; `auth0` and those of social and
/// enterprise logins.
const AUTH0_PEOPLE: [&str; 16] = [
    "auth0|",
    "google-oauth2|",
    "google-apps|",
    "github|",
    "windowslive|",
    "facebook|",
    "apple|",
    "linkedin|",
    "twitter|",
    "samlp|",
    "waad|",
    "ad|",
    "adfs|",
    "oidc|",
    "okta|",
    "email|",
];

impl Preset {
    pub const ALL: [Preset; 12] = [
        Preset::Okta,
        Preset::Auth0,
        Preset::Entra,
        Preset::Cognito,
        Preset::Keycloak,
        Preset::Google,
        Preset::Kubernetes,
        Preset::Github,
        Preset::Spiffe,
        Preset::Countersign,
        Preset::Alb,
        Preset::Generic,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Preset::Okta => "okta",
            Preset::Auth0 => "auth0",
            Preset::Entra => "entra",
            Preset::Cognito => "cognito",
            Preset::Keycloak => "keycloak",
            Preset::Google => "google",
            Preset::Kubernetes => "kubernetes",
            Preset::Github => "github",
            Preset::Spiffe => "spiffe",
            Preset::Countersign => "countersign",
            Preset::Alb => "alb",
            Preset::Generic => "generic",
        }
    }

    /// Values of `iss` that the provider uses besides the one that is configured.
    pub fn also_issuer(self) -> &'static [&'static str] {
        match self {
            Preset::Google => &["accounts.google.com"],
            _ => &[],
        }
    }

    /// Why an issuer with this preset and URL needs `only`: anybody in the world can get its tokens.
    pub fn needs_only(self, url: &IssuerUrl) -> Option<&'static str> {
        match self {
            Preset::Github => Some(
                "every repository on GitHub gets such tokens, so `only` must say whose are taken, as `only = { repository_owner_id = \"…\" }`",
            ),
            Preset::Google => Some(
                "everybody with a Google account gets such tokens, so `only` must say whose are taken, as `only = { hd = \"…\" }`",
            ),
            Preset::Entra if url.has_tenants() => Some(
                "every tenant of Entra gets such tokens, so `only` must say whose are taken, as `only = { tid = [\"…\"] }`",
            ),
            _ if url.has_tenants() => Some(
                "`{tid}` stands for every tenant, so `only` must say which are taken, as `only = { tid = [\"…\"] }`",
            ),
            _ => None,
        }
    }

    /// Where keys are, unless the configuration says it.
    pub fn keys(self, url: &IssuerUrl) -> Result<KeySource, IssuerUrlError> {
        let found = url.discovery()?;
        match found {
            KeySource::Discovery { document, .. } if self == Preset::Countersign => {
                let keys = document.join(ASSERTION_KEYS_PATH);
                keys.map(KeySource::Url).map_err(|_| IssuerUrlError::NoDiscovery(document.to_string()))
            }
            found => Ok(found),
        }
    }

    /// How keys of the provider are marked, for [`KeySettings::key_use`].
    pub fn key_use(self) -> KeyUse {
        if self == Preset::Spiffe { KeyUse::JwtSvid } else { KeyUse::Signature }
    }

    /// The settings of an issuer that states no more than this; every field may then be set by hand.
    pub fn fill(
        self,
        name: Name,
        url: IssuerUrl,
        audience: Vec<Arc<str>>,
        keys: KeySettings,
    ) -> IssuerSettings {
        IssuerSettings {
            claims: self.claims(&url),
            actors: self.actors(),
            quirks: self.quirks(),
            algorithms: self.algorithms(),
            token_type: self.token_type(),
            leeway: LEEWAY_DEFAULT,
            requires: Vec::new(),
            only: Vec::new(),
            possession: PossessionSettings::default(),
            introspection: None,
            name,
            url,
            keys,
            audience,
        }
    }

    fn claims(self, url: &IssuerUrl) -> ClaimMap {
        let map = |client, scopes, groups, roles| ClaimMap {
            subject: ClaimPath::top_level("sub"),
            client: path(client),
            scopes: path(scopes),
            groups: path(groups),
            roles: path(roles),
        };
        match self {
            Preset::Okta => map(&["cid"], &["scp"], &["groups"], &[]),
            Preset::Auth0 => map(&["azp"], &["scope"], &[], &["permissions"]),
            Preset::Entra if url.is_entra_v1() => map(&["appid"], &["scp"], &["groups"], &["roles"]),
            Preset::Entra => map(&["azp"], &["scp"], &["groups"], &["roles"]),
            Preset::Cognito => map(&["client_id"], &["scope"], &["cognito:groups"], &[]),
            Preset::Keycloak => map(&["azp"], &["scope"], &["groups"], &["realm_access", "roles"]),
            Preset::Google => map(&["azp"], &[], &[], &[]),
            Preset::Kubernetes | Preset::Github | Preset::Spiffe => map(&[], &[], &[], &[]),
            // What the provider's user info endpoint says: who it is, and not what a token was given for.
            Preset::Alb => map(&["client_id"], &[], &["groups"], &[]),
            Preset::Countersign | Preset::Generic => map(&["client_id"], &["scope"], &["groups"], &["roles"]),
        }
    }

    fn actors(self) -> Vec<ActorEntry> {
        use ActorKind::{Agent, Human, Service};
        match self {
            Preset::Okta => vec![marked(Human, "uid", &["*"]), same(Service, "sub", "cid")],
            Preset::Auth0 => vec![
                marked(Service, "gty", &["client-credentials"]),
                ActorEntry {
                    kind: Human,
                    claim: vec![test("sub", AUTH0_PEOPLE.iter().map(|start| Glob::Prefix((*start).into())))],
                    same: None,
                },
            ],
            Preset::Entra => vec![marked(Human, "scp", &["*"]), marked(Service, "idtyp", &["app"])],
            Preset::Cognito => vec![marked(Human, "username", &["*"]), same(Service, "sub", "client_id")],
            Preset::Keycloak => vec![
                marked(Human, "sid", &["*"]),
                marked(Service, "preferred_username", &["service-account-*"]),
            ],
            Preset::Google => vec![marked(Human, "hd", &["*"]), same(Service, "sub", "azp")],
            Preset::Kubernetes => vec![marked(Service, "sub", &["system:serviceaccount:*"])],
            Preset::Github => vec![marked(Service, "repository_id", &["*"])],
            Preset::Spiffe => vec![marked(Service, "sub", &["spiffe://*"])],
            Preset::Countersign => vec![
                marked(Agent, "actor", &["agent"]),
                marked(Human, "on_behalf_of", &["human"]),
                marked(Service, "on_behalf_of", &["service"]),
            ],
            // A log-in in a browser is the only one that a load balancer has.
            Preset::Alb => vec![marked(Human, "sub", &["*"])],
            Preset::Generic => Vec::new(),
        }
    }

    fn token_type(self) -> TokenType {
        match self {
            Preset::Spiffe => SVID,
            Preset::Countersign => TokenType::Assertion,
            Preset::Alb => TokenType::Alb { signers: Vec::new() },
            _ => TokenType::PLAIN,
        }
    }

    fn quirks(self) -> Quirks {
        let none = Quirks::default();
        match self {
            Preset::Okta => Quirks { access_claims: &["cid"], ..none },
            Preset::Entra => Quirks { access_claims: &["azp", "appid"], keys_have_issuers: true, ..none },
            Preset::Cognito => {
                Quirks { access_mark: Some(("token_use", "access")), client_is_audience: true, ..none }
            }
            Preset::Keycloak => {
                Quirks { access_mark: Some(("typ", "Bearer")), bound_mark: Some("DPoP"), ..none }
            }
            Preset::Google => Quirks { takes_id_tokens: true, ..none },
            Preset::Auth0
            | Preset::Kubernetes
            | Preset::Github
            | Preset::Spiffe
            | Preset::Countersign
            | Preset::Alb
            | Preset::Generic => none,
        }
    }

    fn algorithms(self) -> Vec<Algorithm> {
        let all = Algorithm::ALL.into_iter();
        match self {
            Preset::Countersign | Preset::Alb => vec![Algorithm::Es256],
            // JWT-SVID §2.1 knows all but EdDSA
            Preset::Spiffe => all.filter(|algorithm| *algorithm != Algorithm::EdDsa).collect(),
            _ => Algorithm::DEFAULT.to_vec(),
        }
    }
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(text: &str) -> Result<Preset, UnknownPreset> {
        let found = Preset::ALL.into_iter().find(|preset| preset.as_str() == text);
        found.ok_or_else(|| UnknownPreset(text.to_owned()))
    }
}

fn path(names: &[&str]) -> Option<ClaimPath> {
    (!names.is_empty()).then(|| ClaimPath(names.iter().map(|name| (*name).into()).collect()))
}

fn test(claim: &str, values: impl Iterator<Item = Glob>) -> ClaimTest {
    ClaimTest { claim: ClaimPath::top_level(claim), values: values.map(ClaimValue::Text).collect() }
}

fn marked(kind: ActorKind, claim: &str, values: &[&str]) -> ActorEntry {
    let globs = values.iter().map(|value| match value.strip_suffix('*') {
        Some(start) => Glob::Prefix(start.into()),
        None => Glob::Exact((*value).into()),
    });
    ActorEntry { kind, claim: vec![test(claim, globs)], same: None }
}

fn same(kind: ActorKind, one: &str, other: &str) -> ActorEntry {
    let same = [ClaimPath::top_level(one), ClaimPath::top_level(other)];
    ActorEntry { kind, claim: Vec::new(), same: Some(same) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_can_get_needs_only() {
        let needs =
            |preset: Preset, url: &str| IssuerUrl::parse(&[url]).map(|url| preset.needs_only(&url).is_some());
        for (preset, url, expected) in [
            (Preset::Github, "https://token.actions.githubusercontent.com", true),
            (Preset::Google, "https://accounts.google.com", true),
            (Preset::Entra, "https://login.microsoftonline.com/{tid}/v2.0", true),
            (Preset::Entra, "https://login.microsoftonline.com/common/v2.0", true),
            (Preset::Entra, "https://login.microsoftonline.com/8a1b/v2.0", false),
            (Preset::Generic, "https://login.example/{tid}", true),
            (Preset::Okta, "https://x.okta.com/oauth2/default", false),
        ] {
            assert_eq!(needs(preset, url), Ok(expected), "{preset:?} {url}");
        }
    }

    #[test]
    fn every_preset_has_a_name() {
        for preset in Preset::ALL {
            assert_eq!(preset.as_str().parse(), Ok(preset));
        }
        assert!("Okta".parse::<Preset>().is_err());
    }
}
