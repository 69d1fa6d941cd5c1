//! A request that was made up is asked as one that came.

use super::{Outcome, Witness};
use crate::identity::{Caller, Signature};
use crate::policy::cells::{Demand, Side};
use crate::policy::{Action, Cause, Circumstances, Policy, Request, Standing, Verdict, decide};

impl Witness {
    pub fn caller(&self, side: Side) -> Option<&Caller> {
        let (_, token) = self.token.as_ref()?;
        token.callers[side].as_ref().ok()?.verified().map(|caller| &**caller)
    }

    /// Is without an address that nothing is demanded of.
    pub fn forget_addresses(&mut self, demand: &Demand) {
        self.peer_ip = self.peer_ip.filter(|_| demand.peer_ip.is_some());
        self.client_ip = self.client_ip.filter(|_| demand.client_ip.is_some());
    }

    /// Has it asked of a policy; the code of a refusal where its token is refused before.
    pub fn ask<T>(
        &self,
        policy: &Policy,
        side: Side,
        then: impl FnOnce(&Standing, &Request<'_>) -> T,
    ) -> Result<T, &'static str> {
        let absent = Ok(Signature::Absent);
        let caller = self.token.as_ref().map_or(&absent, |(_, token)| &token.callers[side]);
        let caller = caller.as_ref().map_err(|code| *code)?;
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
            circumstances: Circumstances { hop: &self.hop, peer_ip: self.peer_ip, client_ip: self.client_ip },
            now: self.at,
        };
        Ok(then(&standing, &request))
    }

    /// What the policy of this side makes of it.
    pub fn judged(&self, policy: &Policy, side: Side) -> Outcome {
        let decision = match self.ask(policy, side, |standing, request| decide(policy, standing, request)) {
            Ok(decision) => decision,
            Err(code) => return Outcome::Refused(code),
        };
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
