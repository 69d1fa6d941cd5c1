//! PEM from where the configuration says it is: a file, or a variable of the environment.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer,
    PrivateSec1KeyDer,
};
use x509_parser::pem::Pem;
use zeroize::Zeroizing;

use super::encrypted::{self, EncryptedKeyError};

/// Where PEM text stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PemSource {
    File(PathBuf),
    /// The name of an environment variable that holds the PEM text itself.
    Env(String),
}

/// Why a [`PemSource`] gives nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("{0} does not exist")]
    Missing(PemSource),
    #[error("{0} cannot be read: {1}")]
    Unreadable(PemSource, io::Error),
    #[error("{0} is larger than {BYTES_MAX} bytes")]
    TooLarge(PemSource),
    #[error("{0} is empty")]
    Empty(PemSource),
    #[error("{0} is not PEM; it should hold `-----BEGIN {1}-----`")]
    Garbage(PemSource, &'static str),
    #[error("{0} holds PEM, but no `-----BEGIN {1}-----`")]
    WrongKind(PemSource, &'static str),
    #[error("{0} holds {1} private keys; it should hold one")]
    SeveralKeys(PemSource, usize),
    #[error("{0} holds an encrypted private key, and no `passphrase` is given")]
    EncryptedKey(PemSource),
    #[error("{0} holds a private key that is encrypted as before PKCS #8")]
    OldEncryption(PemSource),
    #[error("{0}: {1}")]
    Decrypt(PemSource, EncryptedKeyError),
}

/// Far above any bundle or key; revocation lists of large CAs have a few MiB.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

const CERTIFICATE: &str = "CERTIFICATE";
const CRL: &str = "X509 CRL";
const PRIVATE_KEY: &str = "PRIVATE KEY";
const ENCRYPTED_PRIVATE_KEY: &str = "ENCRYPTED PRIVATE KEY";
/// RFC 1421 §4.6.1.1.
const OLD_ENCRYPTION: &str = "Proc-Type: 4,ENCRYPTED";

impl PemSource {
    /// The file to watch for changes.
    pub fn path(&self) -> Option<&Path> {
        match self {
            PemSource::File(path) => Some(path),
            PemSource::Env(_) => None,
        }
    }

    /// All certificates in it, in order; never none.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, PemError> {
        self.sections(CERTIFICATE, |kind, der| match kind {
            SectionKind::Certificate => Some(CertificateDer::from(der)),
            _ => None,
        })
    }

    /// All revocation lists in it; never none.
    pub(super) fn crls(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
        self.sections(CRL, |kind, der| match kind {
            SectionKind::Crl => Some(CertificateRevocationListDer::from(der)),
            _ => None,
        })
    }

    /// The one private key in it, as PKCS#8, PKCS#1 or SEC1; PKCS#8 may be encrypted. Warns of a file that
    /// anyone may read.
    pub fn private_key(&self, passphrase: Option<&PemSource>) -> Result<PrivateKeyDer<'static>, PemError> {
        let text = self.read()?;
        if holds(&text, OLD_ENCRYPTION) {
            return Err(PemError::OldEncryption(self.clone()));
        }
        let mut encrypted = encrypted_keys(&text);
        let plain = self.sections_of(&text, PRIVATE_KEY, |kind, der| match kind {
            SectionKind::PrivateKey => Some(PrivatePkcs8KeyDer::from(der).into()),
            SectionKind::RsaPrivateKey => Some(PrivatePkcs1KeyDer::from(der).into()),
            SectionKind::EcPrivateKey => Some(PrivateSec1KeyDer::from(der).into()),
            _ => None,
        });
        let mut keys = match plain {
            Err(PemError::WrongKind(..)) if !encrypted.is_empty() => Vec::new(),
            plain => plain?,
        };
        if self.others_may_read() {
            tracing::warn!("{self} holds a private key and can be read by every user; `chmod o= ` it");
        }
        match (keys.pop(), encrypted.pop(), keys.len() + encrypted.len()) {
            (Some(key), None, 0) => Ok(key),
            (None, Some(encrypted), 0) => self.decrypt(&encrypted, passphrase).map(Into::into),
            (one, other, others) => {
                let all = others + usize::from(one.is_some()) + usize::from(other.is_some());
                Err(PemError::SeveralKeys(self.clone(), all))
            }
        }
    }

    fn decrypt(
        &self,
        encrypted: &[u8],
        passphrase: Option<&PemSource>,
    ) -> Result<PrivatePkcs8KeyDer<'static>, PemError> {
        let source = passphrase.ok_or_else(|| PemError::EncryptedKey(self.clone()))?;
        let text = source.read()?;
        // Blanks may be part of it; the end of its line is not.
        let end = text.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        let decrypted = encrypted::decrypt(encrypted, &text[..end]);
        decrypted.map_err(|error| {
            let at_fault = if error == EncryptedKeyError::Passphrase { source } else { self };
            PemError::Decrypt(at_fault.clone(), error)
        })
    }

    fn sections<T>(
        &self,
        label: &'static str,
        pick: impl Fn(SectionKind, Vec<u8>) -> Option<T>,
    ) -> Result<Vec<T>, PemError> {
        self.sections_of(&self.read()?, label, pick)
    }

    fn sections_of<T>(
        &self,
        text: &[u8],
        label: &'static str,
        pick: impl Fn(SectionKind, Vec<u8>) -> Option<T>,
    ) -> Result<Vec<T>, PemError> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(PemError::Empty(self.clone()));
        }
        let mut found = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|_| PemError::Garbage(self.clone(), label))?;
            found.extend(pick(kind, der));
        }
        if !found.is_empty() {
            Ok(found)
        } else if holds(text, "-----BEGIN ") {
            Err(PemError::WrongKind(self.clone(), label))
        } else {
            Err(PemError::Garbage(self.clone(), label))
        }
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>, PemError> {
        let mut text = Zeroizing::new(Vec::new());
        match self {
            PemSource::Env(name) => match std::env::var(name) {
                Ok(value) => text.extend_from_slice(Zeroizing::new(value).as_bytes()),
                Err(_) => return Err(PemError::Missing(self.clone())),
            },
            PemSource::File(path) => {
                let read = File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut text));
                read.map_err(|error| PemError::of_file(path.clone(), error))?;
            }
        }
        if text.len() as u64 > BYTES_MAX {
            return Err(PemError::TooLarge(self.clone()));
        }
        Ok(text)
    }

    #[cfg(unix)]
    fn others_may_read(&self) -> bool {
        use std::os::unix::fs::PermissionsExt;

        const OTHERS_READ: u32 = 0o004;
        let mode = self.path().and_then(|path| path.metadata().ok()).map(|it| it.permissions().mode());
        mode.is_some_and(|mode| mode & OTHERS_READ != 0)
    }

    #[cfg(not(unix))]
    fn others_may_read(&self) -> bool {
        false
    }
}

/// The private keys under a passphrase, which rustls does not know.
fn encrypted_keys(text: &[u8]) -> Vec<Vec<u8>> {
    let sections = Pem::iter_from_buffer(text).flatten();
    sections
        .filter(|section| section.label == ENCRYPTED_PRIVATE_KEY)
        .map(|section| section.contents)
        .collect()
}

fn holds(text: &[u8], wanted: &str) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

impl PemError {
    /// Why a file could not be read.
    pub fn of_file(path: PathBuf, error: io::Error) -> PemError {
        let source = PemSource::File(path);
        match error.kind() {
            io::ErrorKind::NotFound => PemError::Missing(source),
            _ => PemError::Unreadable(source, error),
        }
    }

    /// What gives nothing usable.
    pub fn source(&self) -> &PemSource {
        match self {
            PemError::Missing(source)
            | PemError::Unreadable(source, _)
            | PemError::TooLarge(source)
            | PemError::Empty(source)
            | PemError::Garbage(source, _)
            | PemError::WrongKind(source, _)
            | PemError::SeveralKeys(source, _)
            | PemError::EncryptedKey(source)
            | PemError::OldEncryption(source)
            | PemError::Decrypt(source, _) => source,
        }
    }
}

/// As messages name it.
impl fmt::Display for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PemSource::File(path) => write!(f, "file `{}`", path.display()),
            PemSource::Env(name) => write!(f, "environment variable `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_key_that_every_user_may_read_is_noticed() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt;

        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
            set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(PemSource::File(file.path().to_owned()).others_may_read(), open, "{mode:o}");
        }
        assert!(!PemSource::Env("PATH".to_owned()).others_may_read());
    }
}
