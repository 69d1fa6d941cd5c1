//! What `test` and `explain` say of a request through a hop is what becomes of it.

use countersign::identity::Hop;
use countersign::trial::{Presented, Question, Trial, head};

use super::*;

#[tokio::test]
async fn a_question_through_a_hop_is_answered_as_the_request_is() {
    let world = World::new().await;
    for form in Form::ALL {
        let proxy = world.start(&edge(form, HERE));
        let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
        let behind = proxy.behind(Protocol::H1).await;
        for who in Who::ALL {
            let minted = world.certificates.client(who);
            let mut fields = minted.as_ref().map_or_else(Vec::new, |minted| form.of(minted));
            fields.push(("x-forwarded-for", "203.0.113.7".into()));
            let live = behind.ask(passed("/told/1", &fields)).await.unwrap();
            let live = proxy.record_of(&live).await;
            let url = format!("http://{HOST}/told/1");
            let told = fields.iter().map(|(name, value)| (*name, value.as_str()));
            let edge = || Hop::Trusted("edge".parse().unwrap());
            let by_header = Question { hop: edge(), ..Question::new(head("GET", &url, told).unwrap()) };
            let address = head("GET", &url, [("x-forwarded-for", "203.0.113.7")]).unwrap();
            let chain = minted.as_ref().map(|minted| Presented::Chain(parsed(minted).0));
            let by_chain =
                Question { hop: edge(), peer: chain.unwrap_or(Presented::Nothing), ..Question::new(address) };
            for (asked, question) in [("header", by_header), ("chain", by_chain)] {
                if asked == "chain" && form == Form::AlbLeaf && who == Who::StorefrontByIntermediate {
                    continue;
                }
                let answer = trial.ask(&question).unwrap();
                let record = answer.record().unwrap();
                let said = (record.reason.as_str(), record.checks.peer.as_str(), record.connection.client_ip);
                let lived = (live["reason"].as_str().unwrap(), live["checks"]["peer"].as_str().unwrap());
                assert_eq!((said.0, said.1), lived, "{form:?} {who:?} {asked}");
                assert_eq!(
                    said.2.map(|ip| ip.to_string()).as_deref(),
                    live["connection"]["client_ip"].as_str()
                );
                assert_eq!(record.connection.hop.as_ref().map(|hop| hop.name.as_str()), Some("edge"));
            }
        }
        std::fs::remove_file(world.folder.path().join("audit.jsonl")).unwrap();
    }
}
