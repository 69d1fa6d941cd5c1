//! CAs and certificates for the unit tests of this module.

use std::sync::Arc;

use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::{PemSource, Trust, TrustDomainSettings, provider};

pub fn ca() -> (Issuer<'static, KeyPair>, rcgen::Certificate) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (Issuer::new(params, key), certificate)
}

pub fn leaf(issuer: &Issuer<'static, KeyPair>) -> CertifiedKey {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://a.example/x".try_into().unwrap()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    CertifiedKey::from_der(vec![certificate], key, &provider()).unwrap()
}

pub fn trust(ca: &rcgen::Certificate) -> Arc<Trust> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca.pem()).unwrap();
    Arc::new(
        Trust::load(&[TrustDomainSettings {
            name: "a.example".parse().unwrap(),
            ca: Some(PemSource::File(file.path().to_owned())),
            crl: None,
            allow_dns_names: false,
        }])
        .unwrap(),
    )
}
