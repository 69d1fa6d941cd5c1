//! Envoy's `x-forwarded-client-cert`: elements behind commas, each of `key=value` pairs behind semicolons.
//!
//! One element is taken, from an Envoy that replaces what it is sent (`SANITIZE_SET`). Envoy writes URI and DNS SANs
//! as they are, and a comma in one would look like another element behind its own: so several are an error, and
//! `Hash`, which stands in front of all that a certificate says, must be that of the leaf.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use super::certificate::{Fault, one, pem};

/// The chain that the only element tells, leaf first.
pub fn chain(header: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let (mut hash, mut leaf, mut whole) = (None, None, None);
    for (key, value) in pairs(header)? {
        let place = match key.to_ascii_lowercase().as_str() {
            "hash" => &mut hash,
            "cert" => &mut leaf,
            "chain" => &mut whole,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return Err("it has a key twice");
        }
    }
    let chain = match (leaf, whole) {
        (None, None) => return Err("it has neither `Cert` nor `Chain`"),
        (Some(leaf), None) => one(pem(&leaf)?)?,
        (None, Some(chain)) => pem(&chain)?,
        (Some(leaf), Some(chain)) => {
            let (leaf, chain) = (one(pem(&leaf)?)?, pem(&chain)?);
            if leaf.first() != chain.first() {
                return Err("its `Chain` does not begin with its `Cert`");
            }
            chain
        }
    };
    let is_its_hash = |hash: String| {
        let told = hex::decode(hash).ok();
        let actual = chain.first().map(|leaf| digest(&SHA256, leaf));
        told.zip(actual).is_some_and(|(told, actual)| told == actual.as_ref())
    };
    if hash.is_some_and(is_its_hash) { Ok(chain) } else { Err("its `Hash` is not that of its certificate") }
}

fn pairs(header: &str) -> Result<Vec<(&str, String)>, Fault> {
    const UNREADABLE: Fault = "it is no `key=value` pairs";
    let mut pairs = Vec::new();
    let mut rest = header;
    loop {
        let (key, behind) = rest.split_once('=').ok_or(UNREADABLE)?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(UNREADABLE);
        }
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted).ok_or("it has a quote without its end")?,
            None => {
                let end = behind.find([';', ',']).unwrap_or(behind.len());
                let (value, behind) = behind.split_at(end);
                if value.contains('"') {
                    return Err(UNREADABLE);
                }
                (value.to_owned(), behind)
            }
        };
        pairs.push((key, value));
        rest = match behind.split_at_checked(1) {
            None => return Ok(pairs),
            Some((";", behind)) => behind,
            Some((",", _)) => return Err("it has several elements"),
            Some(_) => return Err(UNREADABLE),
        };
    }
}

/// Up to the quote that ends it, and what follows that. A backslash takes from any character its meaning: Envoy has
/// subjects as RFC 2253 writes them.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}
