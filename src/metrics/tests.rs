//! What is counted is what is printed.

use super::*;

#[derive(Clone, Copy)]
enum Colour {
    Red,
    Blue,
}

impl Label for Colour {
    const COUNT: usize = 2;

    fn all() -> Vec<Colour> {
        vec![Colour::Red, Colour::Blue]
    }

    fn labels(self) -> Vec<(&'static str, &'static str)> {
        vec![("colour", if matches!(self, Colour::Red) { "red" } else { "blue" })]
    }

    fn position(self) -> usize {
        self as usize
    }
}

#[test]
fn pairs_stand_where_they_say() {
    let pairs = <(Colour, Colour)>::all();
    assert_eq!(pairs.len(), <(Colour, Colour)>::COUNT);
    for (position, pair) in pairs.iter().enumerate() {
        assert_eq!(pair.position(), position);
    }
    assert_eq!(pairs[1].labels(), [("colour", "red"), ("colour", "blue")]);
}

#[test]
fn what_is_counted_is_what_is_printed() {
    let metrics = Metrics::new();
    let colours = metrics.counter_by::<Colour>("colours", "Colours seen");
    colours.inc(Colour::Blue);
    colours.inc(Colour::Blue);
    assert_eq!((colours.get(Colour::Red), colours.get(Colour::Blue)), (0, 2));
    metrics.decision_cache.hits.inc();
    metrics.issuer("corp").fetched.set(1_700_000_000);
    metrics.issuer("corp").fetches.inc();
    metrics.expiry.certificate("identity", Timestamp::from_unix_seconds(1_800_000_000));
    metrics.upstream_health("orders", 3, 1);
    metrics.reloaded(false, Timestamp::from_unix_seconds(5));
    metrics.policy_in_force(&"sha256:old", 1);
    metrics.policy_in_force(&"sha256:new", 2);
    metrics.limit_hit(Limit::HeaderBytesMax);
    metrics.cache_holds("tokens", 7);
    metrics.issuer("gone").fetches.inc();
    metrics.upstream_health("gone", 1, 0);
    metrics.expiry.certificate("gone", Timestamp::MAX);
    metrics.forget_issuer("gone");
    metrics.forget_upstream("gone");
    metrics.expiry.forget_certificate("gone");
    metrics.decided(Duration::from_micros(3));
    metrics.request_finished(Duration::from_millis(7));
    let text = metrics.text().unwrap();
    let lines = [
        "countersign_colours_total{colour=\"blue\"} 2",
        "countersign_colours_total{colour=\"red\"} 0",
        "countersign_cache_lookups_total{cache=\"decisions\",result=\"hit\"} 1",
        "countersign_cache_lookups_total{cache=\"tokens\",result=\"miss\"} 0",
        "countersign_issuer_keys_fetched_timestamp_seconds{issuer=\"corp\"} 1700000000",
        "countersign_issuer_fetches_total{issuer=\"corp\"} 1",
        "countersign_issuer_fetch_failures_total{issuer=\"corp\"} 0",
        "countersign_certificate_expiry_timestamp_seconds{certificate=\"identity\"} 1800000000",
        "countersign_upstream_servers{upstream=\"orders\"} 3",
        "countersign_upstream_servers_ejected{upstream=\"orders\"} 1",
        "countersign_config_last_reload_success 0",
        "countersign_policy_info{hash=\"sha256:new\"} 1",
        "countersign_policy_generation 2",
        "countersign_cache_entries{cache=\"tokens\"} 7",
        "countersign_tasks 0",
        "countersign_limits_hit_total{limit=\"header_bytes_max\"} 1",
        "countersign_decision_duration_seconds_bucket{le=\"0.000005\"} 1",
        "countersign_request_duration_seconds_count 1",
        concat!("countersign_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ];
    for line in lines {
        assert!(text.lines().any(|printed| printed == line), "{line} in\n{text}");
    }
    assert!(!text.contains("sha256:old"));
}
