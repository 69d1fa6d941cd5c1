//! What the proxy says of itself: its status and metrics, kept up to date, and events of a reload.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Addresses;
use super::assemble::Assembled;
use super::credential::KeptCredential;
use super::live::{Live, Present, SourceStatus};
use super::loads::Loads;
use crate::admin::{
    CasStatus, CertificateStatus, CredentialStatus, FailureStatus, IdentityStatus, IssuerStatus,
    ListenerStatus, LoadStatus, RevocationStatus, Serving, Status, TrustDomainStatus, UpstreamStatus,
};
use crate::audit::{Audit, Event};
use crate::clock::Timestamp;
use crate::identity::{Name, TrustDomain};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::proxy::{Generation, Shared};
use crate::tls::Cas;

/// How often routes in shadow are named in the log.
const REMINDER_PERIOD: Duration = Duration::from_secs(60);
/// How often the status is taken anew.
const PERIOD: Duration = Duration::from_millis(500);

/// Keeps status and metrics up to date until the proxy has stopped.
pub async fn keep_reporting(live: Arc<Live>, status: Arc<Status>, addresses: Addresses) {
    let shared = Arc::clone(&live.shared);
    let mut reloaded = shared.reloaded.subscribe();
    let mut source = live.source_state();
    let mut idle = BTreeSet::new();
    let mut reminder = tokio::time::interval(REMINDER_PERIOD);
    loop {
        let generation = {
            let present = live.present();
            status.serves(serving(&live, &present, &addresses, shared.clock.now()));
            export(&shared, &present);
            rotations(&shared.audit, &present.assembled);
            idle = warn_of_idle(&present.assembled, &idle, shared.clock.now());
            Arc::clone(&present.generation)
        };
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            _ = reloaded.changed() => {}
            Ok(()) = source.changed() => {}
            _ = reminder.tick() => remind(&generation, shared.clock.now()),
        }
    }
}

/// Says once of each CA that it vouches for nobody. What is so now, to be said no more.
fn warn_of_idle(
    assembled: &Assembled,
    said: &BTreeSet<(TrustDomain, String)>,
    now: Timestamp,
) -> BTreeSet<(TrustDomain, String)> {
    let standings = assembled.identities.standings();
    let idle =
        standings.flat_map(|(name, standing)| standing.idle(now).map(|it| (name.clone(), it.to_string())));
    let idle: BTreeSet<_> = idle.collect();
    for (trust_domain, why) in idle.difference(said) {
        tracing::error!(%trust_domain, %why, "whoever a CA vouches for is refused");
    }
    idle
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

fn serving(live: &Live, present: &Present, addresses: &Addresses, now: Timestamp) -> Serving {
    let Present { generation, assembled } = present;
    let listener = |(name, address): (&Name, &_)| ListenerStatus { name: name.clone(), address: *address };
    Serving {
        policy: generation.policy.hash().to_string(),
        generation: generation.number,
        configuration: load(&live.configuration()),
        revocation: assembled.revocation.is_some().then(|| RevocationStatus {
            entries: generation.revocations.counts().sum(),
            idle: idle_entries(generation),
            load: load(&live.revocations()),
        }),
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
        identity: live.source_status(assembled).map(|source| identity(source, assembled)),
        certificates: assembled
            .identities
            .certificates()
            .map(|(name, own)| CertificateStatus { name, not_after: own.not_after })
            .collect(),
        trust_domains: cas(assembled, now),
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

fn load(loads: &Loads) -> LoadStatus {
    let failure = loads.failure.as_ref();
    LoadStatus {
        since: loads.since.to_string(),
        failure: failure
            .map(|failure| FailureStatus { at: failure.at.to_string(), why: failure.why.clone() }),
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

fn cas(assembled: &Assembled, now: Timestamp) -> Vec<CasStatus> {
    let own = assembled.identities.own_id();
    let status = |(name, cas): (&TrustDomain, &Cas)| {
        let standing = assembled.identities.standings().find(|(of, _)| *of == name).map(|(_, it)| it);
        CasStatus {
            name: name.to_string(),
            own: own.as_ref().is_some_and(|own| own.trust_domain() == name),
            cas: cas.count(),
            next_not_after: cas.next_end(now),
            last_not_after: cas.last_end(),
            crl_next_update: standing.and_then(|it| it.next_update).map(|at| at.to_string()),
            idle: standing.into_iter().flat_map(|it| it.idle(now)).map(|idle| idle.to_string()).collect(),
            is_idle: standing.is_some_and(|it| it.is_idle(now)),
        }
    };
    assembled.identities.cas().map(status).collect()
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

fn export(shared: &Shared, Present { generation, assembled }: &Present) {
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
        metrics.expiry.certificate(&name, own.not_after);
    }
    for (name, cas) in assembled.identities.cas() {
        metrics.expiry.cas(name.as_str(), cas.next_end(shared.clock.now()));
    }
    for (name, next_update) in assembled.identities.next_updates() {
        metrics.expiry.lists(name.as_str(), next_update);
    }
    for ((.., upstream), name) in assembled.upstreams.iter().zip(&generation.policy.parts().upstreams) {
        let endpoints = upstream.status().endpoints;
        let ejected = endpoints.iter().filter(|endpoint| endpoint.ejected).count();
        metrics.upstream_health(name.as_str(), endpoints.len(), ejected);
    }
}

/// What the configuration does not name any more has no metrics.
pub fn forget(metrics: &Metrics, old: &Present, new: &Present) {
    for issuer in &old.assembled.issuers {
        if !new.assembled.issuers.iter().any(|kept| kept.name == issuer.name) {
            metrics.forget_issuer(issuer.name.as_str());
        }
    }
    let gets_tokens = |kept: &&KeptCredential| kept.credential.status().is_some();
    for kept in old.assembled.credentials.iter().filter(gets_tokens) {
        if !new.assembled.credentials.iter().filter(gets_tokens).any(|new| new.upstream == kept.upstream) {
            metrics.credentials.forget(kept.upstream.as_str());
        }
    }
    let upstreams = |generation: &Generation| generation.policy.parts().upstreams.clone();
    let kept = upstreams(&new.generation);
    for name in upstreams(&old.generation).iter().filter(|name| !kept.contains(name)) {
        metrics.forget_upstream(name.as_str());
    }
    for (name, _) in old.assembled.identities.certificates() {
        if !new.assembled.identities.certificates().any(|(kept, _)| kept == name) {
            metrics.expiry.forget_certificate(&name);
        }
    }
    for (name, _) in old.assembled.identities.cas() {
        if !new.assembled.identities.cas().any(|(kept, _)| kept == name) {
            metrics.expiry.forget_cas(name.as_str());
        }
    }
    for (name, _) in old.assembled.identities.next_updates() {
        if !new.assembled.identities.next_updates().any(|(kept, _)| kept == name) {
            metrics.expiry.forget_lists(name.as_str());
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
    shared.audit.event(&Event::RevocationLoaded { counts, idle: idle_entries(generation) });
}

/// The entries of the revocation list that revoke nothing.
fn idle_entries(generation: &Generation) -> Vec<String> {
    generation.revocations.idle().iter().map(ToString::to_string).collect()
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
    let mismatch = |of: &Assembled| of.identities.mismatch(of.issued.as_deref());
    if let Some(mismatch) = mismatch(new).filter(|_| mismatch(old).is_none()) {
        tracing::error!(%mismatch, "nobody will be believed");
    }
}

/// Records what a reload changed.
pub fn changes(audit: &Audit, old: &Present, new: &Present) {
    let (old_policy, new_policy) = (&old.generation.policy, &new.generation.policy);
    if old_policy.hash() != new_policy.hash() {
        let (before, after) = (rule_names(old_policy), rule_names(new_policy));
        audit.event(&Event::PolicyLoaded {
            old: Some(old_policy.hash()),
            new: new_policy.hash(),
            rules_added: after.difference(&before).map(|name| (*name).to_owned()).collect(),
            rules_removed: before.difference(&after).map(|name| (*name).to_owned()).collect(),
        });
    }
    for (name, own) in new.assembled.identities.certificates() {
        if !old.assembled.identities.certificates().any(|(old_name, old)| old_name == name && old == own) {
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
