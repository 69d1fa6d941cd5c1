//! `[identity.consul]` and `[identity.aws_private_ca]`: sources that are asked over HTTP.

use rustls::pki_types::DnsName;
use url::Url;

use super::error::Diagnostics;
use super::file_identity::{AwsPrivateCa, Consul, SigningAlgorithm};
use super::issuer_checks::is_loopback;
use super::material::Material;
use super::names::items;
use super::settings::seconds;
use super::source::At;
use crate::tls::source::aws_private_ca::{self, Endpoint, NoEndpoint};
use crate::tls::source::consul::{self, Access, Whose};

const CONSUL_ADDRESS_DEFAULT: &str = "http://127.0.0.1:8500";
const SIGNING_ALGORITHM_DEFAULT: &str = "SHA256WITHECDSA";
const VALIDITY_DEFAULT_S: u64 = 24 * 60 * 60;

pub fn consul(
    table: &At<Consul>,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> Option<consul::Settings> {
    let typed = &table.value;
    let is_segment = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !text.is_empty() && !matches!(text, "." | "..") && text.bytes().all(allowed)
    };
    let of_method = typed.login.as_ref().and_then(|login| login.value.namespace.as_ref());
    let names = [&typed.service, &typed.partition, &typed.namespace, &typed.datacenter].into_iter().flatten();
    for name in names.chain(of_method).filter(|name| !is_segment(&name.value)) {
        let message = format!("`{}` cannot stand in a SPIFFE ID", name.value);
        let remedy = "write its name in Consul: letters, digits, `-`, `_` and `.`";
        found.error("bad_value", name.span, message, remedy);
    }
    let address = match &typed.address {
        Some(address) => api(address, found),
        None => CONSUL_ADDRESS_DEFAULT.parse().ok(),
    };
    let access = match (&typed.token, &typed.login) {
        (Some(_), Some(login)) => {
            let message = "a token is given, and a login that gets one";
            found.error("contradiction", login.span, message, "take one of the two out");
            return None;
        }
        (Some(token), None) => Access::Token(material.secret(token, found)),
        (None, Some(login)) => Access::Login {
            auth_method: login.value.auth_method.as_ref()?.value.clone(),
            bearer_token: material.secret(login.value.bearer_token.as_ref()?, found),
            namespace: login.value.namespace.as_ref().map(|namespace| namespace.value.clone()),
        },
        (None, None) => Access::Anonymous,
    };
    // Read for each connection; looked at now, so that a wrong one is told early.
    let ca = typed.ca.as_ref().and_then(|ca| {
        material.server_ca(ca, found)?;
        Some(material.source(&ca.value))
    });
    let text = |typed: &Option<At<String>>| typed.as_ref().map(|text| text.value.clone());
    Some(consul::Settings {
        address: address?,
        ca,
        access,
        whose: Whose {
            service: text(&typed.service)?,
            partition: text(&typed.partition),
            namespace: text(&typed.namespace),
            datacenter: text(&typed.datacenter),
        },
    })
}

pub fn aws_private_ca(
    table: &At<AwsPrivateCa>,
    material: &Material<'_>,
    found: &mut Diagnostics,
) -> Option<aws_private_ca::Settings> {
    let typed = &table.value;
    for name in items(&typed.dns).iter().filter(|name| DnsName::try_from(name.value.as_str()).is_err()) {
        let message = format!("`{}` is no DNS name", name.value);
        found.error("bad_value", name.span, message, "write it as `\"orders.shop.example\"`");
    }
    let endpoint = typed.endpoint.as_ref().map(|endpoint| api(endpoint, found));
    let arn = typed.certificate_authority_arn.as_ref()?;
    let Some((region, host)) = place_of(&arn.value) else {
        let remedy = "write `arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID`";
        found.error("bad_value", arn.span, "this is no ARN of a CA in AWS Private CA", remedy);
        return None;
    };
    let credentials = match Endpoint::of(material.environment) {
        Ok(endpoint) => Some(endpoint),
        // A configuration may be checked where it does not run.
        Err(NoEndpoint::Unset) => None,
        Err(error @ NoEndpoint::Bad(_)) => {
            let remedy = "leave it as Amazon ECS sets it: http at its agent, or https";
            found.error("bad_value", table.span, error.to_string(), remedy);
            None
        }
    };
    if endpoint.is_none() && host.is_none() {
        let message = "where the API of this partition of AWS is, is not known";
        found.error("missing_key", arn.span, message, "add `endpoint = \"https://…\"`");
    }
    Some(aws_private_ca::Settings {
        api: endpoint.unwrap_or_else(|| format!("https://{}/", host?).parse().ok())?,
        region: region.to_owned(),
        authority: arn.value.clone(),
        spiffe_id: typed.spiffe_id.as_ref()?.value.clone(),
        dns: items(&typed.dns).iter().map(|name| name.value.clone()).collect(),
        signing_algorithm: typed
            .signing_algorithm
            .as_ref()
            .map_or(SIGNING_ALGORITHM_DEFAULT, |algorithm| algorithm.value.as_str()),
        template: typed.template_arn.as_ref().map(|arn| arn.value.clone()),
        validity: seconds(&typed.validity, VALIDITY_DEFAULT_S),
        credentials,
    })
}

/// The region of a CA, and the host of the API there, as far as it is known.
fn place_of(arn: &str) -> Option<(&str, Option<String>)> {
    let parts: Vec<&str> = arn.split(':').collect();
    let ["arn", partition, "acm-pca", region, account, resource] = parts[..] else { return None };
    let end = match partition {
        "aws" | "aws-us-gov" => Some("amazonaws.com"),
        "aws-cn" => Some("amazonaws.com.cn"),
        other if other.starts_with("aws-") => None,
        _ => return None,
    };
    let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_region = !region.is_empty() && region.bytes().all(is_label);
    let is_account = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit());
    let id = resource.strip_prefix("certificate-authority/")?;
    let host = end.map(|end| format!("acm-pca.{region}.{end}"));
    (is_region && is_account && !id.is_empty()).then_some((region, host))
}

/// An API that is asked with a credential: over https, or on this very machine.
fn api(typed: &At<String>, found: &mut Diagnostics) -> Option<Url> {
    const REMEDY: &str = "write `https://host:port`, or `http://127.0.0.1:port`";
    let is_bare = |url: &Url| {
        let is_alone = url.username().is_empty() && url.password().is_none() && url.path() == "/";
        url.has_host() && is_alone && url.query().is_none() && url.fragment().is_none()
    };
    match Url::parse(&typed.value).ok().filter(is_bare) {
        Some(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => Some(url),
        Some(url) if url.scheme() == "http" => {
            let message = "a credential sent over plain http can be anybody's";
            found.error("insecure_fetch", typed.span, message, REMEDY);
            None
        }
        _ => {
            found.error("bad_value", typed.span, "this is no address of an API", REMEDY);
            None
        }
    }
}

impl SigningAlgorithm {
    pub fn as_str(self) -> &'static str {
        match self {
            SigningAlgorithm::Sha256Ecdsa => SIGNING_ALGORITHM_DEFAULT,
            SigningAlgorithm::Sha384Ecdsa => "SHA384WITHECDSA",
            SigningAlgorithm::Sha512Ecdsa => "SHA512WITHECDSA",
            SigningAlgorithm::Sha256Rsa => "SHA256WITHRSA",
            SigningAlgorithm::Sha384Rsa => "SHA384WITHRSA",
            SigningAlgorithm::Sha512Rsa => "SHA512WITHRSA",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arn_of_a_ca_says_where_it_is() {
        for (arn, expected) in [
            (
                "arn:aws:acm-pca:eu-central-1:123456789012:certificate-authority/7f3a",
                Some(("eu-central-1", Some("acm-pca.eu-central-1.amazonaws.com"))),
            ),
            (
                "arn:aws-cn:acm-pca:cn-north-1:123456789012:certificate-authority/7f3a",
                Some(("cn-north-1", Some("acm-pca.cn-north-1.amazonaws.com.cn"))),
            ),
            (
                "arn:aws-us-gov:acm-pca:us-gov-west-1:123456789012:certificate-authority/7f3a",
                Some(("us-gov-west-1", Some("acm-pca.us-gov-west-1.amazonaws.com"))),
            ),
            (
                "arn:aws-eusc:acm-pca:eusc-de-east-1:123456789012:certificate-authority/7f3a",
                Some(("eusc-de-east-1", None)),
            ),
            ("arn:aws:acm:eu-central-1:123456789012:certificate/7f3a", None),
            ("arn:aws:acm-pca:evil.example/:123456789012:certificate-authority/7f3a", None),
            ("arn:aws:acm-pca::123456789012:certificate-authority/7f3a", None),
            ("arn:aws:acm-pca:eu-central-1::certificate-authority/7f3a", None),
            ("arn:aws:acm-pca:eu-central-1:123456789012:certificate-authority/", None),
            ("arn:other:acm-pca:eu-central-1:123456789012:certificate-authority/7f3a", None),
            ("", None),
        ] {
            let expected = expected.map(|(region, host)| (region, host.map(str::to_owned)));
            assert_eq!(place_of(arn), expected, "{arn}");
        }
    }
}
