//! One request, judged as every request is.

use super::{Outcome, Witness};
use crate::identity::{Caller, Signature};
use crate::policy::cells::Side;
use crate::policy::{Action, Cause, Circumstances, Policy, Request, Verdict, decide};

impl Witness {
    pub fn caller(&self, side: Side) -> Option<&Caller> {
        let (_, token) = self.token.as_ref()?;
        token.callers[side].as_ref().ok()?.verified().map(|caller| &**caller)
    }

    /// What the policy of this side makes of it.
    pub fn judged(&self, policy: &Policy, side: Side) -> Outcome {
        let absent = Ok(Signature::Absent);
        let caller = match self.token.as_ref().map_or(&absent, |(_, token)| &token.callers[side]) {
            Ok(caller) => caller,
            Err(code) => return Outcome::Refused(code),
        };
        let standing = policy.standing(&self.peer, caller, self.at);
        let request = Request {
            peer: &self.peer,
            caller,
            action: Action {
                method: &self.method,
                host: &self.host,
                path: &self.path,
                headers: &self.headers,
            },
            circumstances: Circumstances { hop: &self.hop, peer_ip: self.address, client_ip: self.address },
            now: self.at,
        };
        let decision = decide(policy, &standing, &request);
        let rule = decision.evidence.rule;
        match decision.verdict {
            Verdict::Permit(permit) => {
                Outcome::Permitted { rule: rule.filter(|_| permit.enforced()), upstream: permit.upstream() }
            }
            Verdict::Denial(denial) => {
                let cause = denial.causes.first().copied().unwrap_or(Cause::NoRule);
                Outcome::Denied { cause, rule }
            }
        }
    }
}
