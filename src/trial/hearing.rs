//! The path of one request that did not come: the steps of [`exchange`](crate::proxy::exchange), in its order.

use std::time::Duration;

use futures_util::FutureExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::response::Parts as AnswerParts;

use super::Unaskable;
use super::answer::{Answered, Case};
use crate::audit::{Draft, Reason};
use crate::clock::Timestamp;
use crate::identity::{CertificateHash, Direction, Name, Peer, Signature};
use crate::policy::Verdict;
use crate::proxy::Generation;
use crate::proxy::assertion;
use crate::proxy::exchange::note;
use crate::proxy::forward::{Shown, Told, carries, is_bearer, rewrite, shown};
use crate::proxy::headers::{Authorization, Origin, given_traceparent};
use crate::proxy::hop;
use crate::proxy::judgement::{self, Holder, Whence};
use crate::proxy::normalize::Asked;
use crate::proxy::refusal::{Form, Refusal};
use crate::proxy::route::CrossOrigin;
use crate::token::{Scheme, Verifier};

/// One request and all that it is judged by.
pub struct Hearing<'t> {
    pub generation: &'t Generation,
    pub verifier: &'t Verifier,
    pub peer: Result<Signature<Peer>, Refusal>,
    /// Which tells whose it is.
    pub hop: Option<Name>,
    pub direction: Direction,
    pub from: Whence,
    pub origin: Origin,
    pub now: Timestamp,
    pub draft: Draft,
}

/// How it ended.
enum End {
    Answered(AnswerParts),
    Onward(Parts),
}

impl Hearing<'_> {
    pub fn hear(mut self, head: Parts) -> Result<Answered, Unaskable> {
        if let Some(traceparent) = given_traceparent(&head.headers) {
            self.draft.trace(traceparent);
        }
        let mut case = None;
        let (answer, onward) = match self.answer(head, &mut case)? {
            End::Answered(answer) => (Some(answer), None),
            End::Onward(onward) => (None, Some(onward)),
        };
        if let Some(answer) = &answer {
            self.draft.answered(answer.status);
        }
        // There is one until it is taken.
        let record = self.draft.into_record().ok_or(Unaskable::Waits)?;
        Ok(Answered { record: *record, answer, onward, case })
    }

    fn answer(&mut self, mut head: Parts, case: &mut Option<Case>) -> Result<End, Unaskable> {
        let form = Form::of(&head);
        let asked = match judgement::read(self.generation, &mut head, None) {
            Ok(asked) => asked,
            Err(refusal) => return Ok(End::Answered(self.refuse(form, &refusal))),
        };
        self.draft.asked(&asked.host, &asked.path, form == Form::Grpc);
        if let Some(answer) = assertion::key_set(self.generation, &asked, self.now) {
            self.draft.for_everybody();
            return Ok(End::Answered(answer.into_parts().0));
        }
        let cross_origin = CrossOrigin::of(self.generation, self.direction, &asked, &head.headers);
        if let Some(answer) = cross_origin.preflight(&asked, &head.headers) {
            self.draft.because(Reason::Preflight);
            return Ok(End::Answered(answer.into_parts().0));
        }
        let passed = match self.judge((asked, &cross_origin), &head.headers)? {
            Ok(judged) => self.forward(head, case.insert(judged)),
            Err(refusal) => Err(refusal),
        };
        Ok(match passed {
            Ok(onward) => End::Onward(onward),
            Err(refusal) => {
                let mut answer = self.refuse(form, &refusal);
                cross_origin.expose(&mut answer.headers);
                End::Answered(answer)
            }
        })
    }

    fn judge(
        &mut self,
        (asked, page): (Asked, &CrossOrigin<'_>),
        headers: &HeaderMap,
    ) -> Result<Result<Case, Refusal>, Unaskable> {
        let Hearing { generation, verifier, peer, hop, from, origin, now, draft, .. } = self;
        let hop = hop.take();
        let through = hop.as_ref().and_then(|name| generation.hops.iter().find(|hop| hop.name == *name));
        let end = peer.as_ref().unwrap_or(&Signature::Absent);
        if let Some(mut told) = hop::through(&generation.hops, through, end, headers) {
            told.client = told.client.map(|client| told.hop.tells(from.client.or(client)));
            told.note(None, draft);
            from.hop = told.named();
            from.client = match told.client {
                Ok(client) => client,
                Err(refusal) => return Ok(Err(refusal)),
            };
            *origin = origin.told(from.client, hop::spoke_tls(headers));
        }
        let (policy, peer) = (&generation.policy, || peer.clone());
        let (replaced, address) = (|_: &CertificateHash| None, from.client.or(from.peer));
        let holder = Holder { peer, replaced, hop: through, address, page };
        let seen = asked.seen(headers, origin.is_secure());
        let (time, mut known) = (|| *now, None);
        let verified = judgement::verify(generation, verifier, seen, holder, time, &mut known, draft);
        let verified = verified.now_or_never();
        let signatures = match verified.ok_or(Unaskable::Waits)? {
            Ok(signatures) => signatures,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let request = signatures.ask(&asked, headers, from, *now);
        let (decision, judged, cache) = judgement::decide(generation, &request, None);
        draft.decided(policy, &decision, cache, Duration::ZERO);
        draft.signers(None, policy);
        let headers = headers.clone();
        Ok(Ok(Case { asked, headers, signatures, from: from.clone(), now: *now, decision, judged }))
    }

    /// As far as that can be done without an upstream.
    fn forward(&mut self, mut head: Parts, case: &Case) -> Result<Parts, Refusal> {
        let permit = match &case.decision.verdict {
            Verdict::Permit(permit) => permit,
            Verdict::Denial(denial) => {
                return Err(Refusal::from(denial).in_scheme(Scheme::of(&head.headers)));
            }
        };
        let internal = || Refusal::of(Reason::Internal);
        let route = self.generation.routes.get(permit.route().index()).ok_or_else(internal)?;
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let is_too_large = length.is_some_and(|length: u64| length > route.body_bytes_max);
        carries(route, case.asked.kind, is_too_large)?;
        let credential = self.generation.credentials.get(permit.upstream().index()).ok_or_else(internal)?;
        let has_caller = case.signatures.caller.verified().is_some();
        let authorization = match shown(credential.kind, route, has_caller, || is_bearer(&head.headers))? {
            Shown::Callers => Authorization::Forwarded,
            // Which token it would be is not asked.
            Shown::Nothing | Shown::Ours => Authorization::Stripped,
        };
        let is_told = self.generation.tells(permit.upstream());
        let who = is_told.then(|| case.signatures.introduce(self.generation, &case.decision).into());
        let told = Told { asked: &case.asked, permit, who: who.as_ref(), assertion: None, authorization };
        rewrite(&self.origin, route, &mut head, told, &mut self.draft)?;
        self.draft.forwarding(permit).map_err(|_| Refusal::of(Reason::AuditUnavailable))?;
        Ok(head)
    }

    fn refuse(&mut self, form: Form, refusal: &Refusal) -> AnswerParts {
        note(&mut self.draft, refusal);
        refusal.answer(form, &self.draft.id().to_string()).into_parts().0
    }
}
