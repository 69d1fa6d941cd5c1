//! A request that was made up is asked as one that came.

use super::{Outcome, Witness};
use crate::identity::{Caller, Signature};
use crate::policy::cells::{Demand, Side};
use crate::policy::role::Service;
use crate::policy::{Action, Cause, Circumstances, Policy, Request, ServiceId, Standing, Verdict, decide};

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

    /// What the policy of this side makes of who asks; the code of a refusal where the token is refused before.
    pub fn standing(&self, policy: &Policy, side: Side) -> Result<Standing, &'static str> {
        Ok(policy.standing(&self.peer, self.presented(side)?, self.at))
    }

    /// Services that name the peer and may not carry the token.
    pub fn uncarried(&self, policy: &Policy, side: Side) -> impl Iterator<Item = ServiceId> {
        let both = self.peer.verified().zip(self.caller(side));
        let issuer = policy.issuer_of(self.caller(side));
        let services = policy.parts().services.iter().zip((0..).map(ServiceId));
        let stops = move |(service, _): &(&Service, ServiceId)| {
            both.is_some_and(|(peer, caller)| service.names(peer) && !service.carries(issuer, caller))
        };
        services.filter(stops).map(|(_, id)| id)
    }

    fn presented(&self, side: Side) -> Result<&Signature<Caller>, &'static str> {
        const ABSENT: &Signature<Caller> = &Signature::Absent;
        self.token
            .as_ref()
            .map_or(Ok(ABSENT), |(_, token)| token.callers[side].as_ref().map_err(|code| *code))
    }

    /// Has it asked of a policy; the code of a refusal where its token is refused before.
    pub fn ask<T>(
        &self,
        policy: &Policy,
        side: Side,
        then: impl FnOnce(&Standing, &Request<'_>) -> T,
    ) -> Result<T, &'static str> {
        let standing = self.standing(policy, side)?;
        Ok(then(&standing, &self.request(side)?))
    }

    fn request(&self, side: Side) -> Result<Request<'_>, &'static str> {
        Ok(Request {
            peer: &self.peer,
            caller: self.presented(side)?,
            action: Action {
                method: &self.method,
                host: &self.host,
                path: &self.path,
                headers: &self.headers,
            },
            circumstances: Circumstances { hop: &self.hop, peer_ip: self.peer_ip, client_ip: self.client_ip },
            now: self.at,
        })
    }

    /// What the policy of this side makes of it.
    pub fn judged(&self, policy: &Policy, side: Side) -> Outcome {
        match self.standing(policy, side) {
            Ok(standing) => self.judged_as(policy, side, &standing),
            Err(code) => Outcome::Refused(code),
        }
    }

    /// The same, where it is known what the policy makes of who asks.
    pub fn judged_as(&self, policy: &Policy, side: Side, standing: &Standing) -> Outcome {
        let decision = match self.request(side) {
            Ok(request) => decide(policy, standing, &request),
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
