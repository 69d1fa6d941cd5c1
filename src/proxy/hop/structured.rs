//! Byte sequences of structured fields (RFC 8941), as RFC 9440 has certificates in them.
//!
//! Stricter than it must be: parameters, which RFC 9440 does not know, and Base64 that is not canonical are errors.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::certificate::Fault;

/// An item (§4.2.3): `:Base64:`.
pub fn byte_sequence(text: &str) -> Result<Vec<u8>, Fault> {
    let text = text.trim_matches(' ');
    let inner = text.strip_prefix(':').and_then(|text| text.strip_suffix(':'));
    inner.and_then(|inner| STANDARD.decode(inner).ok()).ok_or("it is no byte sequence of a structured field")
}

/// A list of them (§4.2.1), with at least one member: an empty list is left away (§3.1).
pub fn byte_sequences(text: &str) -> Result<Vec<Vec<u8>>, Fault> {
    let members = text.trim_matches(' ').split(',');
    members.map(|member| byte_sequence(member.trim_matches([' ', '\t']))).collect()
}
