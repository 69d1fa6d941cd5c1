//! Certificates for every sort of workload that may knock, sound and hostile; minted anew for each
//! world, by the code that mints the demo's.

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, MintError, Minted, Validity};
use countersign::clock::Clock;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use std::time::Duration;

pub const TRUST_DOMAIN: &str = "shop.example";
pub const PARTNER_DOMAIN: &str = "partner.example";
/// Names that every server's certificate here is good for.
pub const SERVER_NAMES: [&str; 2] = ["localhost", "orders.shop.example"];
/// The serial number of [`Who::Revoked`]; [`Certificates::crl`] lists it.
const REVOKED_SERIAL: u64 = 66;
const HOUR: Duration = Duration::from_secs(3600);

/// Who presents a certificate, or none. Those up to `Partner` are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Storefront,
    Assistant,
    /// The storefront, with a certificate from an intermediate CA.
    StorefrontByIntermediate,
    /// In the trust domain, but no `[service]` names it.
    Unnamed,
    /// `sa/storefront` of the other trust domain, by that domain's CA.
    Partner,
    NoCertificate,
    UntrustedCa,
    /// From a CA that has the trusted one's name and another key.
    CaOfTheSameName,
    SelfSigned,
    Expired,
    NotYetValid,
    Revoked,
    /// `shop.example`'s CA speaks for `partner.example`.
    WrongTrustDomain,
    TwoIds,
    DnsNameOnly,
    NoName,
    IdWithUpperCaseDomain,
    /// `…/storefront\0.evil`.
    IdWithNul,
    IdWithoutPath,
    /// CA:TRUE.
    IsCa,
    MaySignCertificates,
    NoDigitalSignature,
    ForServersOnly,
}

impl Who {
    pub const ALL: [Who; 23] = [
        Who::Storefront,
        Who::Assistant,
        Who::StorefrontByIntermediate,
        Who::Unnamed,
        Who::Partner,
        Who::NoCertificate,
        Who::UntrustedCa,
        Who::CaOfTheSameName,
        Who::SelfSigned,
        Who::Expired,
        Who::NotYetValid,
        Who::Revoked,
        Who::WrongTrustDomain,
        Who::TwoIds,
        Who::DnsNameOnly,
        Who::NoName,
        Who::IdWithUpperCaseDomain,
        Who::IdWithNul,
        Who::IdWithoutPath,
        Who::IsCa,
        Who::MaySignCertificates,
        Who::NoDigitalSignature,
        Who::ForServersOnly,
    ];
}

pub struct Certificates {
    pub shop: Authority,
    /// The shop's CA key, to sign what no library mints.
    pub shop_key: KeyPair,
    pub partner: Authority,
    /// A CA that nobody configured.
    pub stranger: Authority,
    /// Of all certificates that are valid.
    pub validity: Validity,
}

impl Certificates {
    /// Valid from an hour before the clock's now to a day after it.
    pub fn new(clock: &Clock) -> Certificates {
        let now = clock.now();
        Certificates::valid(Validity { from: now.minus(HOUR), to: now.plus(24 * HOUR) })
    }

    pub fn valid(validity: Validity) -> Certificates {
        let ca = |name: &str| Authority::root(&CaSpec::new(name, validity)).unwrap();
        let shop_key = KeyPair::generate().unwrap();
        let same_key = KeyPair::from_pem(&shop_key.serialize_pem()).unwrap();
        let shop = Authority::root_with_key(&CaSpec::new("shop CA", validity), same_key).unwrap();
        Certificates { shop, shop_key, partner: ca("partner CA"), stranger: ca("stranger CA"), validity }
    }

    /// A certificate of its own for a server: a SPIFFE ID and [`SERVER_NAMES`].
    pub fn server(&self, name: &str) -> Minted {
        let mut spec = self.workload(TRUST_DOMAIN, name);
        spec.dns = SERVER_NAMES.map(str::to_owned).to_vec();
        self.shop.issue(&spec).unwrap()
    }

    /// `shop.example`'s revocation list, valid as long as its certificates.
    pub fn crl(&self) -> String {
        self.shop.crl(&[REVOKED_SERIAL], self.validity).unwrap()
    }

    /// The certificate that `who` presents, if any.
    pub fn client(&self, who: Who) -> Option<Minted> {
        (who != Who::NoCertificate).then(|| self.mint(who).unwrap())
    }

    fn mint(&self, who: Who) -> Result<Minted, MintError> {
        let mut spec = self.workload(TRUST_DOMAIN, "storefront");
        let Validity { from, to } = self.validity;
        match who {
            Who::Storefront | Who::NoCertificate => {}
            Who::Assistant => spec = self.workload(TRUST_DOMAIN, "assistant"),
            Who::StorefrontByIntermediate => {
                let intermediate = CaSpec::new("shop intermediate CA", self.validity);
                return self.shop.intermediate(&intermediate)?.issue(&spec);
            }
            Who::Unnamed => spec = self.workload(TRUST_DOMAIN, "nobody"),
            Who::Partner => return self.partner.issue(&self.workload(PARTNER_DOMAIN, "storefront")),
            Who::UntrustedCa => return self.stranger.issue(&spec),
            Who::CaOfTheSameName => {
                return Authority::root(&CaSpec::new("shop CA", self.validity))?.issue(&spec);
            }
            Who::SelfSigned => return spec.self_signed(),
            Who::Expired => spec.validity = Validity { from: from.minus(HOUR), to: from },
            Who::NotYetValid => spec.validity = Validity { from: to, to: to.plus(HOUR) },
            Who::Revoked => spec.serial = REVOKED_SERIAL,
            Who::WrongTrustDomain => spec = self.workload(PARTNER_DOMAIN, "storefront"),
            Who::TwoIds => spec.uris.push(spiffe_id(TRUST_DOMAIN, "assistant")),
            Who::DnsNameOnly => {
                (spec.uris, spec.dns) = (Vec::new(), vec!["storefront.shop.example".to_owned()])
            }
            Who::NoName => spec.uris.clear(),
            Who::IdWithUpperCaseDomain => spec.uris = vec![spiffe_id("Shop.example", "storefront")],
            Who::IdWithNul => spec.raw_san = Some(san(&spiffe_id(TRUST_DOMAIN, "storefront\0.evil"))),
            Who::IdWithoutPath => spec.uris = vec![format!("spiffe://{TRUST_DOMAIN}")],
            Who::IsCa => spec.is_ca = true,
            Who::MaySignCertificates => spec.key_usage.push(KeyUsagePurpose::KeyCertSign),
            Who::NoDigitalSignature => spec.key_usage = vec![KeyUsagePurpose::KeyAgreement],
            Who::ForServersOnly => spec.extended_key_usage = vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
        self.shop.issue(&spec)
    }

    /// A sound certificate's content.
    pub fn workload(&self, trust_domain: &str, name: &str) -> LeafSpec {
        LeafSpec::workload(&spiffe_id(trust_domain, name), self.validity)
    }

    /// How `who` connects: trusting the shop's CA, with a session store of its own.
    pub fn client_config(&self, who: Who) -> ClientConfig {
        self.client_config_with(self.client(who).as_ref())
    }

    /// The same with a certificate that a test minted.
    pub fn client_config_with(&self, minted: Option<&Minted>) -> ClientConfig {
        let builder = ClientConfig::builder().with_root_certificates(store(&[&self.shop]));
        match minted.map(parsed) {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        }
    }

    /// How a double serves TLS, without asking for a client certificate.
    pub fn server_config(&self, name: &str) -> Arc<ServerConfig> {
        let (chain, key) = parsed(&self.server(name));
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// The same for one that demands a certificate which the shop's CA vouches for.
    pub fn mutual_server_config(&self, name: &str) -> Arc<ServerConfig> {
        let (chain, key) = parsed(&self.server(name));
        let verifier = WebPkiClientVerifier::builder(Arc::new(store(&[&self.shop]))).build().unwrap();
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

pub fn spiffe_id(trust_domain: &str, name: &str) -> String {
    format!("spiffe://{trust_domain}/ns/prod/sa/{name}")
}

/// A subjectAltName (RFC 5280 §4.2.1.6) with one URI, whatever its bytes; short form lengths.
fn san(uri: &str) -> Vec<u8> {
    let length = u8::try_from(uri.len()).unwrap();
    assert!(length < 126);
    [&[0x30, length + 2, 0x86, length], uri.as_bytes()].concat()
}

pub fn store(authorities: &[&Authority]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    }
    store
}

pub fn parsed(minted: &Minted) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(minted.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_slice(minted.key.as_bytes()).unwrap())
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;
    use rustls::pki_types::CertificateRevocationListDer;
    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::world::client::{Client, Protocol, Raw, alert, get};
    use crate::world::upstream::Upstream;

    /// Whom webpki alone refuses; what it lets pass is left to the proxy's own checks.
    const REFUSED_BY_WEBPKI: [(Who, AlertDescription); 9] = [
        (Who::NoCertificate, AlertDescription::CertificateRequired),
        (Who::UntrustedCa, AlertDescription::UnknownCA),
        (Who::CaOfTheSameName, AlertDescription::DecryptError),
        (Who::SelfSigned, AlertDescription::UnknownCA),
        (Who::Expired, AlertDescription::CertificateExpired),
        (Who::NotYetValid, AlertDescription::CertificateExpired),
        (Who::Revoked, AlertDescription::CertificateRevoked),
        (Who::IsCa, AlertDescription::CertificateUnknown),
        (Who::ForServersOnly, AlertDescription::UnsupportedCertificate),
    ];

    #[tokio::test]
    async fn each_certificate_is_what_it_says_to_a_plain_verifier() {
        let certificates = Certificates::new(&Clock::system());
        let trusted = store(&[&certificates.shop, &certificates.partner]);
        let crl = CertificateRevocationListDer::from_pem_slice(certificates.crl().as_bytes()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(trusted)).with_crls([crl]);
        let verifier = verifier.allow_unknown_revocation_status().build().unwrap();
        let (chain, key) = parsed(&certificates.server("orders"));
        let mut config =
            ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let upstream = Upstream::start_with("127.0.0.1:0".parse().unwrap(), Some(Arc::new(config))).await;
        let mut outcomes = Vec::new();
        for who in Who::ALL {
            let config = certificates.client_config(who);
            let mut raw = Raw::tls(upstream.address(), "localhost", config).await.unwrap();
            let head = match raw.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await {
                Ok(()) => raw.head().await,
                Err(error) => Err(error),
            };
            match head {
                Ok(head) => assert!(head.starts_with("HTTP/1.1 200"), "{who:?}: {head}"),
                Err(error) => outcomes.push((who, alert(&*error).unwrap())),
            }
        }
        assert_eq!(outcomes, REFUSED_BY_WEBPKI);
        assert_eq!(upstream.counts().requests, (Who::ALL.len() - REFUSED_BY_WEBPKI.len()) as u64);
    }

    #[tokio::test]
    async fn doubles_serve_tls_over_both_protocols() {
        let certificates = Certificates::new(&Clock::system());
        let tls = Some(certificates.server_config("upstream"));
        let upstream = Upstream::start_with("127.0.0.1:0".parse().unwrap(), tls).await;
        for protocol in Protocol::BOTH {
            let config = certificates.client_config(Who::Storefront);
            let client =
                Client::tls(upstream.address(), "orders.shop.example", config, protocol).await.unwrap();
            assert_eq!(client.ask(get("/")).await.unwrap().status, 200);
        }
        let config = certificates.client_config(Who::NoCertificate);
        assert!(Client::tls(upstream.address(), "elsewhere.example", config, Protocol::H1).await.is_err());
    }
}
