//! A request that shows something, as the command that explains it.

use std::path::PathBuf;

use serde_json::Value;

use crate::access::SIDE;
use crate::clock::Timestamp;
use crate::identity::{Hop, PeerName};
use crate::policy::difference::Witness;
use crate::token::IssuerSettings;

/// What every line of a command repeats.
pub struct Explaining<'a> {
    pub files: &'a [PathBuf],
    pub issuers: &'a [IssuerSettings],
    /// Not said where it is now.
    pub at: Option<Timestamp>,
}

impl Explaining<'_> {
    /// `countersign explain …`, ready for a shell. `service` is the name of one of the peer's.
    pub fn line(&self, witness: &Witness, service: Option<&str>, url: &str, fields: &[String]) -> String {
        let mut words = vec!["countersign".to_owned(), "explain".to_owned()];
        let mut add = |words_of: &[&str]| words.extend(words_of.iter().map(|word| quoted(word)));
        for file in self.files {
            add(&["-c", &file.to_string_lossy()]);
        }
        match (witness.peer.verified().map(|peer| &peer.name), service) {
            (None, _) => add(&["--no-certificate"]),
            (Some(PeerName::Dns { .. }), Some(service)) => add(&["--service", service]),
            (Some(name), _) => add(&["--spiffe-id", &name.to_string()]),
        }
        match witness.caller(SIDE) {
            None => add(&["--no-token"]),
            Some(caller) => add(&["--issuer", caller.issuer.as_str(), "--claims", &self.claims(witness)]),
        }
        if witness.hop != Hop::Direct {
            add(&["--hop", witness.hop.as_str()]);
        }
        if let Some(address) = witness.address {
            add(&["--peer-ip", &address.to_string()]);
        }
        if let Some(at) = self.at {
            add(&["--at", &at.to_string()]);
        }
        fields.iter().for_each(|field| add(&["-H", field]));
        add(&[witness.method.as_str(), url]);
        words.join(" ")
    }

    /// Those that the issuer does not put into each token anyway.
    fn claims(&self, witness: &Witness) -> String {
        let Some((_, token)) = &witness.token else { return "{}".to_owned() };
        let mut claims = token.claims.clone();
        let issuer = witness.caller(SIDE).map(|caller| &caller.issuer);
        let issuer = self.issuers.iter().find(|settings| Some(&settings.name) == issuer);
        for name in ["iss", "iat", "exp"] {
            claims.remove(name);
        }
        if issuer.is_some_and(|issuer| !issuer.quirks.client_is_audience) {
            claims.remove("aud");
        }
        Value::Object(claims).to_string()
    }
}

/// As one word for a POSIX shell (XCU §2.2.2).
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=@,%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_one_word() {
        assert_eq!(quoted("https://a.example/b%20c"), "https://a.example/b%20c");
        assert_eq!(quoted("a'; rm -rf *"), r"'a'\''; rm -rf *'");
        assert_eq!(quoted(""), "''");
    }
}
