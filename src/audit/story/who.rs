//! The story's subject: which service asks, and for whom.

use super::plain;
use crate::audit::record::{CallerRecord, Check, PeerRecord};
use crate::identity::ActorKind;

/// Whoever carries the request.
pub fn service(check: Check, peer: Option<&PeerRecord>, story: &mut String) {
    match (check, peer) {
        (Check::Ok, Some(PeerRecord { service: Some(services), .. })) => {
            let mut names = services.split(',');
            story.extend(names.next());
            names.for_each(|name| story.extend([" and ", name]));
        }
        (Check::Ok, Some(peer)) => {
            story.push_str("a service without a name (");
            identity(peer, story);
            story.push(')');
        }
        (Check::Absent, _) => story.push_str("a client without a certificate"),
        (Check::Failed(_), _) => story.push_str("a client with a refused certificate"),
        (Check::Ok | Check::NotReached, _) => story.push_str("a client"),
    }
}

fn identity(peer: &PeerRecord, story: &mut String) {
    match &peer.spiffe_id {
        Some(id) => plain(id, story),
        None => plain(&peer.dns_names.join(" "), story),
    }
}

/// Whom it is for, with the comma before it.
pub fn caller(check: Check, caller: Option<&CallerRecord>, story: &mut String) {
    match (check, caller) {
        (Check::Ok, Some(caller)) => {
            story.push_str(", for ");
            principal(caller, story);
            vouched(caller, story);
        }
        (Check::Absent, _) => story.push_str(", without a token"),
        (Check::Failed(_), _) => story.push_str(", with a refused token"),
        (Check::Ok | Check::NotReached, _) => {}
    }
}

/// As `alice@corp (human)`; with somebody acting for her, `alice@corp (human) through bot-7 (agent)`.
fn principal(caller: &CallerRecord, story: &mut String) {
    let issuer = caller.issuer.as_str();
    match (&caller.subject, &caller.client) {
        (Some(subject), _) => {
            plain(subject, story);
            story.extend(["@", issuer]);
        }
        (None, Some(id)) => {
            client(id, story);
            story.extend(["@", issuer]);
        }
        (None, None) => story.extend(["a caller of ", issuer]),
    }
    let behind = caller.on_behalf_of.as_str();
    if let Some((acting, others)) = caller.chain.split_first() {
        story.extend([" (", behind, ") through "]);
        plain(&acting.subject, story);
        story.extend([" (", caller.actor.as_str(), ")"]);
        for inner in others {
            story.push_str(" and ");
            plain(&inner.subject, story);
        }
    } else if caller.actor == ActorKind::Agent && caller.on_behalf_of != ActorKind::Unknown {
        story.extend([" (", behind, ") through "]);
        match &caller.client {
            Some(id) => client(id, story),
            None => story.push_str("an unnamed client"),
        }
        story.push_str(" (agent)");
    } else {
        story.extend([" (", caller.actor.as_str(), ")"]);
    }
}

/// Who told the hop who that is, and whom it passed on its way there.
fn vouched(caller: &CallerRecord, story: &mut String) {
    if let Some(issuer) = &caller.subject_issuer {
        story.push_str(", named by ");
        plain(issuer, story);
    }
    for (at, service) in caller.via.iter().enumerate() {
        story.push_str(if at == 0 { ", by way of " } else { " and " });
        plain(service, story);
    }
}

fn client(id: &str, story: &mut String) {
    story.push_str("client ");
    plain(id, story);
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
        assert_eq!(
            who(|r| {
                caller_of(r).subject_issuer = Some("https://login.example.com".into());
                caller_of(r).via = vec!["spiffe://shop.example/front".into(), "odd, or not".into()];
            }),
            "storefront, for alice@corp (human), named by https://login.example.com, by way of \
             spiffe://shop.example/front and \"odd, or not\""
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
