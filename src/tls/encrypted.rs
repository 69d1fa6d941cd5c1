//! Private keys under a passphrase: PKCS #8 (RFC 5958 §3) with PBES2 (RFC 8018 §6.2), that is PBKDF2 and AES
//! in CBC mode, as OpenSSL writes them unless told otherwise.
//!
//! aws-lc does the cryptography; it has no scrypt, and DES is left out.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use rustls::pki_types::PrivatePkcs8KeyDer;
use x509_parser::asn1_rs::{Any, FromDer, Oid, Tag, oid};
use x509_parser::x509::AlgorithmIdentifier;
use zeroize::Zeroizing;

/// Why an encrypted private key cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptedKeyError {
    #[error("the encrypted private key does not parse")]
    Malformed,
    #[error("the private key is encrypted by a scheme that is not supported ({0})")]
    Scheme(String),
    #[error("the passphrase does not open the private key")]
    Passphrase,
}

const PBES2: Oid<'static> = oid!(1.2.840.113549.1.5.13);
const PBKDF2: Oid<'static> = oid!(1.2.840.113549.1.5.12);
const HMAC_SHA1: Oid<'static> = oid!(1.2.840.113549.2.7);
const HMAC_SHA256: Oid<'static> = oid!(1.2.840.113549.2.9);
const HMAC_SHA384: Oid<'static> = oid!(1.2.840.113549.2.10);
const HMAC_SHA512: Oid<'static> = oid!(1.2.840.113549.2.11);
const AES_128_CBC: Oid<'static> = oid!(2.16.840.1.101.3.4.1.2);
const AES_192_CBC: Oid<'static> = oid!(2.16.840.1.101.3.4.1.22);
const AES_256_CBC: Oid<'static> = oid!(2.16.840.1.101.3.4.1.42);

/// Seconds of work; OpenSSL takes 2,048 iterations, the cautious a million.
const ITERATIONS_MAX: u32 = 10_000_000;
const KEY_BYTES_MAX: usize = 32;

/// What a key is encrypted by.
struct Scheme<'d> {
    prf: pbkdf2::Algorithm,
    salt: &'d [u8],
    iterations: NonZeroU32,
    cipher: &'static Algorithm,
    key_bytes: usize,
    iv: [u8; 16],
}

/// Decrypts an EncryptedPrivateKeyInfo.
pub(super) fn decrypt(
    der: &[u8],
    passphrase: &[u8],
) -> Result<PrivatePkcs8KeyDer<'static>, EncryptedKeyError> {
    let (scheme, data) = read(der)?;
    let mut key = Zeroizing::new([0; KEY_BYTES_MAX]);
    let key = &mut key[..scheme.key_bytes];
    pbkdf2::derive(scheme.prf, scheme.iterations, scheme.salt, passphrase, key);
    let key = UnboundCipherKey::new(scheme.cipher, key).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
    let key = key.map_err(|_| EncryptedKeyError::Malformed)?;
    let mut text = Zeroizing::new(data.to_vec());
    let iv = DecryptionContext::Iv128(FixedLength::from(&scheme.iv));
    let plain = key.decrypt(&mut text, iv).map_err(|_| EncryptedKeyError::Passphrase)?;
    // One wrong passphrase in 256 yields good padding by chance.
    match contents(plain, Tag::Sequence) {
        Ok((_, [])) => Ok(PrivatePkcs8KeyDer::from(plain.to_vec())),
        _ => Err(EncryptedKeyError::Passphrase),
    }
}

fn read(der: &[u8]) -> Result<(Scheme<'_>, &[u8]), EncryptedKeyError> {
    let (algorithm, rest) = algorithm(contents(der, Tag::Sequence)?.0)?;
    let (data, _) = contents(rest, Tag::OctetString)?;
    if algorithm.algorithm != PBES2 {
        return Err(EncryptedKeyError::Scheme(algorithm.algorithm.to_string()));
    }
    let (derivation, rest) = self::algorithm(parameters(&algorithm, Tag::Sequence)?)?;
    let (prf, salt, iterations) = pbkdf2_of(&derivation)?;
    let (encryption, _) = self::algorithm(rest)?;
    let known = [(AES_128_CBC, &AES_128, 16), (AES_192_CBC, &AES_192, 24), (AES_256_CBC, &AES_256, 32)];
    let Some((_, cipher, key_bytes)) = known.into_iter().find(|(oid, ..)| *oid == encryption.algorithm)
    else {
        return Err(EncryptedKeyError::Scheme(encryption.algorithm.to_string()));
    };
    let iv = parameters(&encryption, Tag::OctetString)?;
    let iv = iv.try_into().map_err(|_| EncryptedKeyError::Malformed)?;
    Ok((Scheme { prf, salt, iterations, cipher, key_bytes, iv }, data))
}

/// PBKDF2-params (RFC 8018 §A.2): the pseudorandom function, the salt and the iterations.
fn pbkdf2_of<'d>(
    derivation: &AlgorithmIdentifier<'d>,
) -> Result<(pbkdf2::Algorithm, &'d [u8], NonZeroU32), EncryptedKeyError> {
    if derivation.algorithm != PBKDF2 {
        return Err(EncryptedKeyError::Scheme(derivation.algorithm.to_string()));
    }
    let (salt, rest) = contents(parameters(derivation, Tag::Sequence)?, Tag::OctetString)?;
    let (rest, iterations) = u32::from_der(rest).map_err(|_| EncryptedKeyError::Malformed)?;
    let iterations = NonZeroU32::new(iterations).filter(|count| count.get() <= ITERATIONS_MAX);
    let iterations = iterations.ok_or(EncryptedKeyError::Malformed)?;
    // The length of the key goes without saying.
    let rest = u32::from_der(rest).map_or(rest, |(rest, _)| rest);
    let prf = if rest.is_empty() { HMAC_SHA1 } else { algorithm(rest)?.0.algorithm };
    let known = [
        (HMAC_SHA1, pbkdf2::PBKDF2_HMAC_SHA1),
        (HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
        (HMAC_SHA384, pbkdf2::PBKDF2_HMAC_SHA384),
        (HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
    ];
    let found = known.into_iter().find(|(oid, _)| *oid == prf);
    let (_, algorithm) = found.ok_or_else(|| EncryptedKeyError::Scheme(prf.to_string()))?;
    Ok((algorithm, salt, iterations))
}

/// What the first value of `der` holds, and what follows it.
fn contents(der: &[u8], tag: Tag) -> Result<(&[u8], &[u8]), EncryptedKeyError> {
    match Any::from_der(der) {
        Ok((rest, value)) if value.tag() == tag => Ok((value.data, rest)),
        _ => Err(EncryptedKeyError::Malformed),
    }
}

fn algorithm(der: &[u8]) -> Result<(AlgorithmIdentifier<'_>, &[u8]), EncryptedKeyError> {
    let read = AlgorithmIdentifier::from_der(der);
    read.map(|(rest, algorithm)| (algorithm, rest)).map_err(|_| EncryptedKeyError::Malformed)
}

fn parameters<'d>(of: &AlgorithmIdentifier<'d>, tag: Tag) -> Result<&'d [u8], EncryptedKeyError> {
    let given = of.parameters.as_ref().filter(|given| given.tag() == tag);
    given.map(|given| given.data).ok_or(EncryptedKeyError::Malformed)
}
