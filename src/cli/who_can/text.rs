//! The answer for people.

use std::fmt::Write as _;

use super::{Account, AllowAccount, ServiceAccount};
use crate::cli::ink::{Ink, shown};

/// How many ways of one allow are shown with somebody; all are in the JSON.
const SHOWN_MAX: usize = 3;

pub fn text(account: &Account, ink: Ink) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} {}", ink.bold(&account.method), ink.bold(&shown(&account.url)));
    let route =
        account.route.as_deref().map_or("no route takes it".to_owned(), |route| format!("route {route}"));
    let _ = writeln!(out, "{}\n", ink.faint(&format!("{route}, at {}", account.at)));
    let open = account.allows.iter().filter(|allow| !allow.lets_in.is_empty()).count();
    let verdict = match (&account.refused, &account.unenforced_until, open) {
        (Some(why), ..) => {
            ink.red(&format!("nobody: the request is refused before anybody is judged, {why}"))
        }
        (_, Some(until), _) => ink.yellow(&format!(
            "everybody whom nothing below forbids, until {until}: the route is not enforced (shadow_until)"
        )),
        (_, _, 0) => ink.red("nobody"),
        (_, _, 1) => ink.green("let in by 1 allow"),
        (_, _, open) => ink.green(&format!("let in by {open} allows")),
    };
    let _ = writeln!(out, "{verdict}");
    for allow in &account.allows {
        let _ = writeln!(out, "\n{} {}", ink.bold("allow"), ink.bold(&shown(&allow.rule)));
        allow_text(allow, ink, &mut out);
    }
    let lists = [
        ("whatever allows, never", &account.denies),
        ("whatever allows, only with", &account.requires),
        ("in shadow, without effect", &account.shadow),
    ];
    for (title, rules) in lists.iter().filter(|(_, rules)| !rules.is_empty()) {
        let _ = writeln!(out, "\n{title}");
        for rule in *rules {
            let of = if rule.of.is_empty() { "anybody".to_owned() } else { shown(&rule.of.join(", ")) };
            let _ = writeln!(out, "  {} {}: {of}", rule.effect, ink.bold(&shown(&rule.rule)));
        }
    }
    out
}

fn allow_text(allow: &AllowAccount, ink: Ink, out: &mut String) {
    let mut line = |what: &str, text: &str| {
        let _ = writeln!(out, "  {} {text}", ink.faint(&format!("{what:<8}")));
    };
    let mut services: Vec<&ServiceAccount> = Vec::new();
    let mut roles: Vec<(Option<&str>, Vec<&str>, Vec<String>)> = Vec::new();
    let mut actors: Vec<&str> = Vec::new();
    for way in &allow.lets_in {
        services
            .extend(way.services.iter().filter(|service| !services.contains(service)).collect::<Vec<_>>());
        actors.extend(
            way.actors
                .iter()
                .map(|actor| &**actor)
                .filter(|actor| !actors.contains(actor))
                .collect::<Vec<_>>(),
        );
        let (issuer, names) =
            (way.issuer.as_deref(), way.roles.iter().map(|held| &*held.role).collect::<Vec<_>>());
        let by = way.roles.iter().map(|held| held.by.join(" and ")).collect::<Vec<_>>().join(", and ");
        match roles.iter_mut().find(|(of, same, _)| *of == issuer && *same == names) {
            Some((_, _, ways)) if ways.contains(&by) => {}
            Some((_, _, ways)) => ways.push(by),
            None => roles.push((issuer, names, vec![by])),
        }
    }
    for service in &services {
        line(
            "service",
            &format!(
                "{}  {}",
                service.service,
                ink.faint(&format!("{}, {}", service.identity, service.clients))
            ),
        );
    }
    if services.is_empty() && !allow.lets_in.is_empty() {
        line("service", "with a certificate or without");
    }
    for (issuer, names, by) in &roles {
        let text = match (issuer, &names[..]) {
            (None, _) => "with a token or without".to_owned(),
            (Some(issuer), []) => format!("any caller of {issuer}"),
            (Some(issuer), names) => {
                let how = ink.faint(&format!("by {}, of {issuer}", shown(&by.join(" or "))));
                format!("{}  {how}", names.join(" and "))
            }
        };
        line("role", &text);
    }
    if !actors.is_empty() {
        line("actor", &actors.join(", "));
    }
    if !allow.only_if.is_empty() && !allow.lets_in.is_empty() {
        line("only if", &shown(&allow.only_if.join(", ")));
    }
    if allow.lets_in.is_empty() {
        line("nobody", "by this rule");
    }
    for shut in &allow.not {
        let mut whom = Vec::new();
        let lists = [("service", &shut.services), ("role", &shut.roles), ("issuer", &shut.issuers)];
        for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
            whom.push(format!("{what} {}", names.join(" and ")));
        }
        let whom = if whom.is_empty() { "nobody".to_owned() } else { whom.join(", ") };
        line("not", &ink.yellow(&shown(&format!("{whom}: {}", shut.why))));
    }
    for way in allow.lets_in.iter().take(SHOWN_MAX) {
        line("as", &way.explain);
    }
    if allow.lets_in.len() > SHOWN_MAX {
        line("", &format!("and {} more ways: --format json has all", allow.lets_in.len() - SHOWN_MAX));
    }
}
