//! Errors of routes, each with a policy that has it and one beside it that has not.

use std::time::Duration;

use super::fixture::*;
use super::route::Route;
use super::*;
use crate::identity::Direction;

fn day(days: u64) -> crate::clock::Timestamp {
    NOW.plus(Duration::from_secs(days * 86_400))
}

fn orders(path: &str) -> Route {
    Route { path: path.parse().unwrap(), ..tables().routes[0].clone() }
}

#[test]
fn with_several_routes_a_rule_says_which() {
    let code = |conditions| {
        let mut parts = with_rules(vec![open(conditions)]);
        parts.routes.push(orders("/next/**"));
        error_codes(parts)
    };
    assert_eq!(code(vec![]), ["route_unnamed"]);
    assert!(code(vec![route(&[1])]).is_empty());
    assert!(code(vec![Condition::Route(condition::RouteTerm::Any)]).is_empty());
    assert!(code(vec![hosts(&["orders.shop.example"])]).is_empty());
    assert_eq!(code(vec![route(&[1]), paths(&["/customers"])]), ["never_holds"]);
}

#[test]
fn routes_are_chosen_by_what_is_judged() {
    let code = |second: Route, rule: Vec<Condition>| {
        let mut parts = with_rules(vec![open(rule)]);
        parts.routes.push(second);
        error_codes(parts)
    };
    assert_eq!(code(orders("/**"), vec![route(&[0, 1])]), ["route_tie"]);
    let outbound = Route { direction: Direction::Outbound, ..orders("/**") };
    assert!(code(outbound, vec![route(&[0, 1])]).is_empty());
    let header = vec![(http::HeaderName::from_static("x-next"), http::HeaderValue::from_static("1"))];
    let by_header = || Route { header: header.clone(), ..orders("/**") };
    assert!(code(by_header(), vec![route(&[0, 1])]).is_empty());
    assert_eq!(code(by_header(), vec![route(&[1])]), ["header_chooses_rules"]);
    let named = |name: &'static str, value: &str| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_str(value).unwrap())
    };
    let two = |first: &[(&'static str, &str)], second: &[(&'static str, &str)]| {
        let mut parts = with_rules(vec![open(vec![route(&[0, 1, 2])])]);
        for header in [first, second] {
            let header = header.iter().map(|(name, value)| named(name, value)).collect();
            parts.routes.push(Route { header, ..orders("/**") });
        }
        error_codes(parts)
    };
    assert!(two(&[("x-a", "1")], &[("x-a", "2")]).is_empty());
    assert_eq!(two(&[("x-a", "1")], &[("x-b", "2")]), ["route_tie"]);
    assert!(two(&[("x-a", "1"), ("x-b", "1")], &[("x-a", "1"), ("x-b", "2")]).is_empty());
    let shadow = Route { shadow_until: Some(day(1)), ..by_header() };
    assert_eq!(code(shadow, vec![route(&[0, 1])]), ["header_chooses_rules"]);
    // what lies behind a route without headers cannot be got by leaving the header away
    let mut parts = with_rules(vec![open(vec![route(&[1, 2])])]);
    parts.routes.extend([orders("/api/**"), Route { header: header.clone(), ..orders("/api/**") }]);
    assert!(error_codes(parts).is_empty());
    // but behind one that is without headers and does not take all of it
    let mut parts = with_rules(vec![open(vec![route(&[1, 2])])]);
    parts.routes.extend([orders("/*/x/**"), Route { header: header.clone(), ..orders("/api/**") }]);
    assert_eq!(error_codes(parts), ["header_chooses_rules"]);
}

#[test]
fn a_route_stays_in_shadow_for_sixty_days_at_most() {
    let code = |until| {
        let mut parts = sample();
        parts.routes[0].shadow_until = Some(until);
        error_codes(parts)
    };
    assert_eq!(code(day(61)), ["shadow_too_long"]);
    assert!(code(day(60)).is_empty());
}
