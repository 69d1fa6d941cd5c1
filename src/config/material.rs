//! Certificates, keys, lists and secrets are read where the configuration says they are; what is
//! wrong with one is told at its key. Every file read is one to watch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::elsewhere::{Pem, Secret};
use super::error::Diagnostics;
use super::source::{At, Span};
use super::tree::Environment;
use crate::clock::Timestamp;
use crate::fetch::SecretSource;
use crate::identity::TrustDomain;
use crate::tls::{
    CertificateSettings, EncryptedKeyError, OwnCertificate, OwnCertificateError, PemError, PemSource, Roots,
    Trust, TrustDomainSettings, TrustError,
};
use crate::token::BadSigningKey;
use crate::token::{KeyUse, KeysError, check_key_file};
use crate::upstream::credential::AssertionKey;

/// Reads and remembers what it read.
pub struct Material<'a> {
    pub environment: Environment<'a>,
    pub now: Timestamp,
    pub watched: BTreeSet<PathBuf>,
}

/// A trust domain and the places of its keys.
pub struct TypedTrustDomain<'f> {
    pub settings: TrustDomainSettings,
    pub name: Span,
    pub ca: Option<&'f At<Pem>>,
    pub crl: Option<&'f At<Pem>>,
}

impl TypedTrustDomain<'_> {
    /// Where its CAs are, or should be.
    fn place(&self) -> Span {
        self.ca.map_or(self.name, |ca| ca.span)
    }
}

impl Material<'_> {
    pub fn source(&mut self, pem: &Pem) -> PemSource {
        match pem {
            Pem::File(path) => {
                self.watched.insert(path.clone());
                PemSource::File(path.clone())
            }
            Pem::Env(name) => PemSource::Env(name.clone()),
        }
    }

    pub fn own(
        &mut self,
        certificate: &At<Pem>,
        private_key: &At<Pem>,
        passphrase: Option<&At<Secret>>,
        found: &mut Diagnostics,
    ) -> Option<OwnCertificate> {
        let settings = CertificateSettings {
            certificate: self.source(&certificate.value),
            private_key: self.source(&private_key.value),
            passphrase: passphrase.map(|passphrase| self.passphrase(passphrase, found)),
        };
        let error = match OwnCertificate::load(&settings, self.now) {
            Ok(own) => return Some(own),
            Err(error) => error,
        };
        let message = error.to_string();
        match &error {
            OwnCertificateError::Pem(pem) if *pem.source() == settings.certificate => {
                refuse_pem(pem, certificate.span, found);
            }
            OwnCertificateError::Pem(pem) => {
                refuse_key(pem, private_key, passphrase.zip(settings.passphrase.as_ref()), found);
            }
            OwnCertificateError::Certificate(_) => {
                found.error("bad_certificate", certificate.span, message, "have it issued again");
            }
            OwnCertificateError::Key(..) => {
                let remedy = "use an RSA key of 2048 bits or more, or one on P-256, P-384 or Ed25519";
                found.error("bad_key", private_key.span, message, remedy);
            }
            OwnCertificateError::Mismatch { .. } => {
                let places = (private_key.span, certificate.span);
                found.conflict(
                    "key_mismatch",
                    places,
                    message,
                    "name the key that the certificate was issued for",
                );
            }
            OwnCertificateError::Expired(..) => {
                found.error("expired_certificate", certificate.span, message, "renew it");
            }
            OwnCertificateError::NotYetValid(..) => {
                let remedy = "wait, renew it, or set this machine's clock";
                found.error("expired_certificate", certificate.span, message, remedy);
            }
        }
        None
    }

    fn passphrase(&mut self, typed: &At<Secret>, found: &mut Diagnostics) -> PemSource {
        match self.secret(typed, found) {
            SecretSource::Env(name) => PemSource::Env(name),
            SecretSource::File(path) => PemSource::File(path),
        }
    }

    /// A key that assertions are signed with.
    pub fn signing_key(
        &mut self,
        key: &At<Pem>,
        passphrase: Option<&At<Secret>>,
        id: Option<String>,
        found: &mut Diagnostics,
    ) -> Option<AssertionKey> {
        let source = self.source(&key.value);
        let secret = passphrase.map(|passphrase| self.passphrase(passphrase, found));
        let read = source.private_key(secret.as_ref());
        let read = read.map_err(|error| refuse_key(&error, key, passphrase.zip(secret.as_ref()), found));
        let read = read.ok()?;
        let made = AssertionKey::read(&read, id);
        let refuse = |error: BadSigningKey| {
            let remedy =
                "make one, as with `openssl ecparam -name prime256v1 -genkey`, and register its public half";
            found.error("bad_key", key.span, format!("{source}: {error}"), remedy);
        };
        made.map_err(refuse).ok()
    }

    /// CAs that vouch for servers by name.
    pub fn server_ca(&mut self, ca: &At<Pem>, found: &mut Diagnostics) -> Option<Roots> {
        let source = self.source(&ca.value);
        Roots::load(&source).map_err(|error| refuse_trust(&error, ca.span, None, found)).ok()
    }

    /// All trust domains; each is read by itself first, so that all errors are told.
    pub fn trust(&self, domains: &[TypedTrustDomain<'_>], found: &mut Diagnostics) -> Option<Arc<Trust>> {
        let mut good = true;
        for domain in domains {
            if let Err(error) = Trust::load(std::slice::from_ref(&domain.settings)) {
                refuse_trust(&error, domain.place(), domain.crl, found);
                good = false;
            }
        }
        if !good {
            return None;
        }
        let settings: Vec<_> = domains.iter().map(|domain| domain.settings.clone()).collect();
        let error = match Trust::load(&settings) {
            Ok(trust) => return Some(Arc::new(trust)),
            Err(error) => error,
        };
        let place = |name: &TrustDomain| {
            domains.iter().find(|domain| domain.settings.name == *name).map(TypedTrustDomain::place)
        };
        match &error {
            TrustError::SharedCa(one, other) => {
                if let Some((one, other)) = place(one).zip(place(other)) {
                    let places = (one.max(other), one.min(other));
                    let remedy = "give each trust domain its own CA";
                    found.conflict("shared_ca", places, error.to_string(), remedy);
                }
            }
            // A file that changed between the two readings.
            _ => domains
                .iter()
                .take(1)
                .for_each(|domain| refuse_trust(&error, domain.place(), domain.crl, found)),
        }
        None
    }

    pub fn key_file(&mut self, path: &Path, key_use: KeyUse, span: Span, found: &mut Diagnostics) {
        self.watched.insert(path.to_owned());
        let Err(error) = check_key_file(path, key_use) else { return };
        let shown = path.display();
        match error {
            KeysError::File(error) => {
                let message = format!("file `{shown}` cannot be read: {error}");
                found.error("unreadable_file", span, message, "name a file that this process can read");
            }
            error => {
                let message = format!("file `{shown}`: {error}");
                let remedy = "put a JSON Web Key Set with a public key there, as `{ \"keys\": [ … ] }`";
                found.error("bad_jwks", span, message, remedy);
            }
        }
    }

    pub fn secret(&mut self, secret: &At<Secret>, found: &mut Diagnostics) -> SecretSource {
        match &secret.value {
            Secret::Env(name) => {
                if (self.environment)(name).is_none_or(|text| text.trim().is_empty()) {
                    let message = format!("the variable `{name}` is not set");
                    found.error("no_secret", secret.span, message, "set it to the secret");
                }
                SecretSource::Env(name.clone())
            }
            Secret::File(path) => {
                self.watched.insert(path.clone());
                match std::fs::read_to_string(path) {
                    Ok(text) if text.trim().is_empty() => {
                        let message = format!("file `{}` holds no secret", path.display());
                        found.error("no_secret", secret.span, message, "put the secret there, as text");
                    }
                    Ok(_) => {}
                    Err(error) => {
                        refuse_pem(&PemError::of_file(path.clone(), error), secret.span, found);
                    }
                }
                SecretSource::File(path.clone())
            }
        }
    }
}

fn refuse_trust(error: &TrustError, ca: Span, crl: Option<&At<Pem>>, found: &mut Diagnostics) {
    let is_crl = |source: &PemSource| crl.filter(|crl| source_of(&crl.value) == *source).map(|crl| crl.span);
    let message = error.to_string();
    match error {
        TrustError::Pem(error) => {
            refuse_pem(error, is_crl(error.source()).unwrap_or(ca), found);
        }
        TrustError::Crl(source) => {
            let remedy = "have the CA issue it again, with a time for the next one";
            found.error("bad_crl", is_crl(source).unwrap_or(ca), message, remedy);
        }
        TrustError::NotACa(_) => {
            let remedy = "name the certificate of the CA that issues the workloads' certificates";
            found.error("bad_ca", ca, message, remedy);
        }
        _ => found.error("bad_ca", ca, message, "name a file with CA certificates as PEM"),
    }
}

fn source_of(pem: &Pem) -> PemSource {
    match pem {
        Pem::File(path) => PemSource::File(path.clone()),
        Pem::Env(name) => PemSource::Env(name.clone()),
    }
}

/// What is wrong with a private key, or with what it is encrypted under.
fn refuse_key(
    error: &PemError,
    key: &At<Pem>,
    passphrase: Option<(&At<Secret>, &PemSource)>,
    found: &mut Diagnostics,
) {
    match passphrase {
        // Said already: there is none, or none to be read.
        Some((_, source)) if matches!(error, PemError::Missing(it) | PemError::Unreadable(it, _) if it == source) =>
            {}
        Some((typed, source)) if error.source() == source => refuse_pem(error, typed.span, found),
        _ => refuse_pem(error, key.span, found),
    }
}

fn refuse_pem(error: &PemError, span: Span, found: &mut Diagnostics) {
    let (code, remedy) = match error {
        PemError::Missing(PemSource::Env(_)) => ("missing_file", "set the variable to the PEM text itself"),
        PemError::Missing(PemSource::File(_)) => (
            "missing_file",
            "put it there, or write another path; a relative one starts at the folder of this file",
        ),
        PemError::Unreadable(..) => ("unreadable_file", "name a file that this process can read"),
        PemError::TooLarge(_) => ("bad_pem", "name the right file; this one is too large to be PEM"),
        PemError::Empty(_) | PemError::Garbage(..) | PemError::WrongKind(..) => {
            ("bad_pem", "name a PEM file of the right kind; convert DER with `openssl … -inform der`")
        }
        PemError::SeveralKeys(..) => ("bad_pem", "leave one private key in it"),
        PemError::EncryptedKey(_) => {
            ("bad_pem", "add `passphrase = { file = \"path\" }` or `{ env = \"NAME\" }`")
        }
        PemError::OldEncryption(_) => ("bad_pem", "convert it with `openssl pkcs8 -topk8`"),
        PemError::Decrypt(_, EncryptedKeyError::Passphrase) => {
            ("bad_passphrase", "give the one that the key was encrypted with")
        }
        PemError::Decrypt(..) => ("bad_pem", "encrypt it again with `openssl pkcs8 -topk8 -v2 aes256`"),
    };
    found.error(code, span, error.to_string(), remedy);
}
