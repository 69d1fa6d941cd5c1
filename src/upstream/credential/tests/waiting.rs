//! Who waits for a token endpoint, and for others who wait for it.

use super::*;

#[tokio::test]
async fn whoever_waits_for_an_endpoint_waits_once_and_then_it_rests_for_all() {
    let desk = Desk::open().await;
    let exchanges = desk.exchanges(None);
    desk.provider.gate.forget_permits(usize::MAX);
    let ask = |name: String| {
        let (exchanges, expires) = (Arc::clone(&exchanges), desk.clock.now().plus(SECOND * 100));
        tokio::spawn(async move { exchanges.token_for(Subject { token: &name, expires }).await })
    };
    let all: Vec<_> = (0..64).map(|at| ask(format!("caller-{at}"))).collect();
    while desk.provider.hits(TOKEN) < 64 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let late = ask("one-more".to_owned());
    for outcome in futures_util::future::join_all(all.into_iter().chain([late])).await {
        assert!(matches!(outcome.unwrap(), Err(CredentialError::Unavailable(_))));
    }
    assert!(began.elapsed() < SECOND * 11, "{:?}", began.elapsed());
    tokio::time::resume();
    desk.provider.gate.add_permits(1000);
    for name in ["another", "and another"] {
        let refused = ask(name.to_owned()).await.unwrap();
        assert!(matches!(refused, Err(CredentialError::Unavailable(_))), "{refused:?}");
    }
    assert_eq!(desk.provider.hits(TOKEN), 64);
    desk.clock.advance(SECOND);
    assert_eq!(shown(ask("another".to_owned()).await.unwrap()), "Bearer first");
    assert_eq!(desk.provider.hits(TOKEN), 65);
}

#[tokio::test]
async fn who_has_no_time_left_after_waiting_for_others_keeps_nobody_else_from_asking() {
    let desk = Desk::open().await;
    let exchanges = desk.exchanges(None);
    desk.provider.gate.forget_permits(usize::MAX);
    let ask = |name: String| {
        let (exchanges, expires) = (Arc::clone(&exchanges), desk.clock.now().plus(SECOND * 100));
        tokio::spawn(async move { exchanges.token_for(Subject { token: &name, expires }).await })
    };
    let wave = |name| (0..64).map(|at| ask(format!("{name}-{at}"))).collect::<Vec<_>>();
    let asked = async |times| {
        while desk.provider.hits(TOKEN) < times {
            tokio::task::yield_now().await
        }
    };
    let five_seconds_later = async || {
        tokio::time::pause();
        tokio::time::advance(SECOND * 5).await;
        tokio::time::resume();
    };
    let first = wave("first");
    asked(64).await;
    let second = wave("second");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    five_seconds_later().await;
    desk.provider.gate.add_permits(64);
    asked(128).await;
    five_seconds_later().await;
    for outcome in futures_util::future::join_all(first).await {
        assert_eq!(shown(outcome.unwrap()), "Bearer first");
    }
    for outcome in futures_util::future::join_all(second).await {
        assert_eq!(outcome.unwrap(), Err(CredentialError::Unavailable(exchange::BUSY.into())));
    }
    assert_eq!(exchanges.status().failure, None);
    desk.provider.gate.add_permits(1000);
    for name in ["another", "second-7"] {
        assert_eq!(shown(ask(name.to_owned()).await.unwrap()), "Bearer first");
    }
}
