//! Which tokens are of an issuer, by their `iss`, and where its keys are discovered.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use url::Url;

use super::issuer::KeySource;
use crate::identity::{SpiffeId, TrustDomain};

/// Which values of `iss` an issuer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl(Vec<IssuerForm>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum IssuerForm {
    /// Compared byte for byte (RFC 7519 §4.1.1).
    Exact(Arc<str>),
    /// A URL with `{tid}`, filled from the token's `tid`. Which tenants count is up to `only`.
    Tenants { before: Arc<str>, after: Arc<str> },
    /// `spiffe://TRUST_DOMAIN`: a JWT-SVID, which needs no `iss` (SPIFFE JWT-SVID §3).
    TrustDomain(TrustDomain),
}

/// Why a text is no issuer, or has no discovery document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerUrlError {
    #[error("an issuer needs at least one `url`")]
    Empty,
    #[error("`{0}` has `{{tid}}` more than once, or another placeholder")]
    Placeholder(String),
    #[error("`{0}` names no trust domain")]
    TrustDomain(String),
    #[error("`{0}` is no https URL to discover keys from; give `jwks = \"file or URL\"`")]
    NoDiscovery(String),
}

const TENANT: &str = "{tid}";
const ENTRA_V1: &str = "https://sts.windows.net/";

impl IssuerUrl {
    /// From the configured `url`s, in the order given; the first is the one to discover keys from.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<IssuerUrl, IssuerUrlError> {
        if texts.is_empty() {
            return Err(IssuerUrlError::Empty);
        }
        texts.iter().map(|text| IssuerForm::parse(text.as_ref())).collect::<Result<_, _>>().map(IssuerUrl)
    }

    /// Whether a token with these claims is of this issuer. `None`: `iss` is no string.
    pub(super) fn accepts(&self, claims: &Map<String, Value>) -> Option<bool> {
        let iss = string(claims, "iss")?;
        let tid = string(claims, "tid").flatten();
        Some(match iss {
            Some(iss) => self.0.iter().any(|form| form.accepts(iss, tid)),
            None => self.trust_domain().is_some_and(|domain| speaks_for(domain, claims)),
        })
    }

    /// Whether `iss` is this issuer's one name.
    pub fn is(&self, iss: &str) -> bool {
        matches!(&self.0[..], [IssuerForm::Exact(name)] if **name == *iss)
    }

    /// The `iss` that this issuer puts into its tokens, by its first URL; `tenant` is asked for where that has
    /// `{tid}`. `None` for a trust domain, whose tokens need none.
    pub fn issued(&self, tenant: impl FnOnce() -> String) -> Option<String> {
        match self.0.first()? {
            IssuerForm::Exact(text) => Some(text.to_string()),
            IssuerForm::Tenants { before, after } => Some(format!("{before}{}{after}", tenant())),
            IssuerForm::TrustDomain(_) => None,
        }
    }

    /// Every `iss` that its tokens can have, as the text before the tenant and what is behind that; `None` alone
    /// stands for a token without, which a trust domain's need not have.
    pub(super) fn forms(&self) -> impl Iterator<Item = Option<(Arc<str>, Option<Arc<str>>)>> + '_ {
        self.0.iter().flat_map(|form| match form {
            IssuerForm::Exact(text) => vec![Some((Arc::clone(text), None))],
            IssuerForm::Tenants { before, after } => {
                vec![Some((Arc::clone(before), Some(Arc::clone(after))))]
            }
            IssuerForm::TrustDomain(domain) => {
                vec![None, Some((format!("spiffe://{}", domain.as_str()).into(), None))]
            }
        })
    }

    /// The `tid` with which this `iss` is taken: the inner `None` for any, or none.
    pub(super) fn tenant_of<'i>(&self, iss: &'i str) -> Option<Option<&'i str>> {
        self.0.iter().find_map(|form| match form {
            IssuerForm::Tenants { before, after } => {
                let tenant = iss.strip_prefix(&**before)?.strip_suffix(&**after)?;
                is_tenant(tenant).then_some(Some(tenant))
            }
            form => form.accepts(iss, None).then_some(None),
        })
    }

    /// Whether `key_issuer`, with `{tenantid}` filled by the token's tenant, is this issuer.
    pub(super) fn accepts_key_issuer(&self, key_issuer: &str, claims: &Map<String, Value>) -> bool {
        let tid = string(claims, "tid").flatten();
        let filled = key_issuer.replace("{tenantid}", tid.unwrap_or_default());
        self.0.iter().any(|form| form.accepts(&filled, tid))
    }

    /// The trust domain whose JWT-SVIDs these are.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.0.iter().find_map(|form| match form {
            IssuerForm::TrustDomain(domain) => Some(domain),
            _ => None,
        })
    }

    /// Whether the tokens of more than one tenant or trust domain can come under this name.
    pub fn has_tenants(&self) -> bool {
        self.0.iter().any(|form| match form {
            IssuerForm::Tenants { .. } => true,
            IssuerForm::Exact(text) => text.contains("/common/") || text.contains("/organizations/"),
            IssuerForm::TrustDomain(_) => false,
        })
    }

    /// Whether the first URL is of Entra's v1 tokens.
    pub(super) fn is_entra_v1(&self) -> bool {
        self.0.first().is_some_and(|form| match form {
            IssuerForm::Exact(text) => text.starts_with(ENTRA_V1),
            IssuerForm::Tenants { before, .. } => before.starts_with(ENTRA_V1),
            IssuerForm::TrustDomain(_) => false,
        })
    }

    /// Whether one token could be of both.
    pub fn overlaps(&self, other: &IssuerUrl) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.overlaps(b)))
    }

    /// Where the keys can be discovered. For a URL with `{tid}` it is Entra's document for all tenants,
    /// whose `issuer` has a placeholder of its own.
    pub fn discovery(&self) -> Result<KeySource, IssuerUrlError> {
        let (base, issuer): (String, Arc<str>) = match self.0.first() {
            Some(IssuerForm::Exact(text)) => (text.to_string(), Arc::clone(text)),
            Some(IssuerForm::Tenants { before, after }) => {
                (format!("{before}common{after}"), format!("{before}{{tenantid}}{after}").into())
            }
            Some(IssuerForm::TrustDomain(domain)) => {
                return Err(IssuerUrlError::NoDiscovery(format!("spiffe://{}", domain.as_str())));
            }
            None => return Err(IssuerUrlError::Empty),
        };
        let text = format!("{}/.well-known/openid-configuration", base.trim_end_matches('/'));
        match Url::parse(&text) {
            Ok(document) if matches!(document.scheme(), "https" | "http") => {
                Ok(KeySource::Discovery { document, issuer })
            }
            _ => Err(IssuerUrlError::NoDiscovery(base)),
        }
    }
}

/// As it is configured.
impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, form) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " or " })?;
            match form {
                IssuerForm::Exact(text) => f.write_str(text)?,
                IssuerForm::Tenants { before, after } => write!(f, "{before}{TENANT}{after}")?,
                IssuerForm::TrustDomain(domain) => write!(f, "spiffe://{}", domain.as_str())?,
            }
        }
        Ok(())
    }
}

impl IssuerForm {
    fn parse(text: &str) -> Result<IssuerForm, IssuerUrlError> {
        if let Some(domain) = text.strip_prefix("spiffe://") {
            let domain = domain.parse().map_err(|_| IssuerUrlError::TrustDomain(text.to_owned()))?;
            return Ok(IssuerForm::TrustDomain(domain));
        }
        if text.is_empty() {
            return Err(IssuerUrlError::Empty);
        }
        let (before, after) = match text.split_once(TENANT) {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        if [before, after.unwrap_or_default()].iter().any(|part| part.contains(['{', '}'])) {
            return Err(IssuerUrlError::Placeholder(text.to_owned()));
        }
        Ok(match after {
            Some(after) => IssuerForm::Tenants { before: before.into(), after: after.into() },
            None => IssuerForm::Exact(text.into()),
        })
    }

    fn accepts(&self, iss: &str, tid: Option<&str>) -> bool {
        match self {
            IssuerForm::Exact(text) => **text == *iss,
            IssuerForm::Tenants { before, after } => {
                let tenant = iss.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
                tenant.is_some_and(|tenant| is_tenant(tenant) && Some(tenant) == tid)
            }
            IssuerForm::TrustDomain(domain) => iss.strip_prefix("spiffe://") == Some(domain.as_str()),
        }
    }

    fn overlaps(&self, other: &IssuerForm) -> bool {
        match (self, other) {
            (IssuerForm::Exact(exact), form) | (form, IssuerForm::Exact(exact)) => match form {
                IssuerForm::Tenants { before, after } => {
                    exact.len() > before.len() + after.len()
                        && exact.starts_with(&**before)
                        && exact.ends_with(&**after)
                }
                form => form.accepts(exact, None),
            },
            (a, b) => a == b,
        }
    }
}

/// Whether the token's subject is a workload of this trust domain.
pub(super) fn speaks_for(domain: &TrustDomain, claims: &Map<String, Value>) -> bool {
    let subject = string(claims, "sub").flatten().and_then(|sub| sub.parse::<SpiffeId>().ok());
    subject.is_some_and(|id| id.trust_domain() == domain)
}

fn is_tenant(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `None` where the claim is there and no string.
fn string<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<Option<&'c str>> {
    match claims.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn accepts(urls: &[&str], claims: Value) -> Option<bool> {
        let url = IssuerUrl::parse(urls).expect("a good url");
        url.accepts(claims.as_object().expect("an object"))
    }

    #[test]
    fn an_issuer_is_compared_exactly() {
        let mut seen = 0;
        for (iss, expected) in [
            (json!("https://a.example/x"), Some(true)),
            (json!("https://a.example/x/"), Some(false)),
            (json!("https://A.example/x"), Some(false)),
            (json!("https://a.example"), Some(false)),
            (json!(""), Some(false)),
            (json!(["https://a.example/x"]), None),
            (json!(null), None),
            (json!(1), None),
        ] {
            assert_eq!(accepts(&["https://a.example/x"], json!({ "iss": iss })), expected, "{iss}");
            seen += 1;
        }
        assert_eq!(seen, 8);
        assert_eq!(accepts(&["https://a.example/x"], json!({})), Some(false));
    }

    #[test]
    fn a_template_takes_the_tenant_that_the_token_names_itself() {
        let urls = ["https://login.example/{tid}/v2.0"];
        for (iss, tid, expected) in [
            ("https://login.example/t-1/v2.0", json!("t-1"), Some(true)),
            ("https://login.example/t-1/v2.0", json!("t-2"), Some(false)),
            ("https://login.example/t-1/v2.0", json!(1), Some(false)),
            ("https://login.example/a/b/v2.0", json!("a/b"), Some(false)),
            ("https://login.example//v2.0", json!(""), Some(false)),
            ("https://login.example/{tid}/v2.0", json!("{tid}"), Some(false)),
        ] {
            assert_eq!(accepts(&urls, json!({ "iss": iss, "tid": tid })), expected, "{iss} {tid}");
        }
        assert_eq!(accepts(&urls, json!({ "iss": "https://login.example/t-1/v2.0" })), Some(false));
    }

    #[test]
    fn a_key_is_of_an_issuer_by_any_of_its_urls() {
        let url =
            IssuerUrl::parse(&["https://sts.example/t-1/", "https://login.example/{tid}/v2.0"]).unwrap();
        let claims = json!({ "tid": "t-1" });
        let of = |key_issuer: &str| url.accepts_key_issuer(key_issuer, claims.as_object().unwrap());
        assert!(of("https://login.example/{tenantid}/v2.0") && of("https://sts.example/{tenantid}/"));
        assert!(!of("https://login.example/t-2/v2.0") && !of("https://sts.example/t-2/"));
    }

    #[test]
    fn a_trust_domain_speaks_for_its_own_subjects() {
        for (claims, expected) in [
            (json!({ "sub": "spiffe://shop.example/a" }), Some(true)),
            (json!({ "sub": "spiffe://shop.example" }), Some(false)),
            (json!({ "sub": "spiffe://other.example/a" }), Some(false)),
            (json!({ "sub": "alice" }), Some(false)),
            (json!({}), Some(false)),
            (json!({ "iss": "https://x.example", "sub": "spiffe://shop.example/a" }), Some(false)),
        ] {
            assert_eq!(accepts(&["spiffe://shop.example"], claims.clone()), expected, "{claims}");
        }
    }

    #[test]
    fn discovery_follows_the_first_url() {
        let discover = |urls: &[&str]| match IssuerUrl::parse(urls).and_then(|url| url.discovery()) {
            Ok(KeySource::Discovery { document, issuer }) => Ok((document.to_string(), issuer.to_string())),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(IssuerUrl::parse::<&str>(&[]), Err(IssuerUrlError::Empty));
        assert_eq!(IssuerUrl::parse(&[""]), Err(IssuerUrlError::Empty));
        let well_known = |base: &str| format!("{base}/.well-known/openid-configuration");
        assert_eq!(
            discover(&["https://t.example/"]),
            Ok((well_known("https://t.example"), "https://t.example/".to_owned()))
        );
        assert_eq!(discover(&["https://t.example/", "https://u.example"]), discover(&["https://t.example/"]));
        assert_eq!(
            discover(&["https://l.example/{tid}/v2.0"]),
            Ok((well_known("https://l.example/common/v2.0"), "https://l.example/{tenantid}/v2.0".to_owned()))
        );
        for bad in [
            &["spiffe://shop.example"][..],
            &["accounts"],
            &["ftp://t.example"],
            &[],
            &[""],
            &["https://x/{a}"],
            &["a{tid}{tid}"],
        ] {
            assert!(discover(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_url_with_tenants_is_enough_to_have_some_and_the_first_says_the_version() {
        let mut seen = 0;
        for (urls, tenants, v1) in [
            (&["https://a"][..], false, false),
            (&["https://a", "https://l/{tid}/v2"], true, false),
            (&["https://l/common/v2.0", "https://a"], true, false),
            (&["https://l/organizations/v2.0"], true, false),
            (&["https://sts.windows.net/t/", "https://a"], false, true),
            (&["https://sts.windows.net/{tid}/"], true, true),
            (&["https://a", "https://sts.windows.net/t/"], false, false),
            (&["spiffe://shop.example"], false, false),
        ] {
            let url = IssuerUrl::parse(urls).unwrap();
            assert_eq!((url.has_tenants(), url.is_entra_v1()), (tenants, v1), "{urls:?}");
            seen += 1;
        }
        assert_eq!(seen, 8);
    }

    #[test]
    fn two_issuers_of_one_token_are_found() {
        for (a, b, expected) in [
            ("https://x https://a", "https://a https://y", true),
            ("https://x https://a", "https://b https://y", false),
            ("https://a", "https://a", true),
            ("https://a", "https://a/", false),
            ("https://l/{tid}/v2", "https://l/t/v2", true),
            ("https://l/{tid}/v2", "https://l/t/v1", false),
            ("https://l/{tid}/v2", "https://m/t/v2", false),
            ("https://l/{tid}/v2", "https://l//v2", false),
            ("https://l/{tid}/v2", "https://l/{tid}/v2", true),
            ("spiffe://a", "spiffe://a", true),
            ("spiffe://a", "spiffe://b", false),
        ] {
            let of = |urls: &str| IssuerUrl::parse(&urls.split(' ').collect::<Vec<_>>()).unwrap();
            let (a_url, b_url) = (of(a), of(b));
            assert_eq!(a_url.overlaps(&b_url), expected, "{a} {b}");
            assert_eq!(b_url.overlaps(&a_url), expected, "{b} {a}");
        }
    }
}
