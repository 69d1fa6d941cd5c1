//! What may be asked of a configuration whose certificates come from the Workload API, while that is not there.

use super::*;

#[tokio::test]
async fn the_source_need_not_be_there_for_questions_and_is_opened_once() {
    let world = world(Clock::system()).await;
    let proxy = world.start(READ);
    let mut trial = Trial::new(world.load(), world.clock.now()).unwrap();
    let head = || get("/orders/7").into_parts().0;
    let ask = |trial: &mut Trial, peer| trial.ask(&Question { peer, ..Question::new(head()) });
    let service = Presented::Service("storefront".parse().unwrap());
    ask(&mut trial, service).unwrap();
    let chain = parsed(&world.certificates.client(Who::Storefront).unwrap()).0;
    let error = ask(&mut trial, Presented::Chain(chain)).unwrap_err();
    assert!(error.to_string().contains("come from the source of `[identity]`"), "{error}");

    let text = std::fs::read_to_string(world.folder.path().join("countersign.toml")).unwrap();
    world.write("countersign.toml", &text.replace("agent.sock", "other.sock"));
    let error = proxy.server.reload(world.load()).unwrap_err();
    assert!(error.to_string().contains("another source of service identity"), "{error}");
}
