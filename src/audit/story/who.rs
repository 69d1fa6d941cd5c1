//! The story's subject: which service asks, and for whom.

use std::fmt::Write as _;

use super::plain;
use crate::audit::record::{CallerRecord, Check, PeerRecord};
use crate::identity::ActorKind;

/// Whoever carries the request.
pub fn service(check: Check, peer: Option<&PeerRecord>) -> String {
    match (check, peer) {
        (Check::Ok, Some(PeerRecord { service: Some(services), .. })) => services.replace(',', " and "),
        (Check::Ok, Some(peer)) => format!("a service without a name ({})", identity(peer)),
        (Check::Absent, _) => "a client without a certificate".to_owned(),
        (Check::Failed(_), _) => "a client with a refused certificate".to_owned(),
        (Check::Ok | Check::NotReached, _) => "a client".to_owned(),
    }
}

fn identity(peer: &PeerRecord) -> String {
    match &peer.spiffe_id {
        Some(id) => plain(id),
        None => plain(&peer.dns_names.join(" ")),
    }
}

/// Whom it is for, with the comma before it.
pub fn caller(check: Check, caller: Option<&CallerRecord>) -> String {
    match (check, caller) {
        (Check::Ok, Some(caller)) => format!(", for {}", principal(caller)),
        (Check::Absent, _) => ", without a token".to_owned(),
        (Check::Failed(_), _) => ", with a refused token".to_owned(),
        (Check::Ok | Check::NotReached, _) => String::new(),
    }
}

/// As `alice@corp (human)`; with somebody acting for her, `alice@corp (human) through bot-7 (agent)`.
fn principal(caller: &CallerRecord) -> String {
    let issuer = &caller.issuer;
    let client = caller.client.as_deref().map(|client| format!("client {}", plain(client)));
    let whose = match (&caller.subject, &client) {
        (Some(subject), _) => format!("{}@{issuer}", plain(subject)),
        (None, Some(client)) => format!("{client}@{issuer}"),
        (None, None) => format!("a caller of {issuer}"),
    };
    if let Some((acting, behind)) = caller.chain.split_first() {
        let mut text = format!(
            "{whose} ({}) through {} ({})",
            caller.on_behalf_of,
            plain(&acting.subject),
            caller.actor
        );
        for inner in behind {
            let _ = write!(text, " and {}", plain(&inner.subject));
        }
        return text;
    }
    match caller.actor {
        ActorKind::Agent if caller.on_behalf_of != ActorKind::Unknown => {
            let agent = client.unwrap_or_else(|| "an unnamed client".to_owned());
            format!("{whose} ({}) through {agent} (agent)", caller.on_behalf_of)
        }
        kind => format!("{whose} ({kind})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Reason;
    use crate::audit::record::RequestRecord;
    use crate::audit::record::tests::denied;
    use crate::audit::story::tests::{caller_of, told};
    use crate::identity::Delegate;

    #[test]
    fn who_asks_and_for_whom() {
        let link = |subject: &str| Delegate { subject: subject.into(), issuer: None };
        let who = |change: fn(&mut RequestRecord)| {
            let story = told(denied(), change);
            story.split_once(", asked").unwrap().0.to_owned()
        };
        assert_eq!(who(|_| {}), "storefront, for alice@corp (human)");
        assert_eq!(
            who(|r| r.peer.as_mut().unwrap().value_mut().service = Some("storefront,web".into())),
            "storefront and web, for alice@corp (human)"
        );
        assert_eq!(
            who(|r| r.peer.as_mut().unwrap().value_mut().service = None),
            "a service without a name (spiffe://shop.example/ns/prod/sa/storefront), for alice@corp (human)"
        );
        assert_eq!(
            who(|r| (r.peer, r.checks.peer) = (None, Check::Absent)),
            "a client without a certificate, for alice@corp (human)"
        );
        assert_eq!(
            who(|r| (r.peer, r.checks.peer) = (None, Check::Failed(Reason::PeerRevoked))),
            "a client with a refused certificate, for alice@corp (human)"
        );
        assert_eq!(
            who(|r| (r.caller, r.checks.caller) = (None, Check::Absent)),
            "storefront, without a token"
        );
        assert_eq!(
            who(|r| (r.caller, r.checks.caller) = (None, Check::Failed(Reason::TokenExpired))),
            "storefront, with a refused token"
        );
        assert_eq!(who(|r| (r.caller, r.checks.caller) = (None, Check::NotReached)), "storefront");
        assert_eq!(
            who(|r| caller_of(r).actor = ActorKind::Agent),
            "storefront, for alice@corp (human) through client storefront-web (agent)"
        );
        assert_eq!(
            who(|r| {
                caller_of(r).actor = ActorKind::Agent;
                caller_of(r).on_behalf_of = ActorKind::Unknown;
            }),
            "storefront, for alice@corp (agent)"
        );
        assert_eq!(
            who(|r| caller_of(r).subject = None),
            "storefront, for client storefront-web@corp (human)"
        );
        let story = told(denied(), |r| {
            caller_of(r).actor = ActorKind::Agent;
            caller_of(r).chain = vec![link("bot-7"), link("planner")];
        });
        assert!(
            story.starts_with("storefront, for alice@corp (human) through bot-7 (agent) and planner, asked")
        );
    }
}
