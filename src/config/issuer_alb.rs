//! `[issuer.NAME]` with the preset `alb`: whose word on who logged in is taken, and where its keys stand.

use url::Url;

use super::error::Diagnostics;
use super::file::File;
use super::file_policy::Issuer;
use super::hops::has_alb;
use super::issuer_checks::EACH_KEY;
use super::names::items;
use super::source::{At, Span};
use crate::identity::Name;
use crate::token::{Algorithm, Preset};

/// `arn:PARTITION:elasticloadbalancing:REGION:ACCOUNT:loadbalancer/app/NAME/ID`.
struct Arn<'t> {
    partition: &'t str,
    region: &'t str,
}

impl Arn<'_> {
    fn parse(text: &str) -> Option<Arn<'_>> {
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let [start, partition, "elasticloadbalancing", region, account, resource] =
            text.split(':').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let ["loadbalancer", "app", name, id] = resource.split('/').collect::<Vec<_>>()[..] else {
            return None;
        };
        let fits = start == "arn" && [partition, region, account, name, id].into_iter().all(is_word);
        fits.then_some(Arn { partition, region })
    }

    /// Where its region's keys stand, as AWS documents it.
    fn keys(&self) -> Option<String> {
        let Arn { partition, region } = self;
        match *partition {
            "aws" => Some(format!("https://public-keys.auth.elb.{region}.amazonaws.com/")),
            "aws-us-gov" => {
                Some(format!("https://s3-{region}.amazonaws.com/aws-elb-public-keys-prod-{region}/"))
            }
            _ => None,
        }
    }
}

/// What is said of an issuer that is a load balancer, or of another one as if it were.
pub fn check_alb((file, name, typed): (&File, &At<Name>, &Issuer), preset: Preset, found: &mut Diagnostics) {
    let mut contradiction = |key: &str, span: Option<Span>, message: &str| {
        if let Some(span) = span {
            found.error("contradiction", span, format!("`{key}`: {message}"), "take it out");
        }
    };
    if preset != Preset::Alb {
        contradiction("signer", typed.span_of("signer"), "only issuers with the preset `alb` have one");
        return;
    }
    let other = |algorithm: &At<Algorithm>| algorithm.value != Algorithm::Es256;
    let algorithms = items(&typed.algorithms).iter().find(|it| other(it)).map(|it| it.span);
    let [token_type, introspection] = ["token_type", "introspection"].map(|key| typed.span_of(key));
    for (key, span) in
        [("algorithms", algorithms), ("token_type", token_type), ("introspection", introspection)]
    {
        contradiction(key, span, "a load balancer signs with ES256, and in one form alone");
    }
    if !typed.gives("signer") {
        let message = format!("issuer `{}` does not say which load balancer's word is taken", name.value);
        let remedy = "add `signer = \"arn:aws:elasticloadbalancing:…\"`: those of all accounts have their keys in one place";
        found.error("missing_key", name.span, message, remedy);
    }
    for signer in items(&typed.signer) {
        if Arn::parse(&signer.value).is_none() {
            let remedy = "write `arn:aws:elasticloadbalancing:REGION:ACCOUNT:loadbalancer/app/NAME/ID`, as AWS shows it";
            found.error("bad_value", signer.span, "this is no ARN of an Application Load Balancer", remedy);
        }
    }
    if !has_alb(file) {
        let message = format!("nobody brings what issuer `{}` says", name.value);
        let remedy = "add a `[trusted_hop.…]` of `kind = \"alb\"`, with the addresses of the load balancer";
        found.error("missing_key", name.span, message, remedy);
    }
}

/// Below which address each key stands.
pub fn each_key(name: &At<Name>, typed: &Issuer, found: &mut Diagnostics) -> Option<Url> {
    let Some(jwks) = &typed.jwks else {
        let arns: Vec<_> = items(&typed.signer).iter().filter_map(|arn| Arn::parse(&arn.value)).collect();
        let mut bases = arns.iter().map(Arn::keys);
        let first = bases.next()?;
        if first.is_none() || bases.any(|other| other != first) {
            let message = format!("it is not known where the keys of issuer `{}` stand", name.value);
            let remedy = "add `jwks = \"https://…/{kid}\"`; issuers of several regions are several";
            found.error("missing_key", name.span, message, remedy);
        }
        return Url::parse(&first?).ok();
    };
    let base = jwks.value.strip_suffix(EACH_KEY).filter(|base| base.ends_with('/'));
    // `check` has told what else is wrong with it
    let base = base.and_then(|base| Url::parse(base).ok()).filter(|base| base.query().is_none());
    if base.is_none() {
        let remedy = "write `https://…/{kid}`: each key of a load balancer stands by itself";
        found.error("bad_value", jwks.span, "this is no address of a load balancer's keys", remedy);
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_balancer_s_keys_stand_where_aws_documents_it() {
        let keys = |arn: &str| Arn::parse(arn).and_then(|arn| arn.keys());
        let of = |partition: &str, region: &str| {
            keys(&format!("arn:{partition}:elasticloadbalancing:{region}:1:loadbalancer/app/front/50dc6c49"))
        };
        assert_eq!(
            of("aws", "eu-central-1").as_deref(),
            Some("https://public-keys.auth.elb.eu-central-1.amazonaws.com/")
        );
        assert_eq!(
            of("aws-us-gov", "us-gov-west-1").as_deref(),
            Some("https://s3-us-gov-west-1.amazonaws.com/aws-elb-public-keys-prod-us-gov-west-1/")
        );
        assert_eq!(of("aws-cn", "cn-north-1"), None);
        for region in ["evil.example/", "a@evil.example", "", "eu-central-1.evil", "a#", "a?b", "é"] {
            assert_eq!(of("aws", region), None, "{region}");
        }
        for arn in [
            "",
            "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/net/front/1",
            "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/front",
            "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/front/1/2",
            "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/front/1:",
            "arn:aws:iam:eu-central-1:1:loadbalancer/app/front/1",
            "urn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/front/1",
        ] {
            assert!(Arn::parse(arn).is_none(), "{arn}");
        }
    }
}
