//! How digests are written.

use std::fmt;

/// As `sha256:` and lower-case hex.
pub(crate) fn write_sha256(to: &mut fmt::Formatter<'_>, digest: &[u8; 32]) -> fmt::Result {
    let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let (_, digits) = text.split_at_mut("sha256:".len());
    // Both fail for a length that is not this one.
    hex::encode_to_slice(digest, digits).map_err(|_| fmt::Error)?;
    to.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}
