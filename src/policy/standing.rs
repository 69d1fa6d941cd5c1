//! Which rules' identity conditions hold for one peer and caller: the part of a decision that does
//! not depend on what is asked, and that the decision cache stores.

use fixedbitset::FixedBitSet;

use crate::clock::Timestamp;

/// The rules whose identity conditions (`service issuer role actor on_behalf_of claim acr max_age`)
/// hold for one peer and one caller under one policy. Opaque outside `policy/`.
#[derive(Clone, Debug)]
pub struct Standing {
    /// By `ServiceId`.
    pub(super) services: FixedBitSet,
    /// By `RoleId`.
    pub(super) roles: FixedBitSet,
    /// By `RuleId`.
    pub(super) rules: FixedBitSet,
    /// Whether every matching service that lists clients lists the token's.
    pub(super) token_mapped: bool,
    pub(super) valid_until: Timestamp,
}

impl Standing {
    /// The first moment at which this standing must be made anew: token or certificate expiry, a
    /// rule's start or end, a login grown too old.
    pub fn valid_until(&self) -> Timestamp {
        self.valid_until
    }
}
