//! The errors that keep a policy from serving, all of them at once, each with what to write instead.
//!
//! What can be told from a condition alone is an error where it is parsed; here stands what takes a
//! whole rule, or the whole policy, to see.

use std::collections::HashMap;
use std::time::Duration;

use super::compiled::PolicyParts;
use super::condition::{Condition, Kind, RoleTerm, ServiceTerm};
use super::lint::{Finding, Item, Report};
use super::reach::{self, Region};
use super::role::{CarriedClients, Role, RoleEntries};
use super::route::RouteTable;
use super::rule::{Effect, Rule, stated};
use super::{RoleId, RouteId, RuleId, ServiceId, evade, never};
use crate::clock::Timestamp;

const SHADOW_DAYS_MAX: u64 = 60;

pub(super) fn errors(parts: &PolicyParts, routes: &RouteTable, today: Timestamp) -> Vec<Finding> {
    let mut report = Report::default();
    let regions: Vec<Region<'_>> = parts.rules.iter().map(|rule| Region::of(rule, parts)).collect();
    names_once(parts, &mut report);
    for ((rule, id), region) in parts.rules.iter().zip((0..).map(RuleId)).zip(&regions) {
        both_signatures(rule, id, &mut report);
        empty_lists(rule, id, &mut report);
        times(rule, id, &mut report);
        demands(rule, id, &mut report);
        claims(rule, id, parts, &mut report);
        named_routes(rule, id, parts, &mut report);
        clients_stated(rule, id, parts, &mut report);
        if rule.conditions.iter().any(Condition::is_empty_list) {
            continue;
        }
        for impossible in never::reasons(rule, region, parts) {
            let message = format!("`{}` can never hold: {}", rule.name, impossible.why);
            report.error(Item::Rule(id), impossible.key, "never_holds", message, impossible.remedy);
        }
    }
    report.found.extend(evade::errors(parts, &regions));
    parts.roles.iter().zip((0..).map(RoleId)).for_each(|(role, id)| role_entries(role, id, &mut report));
    for (service, id) in parts.services.iter().zip((0..).map(ServiceId)) {
        let unlisted = matches!(&service.clients, CarriedClients::Listed(clients) if clients.is_empty());
        let empty = [(service.identities.is_empty(), "spiffe_id"), (unlisted, "client_id")];
        for (_, key) in empty.into_iter().filter(|(empty, _)| *empty) {
            let message = format!("`[service.{}]` has an empty `{key}`", service.name);
            let remedy = "name at least one".to_owned();
            report.error(Item::Service(id), Some(key), "empty_list", message, remedy);
        }
    }
    route_choice(parts, routes, &mut report);
    shadow_routes(parts, today, &mut report);
    report.found
}

fn names_once(parts: &PolicyParts, report: &mut Report) {
    let mut seen = HashMap::new();
    for (rule, id) in parts.rules.iter().zip((0..).map(RuleId)) {
        if rule.name.trim().is_empty() {
            let remedy = "say in a few words what the rule is for; records and denials cite it".to_owned();
            report.error(
                Item::Rule(id),
                Some("name"),
                "rule_unnamed",
                "a rule has no name".to_owned(),
                remedy,
            );
        } else if seen.insert(&rule.name, id).is_some() {
            let message = format!("the rule name `{}` is used twice", rule.name);
            let remedy = "rename one of the two: records cite rules by name".to_owned();
            report.error(Item::Rule(id), Some("name"), "duplicate_rule", message, remedy);
        }
    }
}

/// An allow says both signatures aloud, and reads none that it waives; a require demands no absence.
fn both_signatures(rule: &Rule, id: RuleId, report: &mut Report) {
    let item = Item::Rule(id);
    if rule.effect == Effect::Allow {
        if rule.service().is_none() {
            report.error(
                item,
                None,
                "allow_without_service",
                format!("`{}` does not say which service may carry the request", rule.name),
                "add `service = \"NAME\"`, `service = \"any\"` for any service named in this file, or \
                 `service = \"none\"` to waive the certificate"
                    .to_owned(),
            );
        }
        if rule.role().is_none() {
            report.error(
                item,
                None,
                "allow_without_role",
                format!("`{}` does not say which callers it is for", rule.name),
                "add `role = \"NAME\"`, `role = \"any\"` for any verified caller, or `role = \"none\"` to waive \
                 the token"
                    .to_owned(),
            );
        }
    }
    if rule.waives_caller() {
        for condition in rule.conditions.iter().filter(|condition| condition.reads_caller()) {
            report.error(
                item,
                Some(condition.key()),
                "waived_but_read",
                format!("`{}` waives the token and reads it in `{}`", rule.name, condition.key()),
                format!(
                    "take out `{}`, or name a role (or `\"any\"`) in place of `\"none\"`",
                    condition.key()
                ),
            );
        }
    }
    if rule.effect == Effect::Require {
        let none = [
            (rule.service() == Some(&ServiceTerm::None), "service"),
            (rule.role() == Some(&RoleTerm::None), "role"),
        ];
        for (_, key) in none.into_iter().filter(|(none, _)| *none) {
            let message = format!("`{}` demands that a credential is absent", rule.name);
            let remedy = format!("a require demands what must be there; write a deny with `{key}` instead");
            report.error(item, Some(key), "require_none", message, remedy);
        }
    }
}

fn empty_lists(rule: &Rule, id: RuleId, report: &mut Report) {
    for condition in rule.conditions.iter().filter(|condition| condition.is_empty_list()) {
        let message = format!("`{}` has an empty `{}`", rule.name, condition.key());
        let remedy = format!("name at least one, or leave `{}` out", condition.key());
        report.error(Item::Rule(id), Some(condition.key()), "empty_list", message, remedy);
    }
}

fn times(rule: &Rule, id: RuleId, report: &mut Report) {
    if rule.effect == Effect::Allow {
        return;
    }
    let given =
        [(rule.not_before != Timestamp::MIN, "not_before"), (rule.expires != Timestamp::MAX, "expires")];
    for (_, key) in given.into_iter().filter(|(given, _)| *given) {
        report.error(
            Item::Rule(id),
            Some(key),
            "rule_time",
            format!("`{key}` on the {} `{}` would open access by the clock", rule.effect.as_str(), rule.name),
            format!(
                "take out `{key}` and remove the rule by hand when its time is over; an allow may have times"
            ),
        );
    }
}

/// A require that demands nothing is met by every request.
fn demands(rule: &Rule, id: RuleId, report: &mut Report) {
    let reach_only = rule.conditions.iter().all(|condition| condition.kind() == Kind::Action);
    if rule.effect == Effect::Require && reach_only {
        let message = format!("`{}` reaches requests and demands nothing of them", rule.name);
        let remedy = "add what it demands, as `role`, `acr` or `max_age`, or make it a deny".to_owned();
        report.error(Item::Rule(id), None, "require_demands_nothing", message, remedy);
    }
}

/// A claim means nothing without its issuer, and a segment must be in every path to be compared.
fn claims(rule: &Rule, id: RuleId, parts: &PolicyParts, report: &mut Report) {
    let item = Item::Rule(id);
    let reads = rule.conditions.iter().find(|c| matches!(c, Condition::Claim(_) | Condition::MatchClaim(_)));
    if let Some(condition) = reads
        && reach::issuers(rule, parts).count_ones(..) > 1
    {
        report.error(
            item,
            Some(condition.key()),
            "claim_without_issuer",
            format!("`{}` reads a claim of more than one issuer in `{}`", rule.name, condition.key()),
            "add `issuer = \"NAME\"`, or a role whose entries name one issuer only".to_owned(),
        );
    }
    for test in rule.match_claims() {
        let everywhere =
            rule.paths().is_some_and(|paths| paths.iter().all(|path| path.position(&test.segment).is_some()));
        if !everywhere {
            report.error(
                item,
                Some("match_claim"),
                "match_claim_segment",
                format!("`{}` compares `{{{}}}`, which is not in every path of it", rule.name, test.segment),
                format!("write `{{{}}}` as a segment of each `path` of the rule", test.segment),
            );
        }
    }
}

fn named_routes(rule: &Rule, id: RuleId, parts: &PolicyParts, report: &mut Report) {
    if parts.routes.len() > 1 && stated!(rule, Route).is_none() && rule.hosts().is_empty() {
        report.error(
            Item::Rule(id),
            None,
            "route_unnamed",
            format!("`{}` does not say which of the {} routes it speaks of", rule.name, parts.routes.len()),
            "add `route = \"NAME\"` or `host = \"NAME\"`, or `route = \"any\"` for all of them".to_owned(),
        );
    }
}

/// Token mapping is what makes a stolen token useless elsewhere, so nobody gets by without it.
fn clients_stated(rule: &Rule, id: RuleId, parts: &PolicyParts, report: &mut Report) {
    if rule.effect != Effect::Allow || rule.waives_caller() {
        return;
    }
    for service in reach::services(rule, parts).iter().map(|id| &parts.services[id.index()]) {
        if matches!(service.clients, CarriedClients::Unstated) {
            report.error(
                Item::Rule(id),
                Some("service"),
                "service_without_client_id",
                format!("`{}` takes tokens from `{}`, which does not say whose it may carry", rule.name, service.name),
                format!(
                    "add `client_id` to `[service.{}]`: the OAuth clients whose tokens it carries, or `\"any\"`",
                    service.name
                ),
            );
        }
    }
}

fn role_entries(role: &Role, id: RoleId, report: &mut Report) {
    let item = Item::Role(id);
    if role.entries().is_empty() {
        let message = format!("`[role.{}]` has no entries", role.name);
        let remedy = "give `any_of` or `all_of` at least one entry".to_owned();
        report.error(item, None, "empty_list", message, remedy);
    }
    if role.entries().iter().any(super::role::RoleEntry::is_empty) {
        report.error(
            item,
            None,
            "role_entry_empty",
            format!("`[role.{}]` has an entry that names nothing but its issuer", role.name),
            "add `subject`, `client`, `scope`, `group`, `role`, `claim` or `actor_subject`; for any verified \
             caller a rule says `role = \"any\"`"
                .to_owned(),
        );
    }
    if let RoleEntries::AllOf(entries) = &role.entries
        && entries.windows(2).any(|pair| pair[0].issuer != pair[1].issuer)
    {
        report.error(
            item,
            Some("all_of"),
            "never_holds",
            format!("nobody can have the role `{}`: it asks one token for two issuers", role.name),
            "write `any_of`, or entries of one issuer".to_owned(),
        );
    }
}

fn route_choice(parts: &PolicyParts, routes: &RouteTable, report: &mut Report) {
    let name = |id: RouteId| &parts.routes[id.index()].name;
    for (first, second) in routes.ties() {
        report.error(
            Item::Route(second),
            Some("path"),
            "route_tie",
            format!("the routes `{}` and `{}` fit the same requests equally well", name(first), name(second)),
            "make one `host` or `path` narrower than the other, or join the two".to_owned(),
        );
    }
    for (asked_for, other) in routes.chosen_by_header() {
        let judged_apart = parts.rules.iter().find(|rule| {
            rule.routes().is_some_and(|named| named.contains(&asked_for) != named.contains(&other))
        });
        let shadow_differs =
            parts.routes[asked_for.index()].shadow_until != parts.routes[other.index()].shadow_until;
        let why = match judged_apart {
            Some(rule) => format!("`{}` names only one of them", rule.name),
            None if shadow_differs => "`shadow_until` differs".to_owned(),
            None => continue,
        };
        report.error(
            Item::Route(asked_for),
            Some("header"),
            "header_chooses_rules",
            format!("a header chooses between `{}` and `{}`, and {why}", name(asked_for), name(other)),
            "name both routes in the same rules: what a client may choose must be judged alike".to_owned(),
        );
    }
}

fn shadow_routes(parts: &PolicyParts, today: Timestamp, report: &mut Report) {
    let latest = today.plus(Duration::from_secs(SHADOW_DAYS_MAX * 86_400));
    for (route, id) in parts.routes.iter().zip((0..).map(RouteId)) {
        if route.shadow_until.is_some_and(|until| until > latest) {
            report.error(
                Item::Route(id),
                Some("shadow_until"),
                "shadow_too_long",
                format!("`shadow_until` of `{}` is more than {SHADOW_DAYS_MAX} days ahead", route.name),
                format!("give a day before {}, and a new one when it comes", day(latest)),
            );
        }
    }
}

/// As the file has dates.
fn day(at: Timestamp) -> String {
    at.to_string().chars().take("2027-01-01".len()).collect()
}
