//! Certificates for the demo and for tests: throw-away CAs and whatever they are asked to sign.
//!
//! Nothing that serves traffic mints anything. What is signed is not judged here, since tests need
//! certificates that no sound CA would issue.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
};
use time::OffsetDateTime;

use crate::clock::Timestamp;

pub use rcgen::Error as MintError;

/// A CA and its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    /// The intermediates from this CA up to its root, without the root.
    chain: Vec<rcgen::Certificate>,
}

/// When something is valid; both ends are in.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    pub from: Timestamp,
    pub to: Timestamp,
}

/// What a leaf certificate is to say. [`LeafSpec::workload`] is a sound one to start from.
#[derive(Clone, Debug)]
pub struct LeafSpec {
    pub common_name: String,
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// The value of the SAN extension as it is, DER; instead of the names above.
    pub raw_san: Option<Vec<u8>>,
    pub validity: Validity,
    /// Empty: no such extension.
    pub key_usage: Vec<KeyUsagePurpose>,
    /// Empty: no such extension.
    pub extended_key_usage: Vec<ExtendedKeyUsagePurpose>,
    pub is_ca: bool,
    pub serial: u64,
    pub key: &'static SignatureAlgorithm,
}

/// What a CA certificate is to say.
#[derive(Clone, Debug)]
pub struct CaSpec {
    pub common_name: String,
    pub validity: Validity,
    /// How many CAs may follow below this one.
    pub path_length: Option<u8>,
    pub name_constraints: Option<NameConstraints>,
    pub serial: u64,
}

/// A leaf certificate with its chain and key.
pub struct Minted {
    /// Leaf first, without the root; PEM.
    pub chain: String,
    /// PKCS#8, PEM.
    pub key: String,
    /// Of the leaf, DER.
    pub der: Vec<u8>,
}

impl LeafSpec {
    /// A sound X.509-SVID for both ends of a connection.
    pub fn workload(spiffe_id: &str, validity: Validity) -> LeafSpec {
        LeafSpec {
            common_name: String::new(),
            uris: vec![spiffe_id.to_owned()],
            dns: Vec::new(),
            addresses: Vec::new(),
            raw_san: None,
            validity,
            key_usage: vec![KeyUsagePurpose::DigitalSignature],
            extended_key_usage: vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ],
            is_ca: false,
            serial: 1,
            key: &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl CaSpec {
    pub fn new(common_name: &str, validity: Validity) -> CaSpec {
        CaSpec {
            common_name: common_name.to_owned(),
            validity,
            path_length: None,
            name_constraints: None,
            serial: 1,
        }
    }

    fn params(&self) -> Result<CertificateParams, MintError> {
        let mut params = params(&self.common_name, self.validity, self.serial)?;
        params.is_ca = IsCa::Ca(match self.path_length {
            Some(length) => BasicConstraints::Constrained(length),
            None => BasicConstraints::Unconstrained,
        });
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = self.name_constraints.clone();
        Ok(params)
    }
}

impl Authority {
    /// A self-signed CA.
    pub fn root(spec: &CaSpec) -> Result<Authority, MintError> {
        Authority::root_with_key(spec, KeyPair::generate()?)
    }

    /// As [`Authority::root`], with a given key: two CAs may share one.
    pub fn root_with_key(spec: &CaSpec, key: KeyPair) -> Result<Authority, MintError> {
        let params = spec.params()?;
        let certificate = params.self_signed(&key)?;
        Ok(Authority { issuer: Issuer::new(params, key), certificate, chain: Vec::new() })
    }

    /// A CA below this one.
    pub fn intermediate(&self, spec: &CaSpec) -> Result<Authority, MintError> {
        let params = spec.params()?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = std::iter::once(certificate.clone()).chain(self.chain.clone()).collect();
        Ok(Authority { issuer: Issuer::new(params, key), certificate, chain })
    }

    /// The CA's own certificate, PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn issue(&self, spec: &LeafSpec) -> Result<Minted, MintError> {
        let key = KeyPair::generate_for(spec.key)?;
        let certificate = spec.params()?.signed_by(&key, &self.issuer)?;
        let mut chain = certificate.pem();
        self.chain.iter().for_each(|it| chain.push_str(&it.pem()));
        Ok(Minted { chain, key: key.serialize_pem(), der: certificate.der().to_vec() })
    }

    /// A revocation list of this CA with the serial numbers given, PEM.
    pub fn crl(&self, revoked: &[u64], validity: Validity) -> Result<String, MintError> {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: moment(validity.from),
            reason_code: None,
            invalidity_date: None,
        });
        CertificateRevocationListParams {
            this_update: moment(validity.from),
            next_update: moment(validity.to),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)?
        .pem()
    }
}

impl LeafSpec {
    /// Signed by its own key.
    pub fn self_signed(&self) -> Result<Minted, MintError> {
        let key = KeyPair::generate_for(self.key)?;
        let certificate = self.params()?.self_signed(&key)?;
        Ok(Minted { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() })
    }

    fn params(&self) -> Result<CertificateParams, MintError> {
        let mut params = params(&self.common_name, self.validity, self.serial)?;
        for uri in &self.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        for name in &self.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        let addresses = self.addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        if let Some(san) = &self.raw_san {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![CustomExtension::from_oid_content(&SAN_OID, san.clone())];
        }
        params.key_usages = self.key_usage.clone();
        params.extended_key_usages = self.extended_key_usage.clone();
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// subjectAltName (RFC 5280 §4.2.1.6).
const SAN_OID: [u64; 4] = [2, 5, 29, 17];

fn params(common_name: &str, validity: Validity, serial: u64) -> Result<CertificateParams, MintError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.not_before = moment(validity.from);
    params.not_after = moment(validity.to);
    params.serial_number = Some(SerialNumber::from(serial));
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    Ok(params)
}

/// Certificates count whole seconds.
fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.unix_seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
