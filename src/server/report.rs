//! What the proxy says of itself: its status and metrics, kept up to date, and events of a reload.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Addresses;
use super::assemble::Assembled;
use super::credential::KeptCredential;
use super::live::{Live, SourceStatus};
use crate::admin::{
    CertificateStatus, CredentialStatus, IdentityStatus, IssuerStatus, ListenerStatus, Serving, Status,
    TrustDomainStatus, UpstreamStatus,
};
use crate::audit::{Audit, Event};
use crate::clock::Timestamp;
use crate::identity::Name;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::proxy::{Generation, Shared};

/// How often routes in shadow are named in the log.
const REMINDER_PERIOD: Duration = Duration::from_secs(60);
/// How often the status is taken anew.
const PERIOD: Duration = Duration::from_millis(500);

/// Keeps status and metrics up to date until the proxy has stopped.
pub async fn keep_reporting(live: Arc<Live>, status: Arc<Status>, addresses: Addresses) {
    let shared = Arc::clone(&live.shared);
    let mut reloaded = shared.reloaded.subscribe();
    let mut source = live.source_state();
    let mut reminder = tokio::time::interval(REMINDER_PERIOD);
    loop {
        let generation = {
            let assembled = live.assembled();
            // Both change under this lock.
            let generation = shared.generation.load_full();
            status.serves(serving(&generation, &assembled, live.source_status(&assembled), &addresses));
            export(&shared, &generation, &assembled);
            rotations(&shared.audit, &assembled);
            generation
        };
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            _ = reloaded.changed() => {}
            Ok(()) = source.changed() => {}
            _ = reminder.tick() => remind(&generation, shared.clock.now()),
        }
    }
}

/// Records which issuers have other keys than before.
fn rotations(audit: &Audit, assembled: &Assembled) {
    for issuer in &assembled.issuers {
        for rotation in issuer.keys.take_rotations() {
            let list = |ids: &[Arc<str>]| ids.iter().map(|id| id.to_string()).collect();
            audit.event(&Event::KeysRotated {
                issuer: issuer.name.clone(),
                added: list(&rotation.added),
                removed: list(&rotation.removed),
            });
        }
    }
}

/// What is let through unenforced must not be forgotten.
fn remind(generation: &Generation, now: Timestamp) {
    for route in &generation.policy.parts().routes {
        if let Some(until) = route.shadow_until
            && now < until
        {
            tracing::warn!(route = %route.name, %until, "the policy is not enforced on this route");
        }
    }
}

fn serving(
    generation: &Generation,
    assembled: &Assembled,
    source: Option<SourceStatus>,
    addresses: &Addresses,
) -> Serving {
    let listener = |(name, address): (&Name, &_)| ListenerStatus { name: name.clone(), address: *address };
    Serving {
        policy: generation.policy.hash().to_string(),
        generation: generation.number,
        listeners: addresses.listeners.iter().map(listener).collect(),
        issuers: assembled
            .issuers
            .iter()
            .map(|issuer| {
                let status = issuer.keys.status();
                IssuerStatus {
                    name: issuer.name.clone(),
                    keys: status.keys,
                    awaited: status.fetched.is_none(),
                    failure: status.last_error.as_deref().map(str::to_owned),
                }
            })
            .collect(),
        identity: source.map(|source| identity(source, assembled)),
        certificates: assembled
            .identities
            .certificates()
            .map(|(name, own)| CertificateStatus { name, not_after: own.not_after })
            .collect(),
        upstreams: assembled
            .upstreams
            .iter()
            .zip(&generation.policy.parts().upstreams)
            .map(|((.., upstream), name)| {
                let status = upstream.status();
                let ejected = status.endpoints.iter().filter(|endpoint| endpoint.ejected).count();
                UpstreamStatus { name: name.clone(), servers: status.endpoints.len(), ejected }
            })
            .collect(),
        credentials: assembled.credentials.iter().filter_map(credential).collect(),
    }
}

fn identity(source: SourceStatus, assembled: &Assembled) -> IdentityStatus {
    let awaited = assembled.identities.awaited().into_iter();
    IdentityStatus {
        source: source.source,
        awaited: source.is_awaited,
        failure: source.failure.as_deref().map(str::to_owned),
        trust_domains_without_ca: awaited
            .map(|(name, why)| TrustDomainStatus { name: name.to_string(), failure: why.to_string() })
            .collect(),
        mismatch: source.mismatch.map(|mismatch| mismatch.to_string()),
    }
}

fn credential(kept: &KeptCredential) -> Option<CredentialStatus> {
    let status = kept.credential.status()?;
    Some(CredentialStatus {
        upstream: kept.upstream.clone(),
        kind: kept.credential.kind.as_str()?,
        expires: status.expires.map(|at| at.to_string()),
        refresh: status.refresh.map(|at| at.to_string()),
        entries: status.entries,
        failure: status.failure.as_deref().map(str::to_owned),
    })
}

fn export(shared: &Shared, generation: &Generation, assembled: &Assembled) {
    let metrics: &Metrics = &shared.metrics;
    metrics.connections_open.set(i64::try_from(shared.admission.connections_open()).unwrap_or(i64::MAX));
    let (tokens, refused_tokens) = generation.verifier.entries();
    let caches = [
        ("tokens", tokens),
        ("refused_tokens", refused_tokens),
        ("decisions", generation.standings.entries()),
    ];
    for (cache, entries) in caches {
        metrics.cache_holds(cache, entries);
    }
    for (name, own) in assembled.identities.certificates() {
        metrics.certificate_in_use(&name, own.not_after);
    }
    for ((.., upstream), name) in assembled.upstreams.iter().zip(&generation.policy.parts().upstreams) {
        let endpoints = upstream.status().endpoints;
        let ejected = endpoints.iter().filter(|endpoint| endpoint.ejected).count();
        metrics.upstream_health(name.as_str(), endpoints.len(), ejected);
    }
}

/// What the configuration does not name any more has no metrics.
pub fn forget(metrics: &Metrics, old: (&Generation, &Assembled), new: (&Generation, &Assembled)) {
    for issuer in &old.1.issuers {
        if !new.1.issuers.iter().any(|kept| kept.name == issuer.name) {
            metrics.forget_issuer(issuer.name.as_str());
        }
    }
    let gets_tokens = |kept: &&KeptCredential| kept.credential.status().is_some();
    for kept in old.1.credentials.iter().filter(gets_tokens) {
        if !new.1.credentials.iter().filter(gets_tokens).any(|new| new.upstream == kept.upstream) {
            metrics.credentials.forget(kept.upstream.as_str());
        }
    }
    let upstreams = |generation: &Generation| generation.policy.parts().upstreams.clone();
    let kept = upstreams(new.0);
    for name in upstreams(old.0).iter().filter(|name| !kept.contains(name)) {
        metrics.forget_upstream(name.as_str());
    }
    for (name, _) in old.1.identities.certificates() {
        if !new.1.identities.certificates().any(|(kept, _)| kept == name) {
            metrics.forget_certificate(&name);
        }
    }
}

/// Records which revocation list is in force from now on.
pub fn revoked(shared: &Shared, generation: &Generation) {
    let counts = generation.revocations.counts();
    for (kind, entries) in [
        ("token", counts.tokens),
        ("subject", counts.subjects),
        ("client", counts.clients),
        ("workload", counts.workloads),
        ("certificate", counts.certificates),
    ] {
        shared.metrics.revocations(kind, entries);
    }
    shared.audit.event(&Event::RevocationLoaded { counts });
}

/// Says which trust domains vouch for nobody from now on, once a source has given what it has.
pub fn awaited(old: &Assembled, new: &Assembled) {
    if new.issued.is_none() {
        return;
    }
    let known = old.identities.awaited();
    for (trust_domain, why) in new.identities.awaited() {
        if old.issued.is_none() || known.get(trust_domain) != Some(&why) {
            tracing::warn!(%trust_domain, %why, "a trust domain vouches for nobody");
        }
    }
    if let Some(mismatch) = new.mismatch().filter(|_| old.mismatch().is_none()) {
        tracing::error!(%mismatch, "nobody will be believed");
    }
}

/// Records what a reload changed.
pub fn changes(audit: &Audit, old: (&Generation, &Assembled), new: (&Generation, &Assembled)) {
    let (old_policy, new_policy) = (&old.0.policy, &new.0.policy);
    if old_policy.hash() != new_policy.hash() {
        let (before, after) = (rule_names(old_policy), rule_names(new_policy));
        audit.event(&Event::PolicyLoaded {
            old: Some(old_policy.hash()),
            new: new_policy.hash(),
            rules_added: after.difference(&before).map(|name| (*name).to_owned()).collect(),
            rules_removed: before.difference(&after).map(|name| (*name).to_owned()).collect(),
        });
    }
    for (name, own) in new.1.identities.certificates() {
        if !old.1.identities.certificates().any(|(old_name, old)| old_name == name && old == own) {
            audit.event(&Event::CertificateRotated {
                name,
                certificate: own.hash(),
                not_after: own.not_after,
            });
        }
    }
}

fn rule_names(policy: &Policy) -> BTreeSet<&str> {
    policy.parts().rules.iter().map(|rule| rule.name.as_str()).collect()
}
