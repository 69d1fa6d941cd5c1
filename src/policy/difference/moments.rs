//! When what a rule says of a token's times can begin to hold, or end.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::cells::{Demand, numbers};
use crate::policy::claim::ClaimValue;
use crate::policy::pattern::Glob;

const MOMENT: Duration = Duration::from_millis(1);

/// A token is taken from its `iat` and `nbf` on, less the leeway, and a login is as old as an age of some rule at
/// one moment: where rules name such a time, or how it starts, these moments tell requests apart.
pub fn moments(demands: &[&Demand], leeways: &[Duration]) -> Vec<Timestamp> {
    let ages: Vec<Duration> = demands.iter().filter_map(|demand| demand.max_age).collect();
    let mut found = Vec::new();
    for (claim, value) in demands.iter().flat_map(|demand| &demand.claims) {
        let [name] = &claim.0[..] else { continue };
        for (first, last) in times(value) {
            let [first, end] = [first, last + 1].map(Timestamp::from_unix_seconds);
            match &**name {
                "iat" | "nbf" => found.extend(leeways.iter().map(|leeway| first.minus(*leeway))),
                "auth_time" => {
                    found.push(first);
                    // at the age itself it is not too old
                    found.extend(
                        ages.iter().flat_map(|age| [first, end].map(|at| at.plus(*age).plus(MOMENT))),
                    );
                }
                _ => {}
            }
        }
    }
    found
}

fn times(value: &ClaimValue) -> Vec<(i64, i64)> {
    match value {
        ClaimValue::Integer(number) => vec![(*number, *number)],
        ClaimValue::Text(Glob::Exact(text)) => text.parse().map(|at| vec![(at, at)]).unwrap_or_default(),
        // every time begins so
        ClaimValue::Text(Glob::Prefix(start)) if start.is_empty() => Vec::new(),
        ClaimValue::Text(Glob::Prefix(start)) => numbers(start),
        ClaimValue::Boolean(_) => Vec::new(),
    }
}
