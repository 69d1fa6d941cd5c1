//! The closed list of what `check` can find in a configuration that loads.

use super::Severity;

macro_rules! codes {
    ($($variant:ident = $name:literal $severity:ident,)+) => {
        /// Stable; what `[lint] allow` names, and `docs/policy.md` tells.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($variant,)+ }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }

            pub fn severity(self) -> Severity {
                match self { $(Code::$variant => Severity::$severity,)+ }
            }
        }
    };
}

codes! {
    ActorUntold = "actor_untold" Finding,
    AddressOnly = "address_only" Finding,
    AdminExposed = "admin_exposed" Finding,
    AgentsAsPeople = "agents_as_people" Information,
    AllowContradicted = "allow_contradicted" Finding,
    AllowDenied = "allow_denied" Finding,
    AllowRedundant = "allow_redundant" Finding,
    CaIdle = "ca_idle" Finding,
    ClaimNotGiven = "claim_not_given" Finding,
    ClientIdAny = "client_id_any" Finding,
    ClientShared = "client_shared" Information,
    DenyByHost = "deny_by_host" Finding,
    DenyByPath = "deny_by_path" Finding,
    DenyRedundant = "deny_redundant" Finding,
    ExchangeWithoutCaller = "exchange_without_caller" Finding,
    GuardRail = "guard_rail" Information,
    HopWide = "hop_wide" Finding,
    HostOnly = "host_only" Finding,
    ListenerClosed = "listener_closed" Finding,
    NameUnused = "name_unused" Finding,
    OpenToAll = "open_to_all" Finding,
    OwnUntrusted = "own_untrusted" Finding,
    PathElsewhere = "path_elsewhere" Finding,
    PlaintextExposed = "plaintext_exposed" Finding,
    RequireRedundant = "require_redundant" Finding,
    RevocationIdle = "revocation_idle" Finding,
    RoleEntryDead = "role_entry_dead" Finding,
    RoleEntryRedundant = "role_entry_redundant" Finding,
    RoleWide = "role_wide" Finding,
    RouteInbound = "route_inbound" Finding,
    RouteUnreached = "route_unreached" Finding,
    RuleElsewhere = "rule_elsewhere" Finding,
    RuleExpired = "rule_expired" Finding,
    RuleExpiresSoon = "rule_expires_soon" Finding,
    RuleInShadow = "rule_in_shadow" Information,
    ServiceWide = "service_wide" Finding,
    ShadowOver = "shadow_over" Finding,
    SignatureWaived = "signature_waived" Information,
    SubjectsMixed = "subjects_mixed" Finding,
}
