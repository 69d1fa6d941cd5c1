//! What a decision says in the record: reason, rule, route, near miss and what shadow made of it.

use std::sync::Arc;
use std::time::Duration;

use super::super::Reason;
use super::super::line::bounded;
use super::super::record::NearMissRecord;
use super::{Draft, whole_us};
use crate::metrics::Lookup;
use crate::policy::decision::ShadowVerdict;
use crate::policy::near_miss::NearMiss;
use crate::policy::{Cause, Decision, Evidence, Policy, PolicyParts, RuleId, UpstreamId, Verdict};

impl Draft {
    /// The decision that is acted upon, and the policy that made it.
    pub fn decided(&mut self, policy: &Policy, decision: &Decision, cache: Lookup, took: Duration) {
        self.audit.metrics().decided(took);
        self.note(|record| {
            record.policy = Some(Arc::clone(policy.hash_text()));
            record.cache = Some(cache);
            record.decision_us = Some(whole_us(took));
        });
        let policy = policy.parts();
        match &decision.verdict {
            Verdict::Permit(permit) => self.permitted(policy, permit.upstream(), permit.enforced()),
            Verdict::Denial(denial) => self.denied(&denial.causes),
        }
        self.rests_on(policy, &decision.evidence);
    }

    /// What was permitted, and streams, is permitted no longer under `policy`: for `reason` with its `detail`, and by
    /// `decision` if it came to one.
    pub fn ended(
        &mut self,
        reason: Reason,
        detail: Option<&str>,
        policy: &Policy,
        decision: Option<&Decision>,
    ) {
        self.because(reason);
        let parts = policy.parts();
        let evidence = decision.map(|decision| &decision.evidence);
        let rule = evidence.and_then(|evidence| evidence.rule).map(|rule| rule_name(parts, rule));
        let why = match (detail, rule) {
            (Some(detail), _) => detail.to_owned(),
            (None, Some(rule)) => format!("{} (\"{rule}\")", reason.cause()),
            (None, None) => reason.cause().to_owned(),
        };
        if let Some(Decision { verdict: Verdict::Denial(denial), evidence }) = decision {
            self.reasons.extend(denial.causes.iter().map(|&cause| Reason::from(cause)));
            let near_miss = evidence.near_miss.as_ref().map(|near| near_miss(parts, near));
            self.note(|record| record.near_miss = near_miss);
        }
        self.detail(&format!("ended while it streamed: {why}"));
        self.note(|record| record.ended_by = Some(Arc::clone(policy.hash_text())));
    }

    pub(super) fn permitted(&mut self, policy: &PolicyParts, upstream: UpstreamId, enforced: bool) {
        self.granted = Some(if enforced { Reason::Allowed } else { Reason::Unenforced });
        self.note(|record| record.upstream = policy.upstreams.get(upstream.index()).cloned());
    }

    pub(super) fn denied(&mut self, causes: &[Cause]) {
        self.reasons.extend(causes.iter().map(|&cause| Reason::from(cause)));
        if causes.is_empty() {
            self.reasons.push(Reason::Internal);
        }
    }

    fn rests_on(&mut self, policy: &PolicyParts, evidence: &Evidence) {
        self.named(&evidence.services);
        self.roles = Some(Arc::clone(&evidence.roles));
        let Some(record) = &mut self.record else { return };
        if let Some(rule) = evidence.rule.and_then(|rule| policy.rules.get(rule.index())) {
            record.rule = Some(bounded(&rule.name));
            record.owner = rule.owner.as_deref().map(bounded);
            record.ticket = rule.ticket.as_deref().map(bounded);
        }
        record.action.route =
            evidence.route.and_then(|route| policy.routes.get(route.index())).map(|route| route.name.clone());
        record.near_miss = evidence.near_miss.as_ref().map(|near| near_miss(policy, near));
        for verdict in &evidence.shadow {
            self.audit.0.shadow.inc(verdict.into());
            match verdict {
                ShadowVerdict::WouldAllow(rule) => record.would_allow.push(rule_name(policy, *rule)),
                ShadowVerdict::WouldDeny(rule) => record.would_deny.push(rule_name(policy, *rule)),
                ShadowVerdict::Unenforced(causes) => {
                    record.unenforced = causes.iter().map(|&cause| cause.into()).collect();
                }
            }
        }
    }
}

fn near_miss(policy: &PolicyParts, near: &NearMiss) -> NearMissRecord {
    NearMissRecord {
        rule: rule_name(policy, near.rule),
        lacks: near.failures.iter().map(|failure| bounded(&failure.wanted)).collect(),
        seen: near.failures.iter().map(|failure| bounded(&failure.seen)).collect(),
    }
}

fn rule_name(policy: &PolicyParts, rule: RuleId) -> String {
    policy.rules.get(rule.index()).map_or_else(String::new, |rule| bounded(&rule.name))
}
