//! Names become positions: services, roles and issuers, and what a wrong name was meant to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{Diagnostics, suggestion};
use super::file::File;
use super::file_policy::{self as typed, ClientId};
use super::read::{Keyed, List};
use super::source::{At, Span};
use crate::identity::{Name, TrustDomain};
use crate::policy::IssuerId;
use crate::policy::claim::{ClaimPath, ClaimTest};
use crate::policy::pattern::Glob;
use crate::policy::role::{
    CarriedClients, ClientPattern, PeerPattern, Role, RoleEntries, RoleEntry, Service,
};

/// The names of one kind of thing and the positions they stand for.
pub struct Names {
    /// As `service`.
    kind: &'static str,
    /// As `unknown_service`.
    code: &'static str,
    /// Without a position: defined, but with an error that is reported already.
    ids: BTreeMap<String, Option<u32>>,
}

impl Names {
    /// Gives positions to what was resolved, in the order of the names.
    pub fn number<T>(
        kind: &'static str,
        code: &'static str,
        things: impl IntoIterator<Item = (String, Option<T>)>,
    ) -> (Names, Vec<T>) {
        let mut ids = BTreeMap::new();
        let mut numbered = Vec::new();
        for (name, thing) in things {
            let id = thing.is_some().then(|| u32::try_from(numbered.len()).unwrap_or(u32::MAX));
            numbered.extend(thing);
            ids.insert(name, id);
        }
        (Names { kind, code, ids }, numbered)
    }

    pub fn find(&self, name: &str, span: Span, found: &mut Diagnostics) -> Option<u32> {
        match self.ids.get(name) {
            Some(id) => *id,
            None => {
                let message = format!("no {} is called `{name}`", self.kind);
                found.error(self.code, span, message, suggestion(name, self.ids.keys().map(String::as_str)));
                None
            }
        }
    }

    /// Every name of a list, or `None` if one of them is unknown.
    pub fn find_all<Id>(
        &self,
        names: &List<Name>,
        id: fn(u32) -> Id,
        found: &mut Diagnostics,
    ) -> Option<Vec<Id>> {
        let ids: Vec<_> =
            names.iter().map(|name| self.find(name.value.as_str(), name.span, found).map(id)).collect();
        ids.into_iter().collect()
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

/// Refuses `any` and `none` as names, since rules use them as words.
pub fn refuse_reserved<T>(kind: &str, table: &Option<At<Keyed<Name, T>>>, found: &mut Diagnostics) {
    for (name, _) in entries(table) {
        if name.value.is_reserved() {
            let message = format!("`{}` is a word of rules and cannot name a {kind}", name.value);
            found.error("reserved_name", name.span, message, "choose another name");
        }
    }
}

/// The entries of a table that may not be there.
pub fn entries<K, T>(table: &Option<At<Keyed<K, T>>>) -> &[(At<K>, At<T>)] {
    table.as_ref().map_or(&[], |table| &table.value)
}

/// The items of a list that may not be there.
pub fn items<T>(list: &Option<At<List<T>>>) -> &[At<T>] {
    list.as_ref().map_or(&[], |list| &list.value)
}

fn globs(list: &Option<At<List<Glob>>>) -> Vec<Glob> {
    items(list).iter().map(|glob| glob.value.clone()).collect()
}

pub fn texts(list: &Option<At<List<String>>>) -> Vec<Arc<str>> {
    items(list).iter().map(|text| text.value.as_str().into()).collect()
}

pub fn claim_tests(claims: &Option<At<typed::Claims>>) -> Vec<ClaimTest> {
    let test = |(claim, values): &(At<String>, At<List<_>>)| ClaimTest {
        claim: ClaimPath(vec![claim.value.as_str().into()]),
        values: values.value.iter().map(|value: &At<_>| Clone::clone(&value.value)).collect(),
    };
    entries(claims).iter().map(test).collect()
}

pub fn services(file: &File, issuers: &Names, found: &mut Diagnostics) -> (Names, Vec<Service>) {
    refuse_reserved("service", &file.service, found);
    let services: Vec<_> = entries(&file.service)
        .iter()
        .map(|(name, table)| (name.value.to_string(), service(name, table, file, issuers, found)))
        .collect();
    Names::number("service", "unknown_service", services)
}

fn service(
    name: &At<Name>,
    table: &At<typed::Service>,
    file: &File,
    issuers: &Names,
    found: &mut Diagnostics,
) -> Option<Service> {
    let typed = &table.value;
    let mut identities = Vec::new();
    for pattern in items(&typed.spiffe_id) {
        known_trust_domain(file, pattern.value.trust_domain(), pattern.span, found);
        identities.push(PeerPattern::Spiffe(pattern.value.clone()));
    }
    match (&typed.dns_name, &typed.trust_domain) {
        (Some(names), Some(trust_domain)) => {
            known_trust_domain(file, &trust_domain.value, trust_domain.span, found);
            identities.extend(names.value.iter().map(|name| PeerPattern::Dns {
                name: name.value.clone(),
                trust_domain: trust_domain.value.clone(),
            }));
        }
        (Some(names), None) if !typed.gives("trust_domain") => found.error(
            "missing_key",
            names.span,
            "a `dns_name` means nothing without the CA that vouches for it",
            "add `trust_domain = \"…\"`, the trust domain whose CA issues the certificate",
        ),
        (None, Some(trust_domain)) if !typed.gives("dns_name") => found.error(
            "contradiction",
            trust_domain.span,
            "`trust_domain` belongs to `dns_name`; a SPIFFE ID names its own",
            "take it out, or add `dns_name`",
        ),
        _ => {}
    }
    if !typed.gives("spiffe_id") && !typed.gives("dns_name") {
        found.error(
            "missing_key",
            name.span,
            format!("service `{}` has no identity", name.value),
            "add `spiffe_id = \"spiffe://…\"`, or `dns_name` with its `trust_domain`",
        );
    }
    let clients = match &typed.client_id {
        // What was given and is an error must not look as if it had been left out.
        None if typed.gives("client_id") => CarriedClients::Any,
        None => CarriedClients::Unstated,
        Some(list) => carried(list, issuers, found)?,
    };
    (!identities.is_empty()).then(|| Service { name: name.value.clone(), identities, clients })
}

fn carried(list: &At<List<ClientId>>, issuers: &Names, found: &mut Diagnostics) -> Option<CarriedClients> {
    let is_any = |id: &ClientId| matches!(id, ClientId::Bare(Glob::Exact(text)) if &**text == "any");
    if let [only] = list.value.as_slice()
        && is_any(&only.value)
    {
        return Some(CarriedClients::Any);
    }
    let mut clients = Some(Vec::new());
    for id in &list.value {
        let client = match &id.value {
            bare if is_any(bare) => {
                stands_alone("any", id.span, found);
                None
            }
            ClientId::Bare(client) if issuers.len() == 1 => {
                Some(ClientPattern { issuer: IssuerId(0), client: client.clone() })
            }
            ClientId::Bare(_) => {
                let message = "a client id means nothing without its issuer";
                let remedy = "write `{ issuer = \"…\", client = \"…\" }`; a bare one is allowed where one issuer is \
                              configured";
                found.error("client_without_issuer", id.span, message, remedy);
                None
            }
            ClientId::Issued(issued) => {
                let issuer = issued
                    .issuer
                    .as_ref()
                    .and_then(|issuer| issuers.find(issuer.value.as_str(), issuer.span, found));
                issuer.zip(issued.client.as_ref()).map(|(issuer, client)| ClientPattern {
                    issuer: IssuerId(issuer),
                    client: client.value.clone(),
                })
            }
        };
        clients = clients.zip(client).map(|(mut clients, client)| {
            clients.push(client);
            clients
        });
    }
    clients.map(CarriedClients::Listed)
}

pub fn stands_alone(word: &str, span: Span, found: &mut Diagnostics) {
    let message = format!("`{word}` stands beside names");
    found.error("word_in_list", span, message, format!("write `\"{word}\"` alone, or the names alone"));
}

pub fn known_trust_domain(file: &File, wanted: &TrustDomain, span: Span, found: &mut Diagnostics) {
    let known = entries(&file.trust_domain).iter().map(|(name, _)| name.value.as_str());
    if !known.clone().any(|name| name == wanted.as_str()) {
        let message = format!("no trust domain is called `{wanted}`");
        found.error("unknown_trust_domain", span, message, suggestion(wanted.as_str(), known));
    }
}

pub fn roles(file: &File, issuers: &Names, found: &mut Diagnostics) -> (Names, Vec<Role>) {
    refuse_reserved("role", &file.role, found);
    let roles: Vec<_> = entries(&file.role)
        .iter()
        .map(|(name, table)| (name.value.to_string(), role(name, &table.value, issuers, found)))
        .collect();
    Names::number("role", "unknown_role", roles)
}

fn role(name: &At<Name>, typed: &typed::Role, issuers: &Names, found: &mut Diagnostics) -> Option<Role> {
    let mut resolve = |entries: &At<List<typed::RoleEntry>>| -> Option<Vec<RoleEntry>> {
        let entries: Vec<_> = entries.value.iter().map(|entry| role_entry(entry, issuers, found)).collect();
        entries.into_iter().collect()
    };
    let entries = match (&typed.any_of, &typed.all_of) {
        (Some(any), None) => RoleEntries::AnyOf(resolve(any)?),
        (None, Some(all)) => RoleEntries::AllOf(resolve(all)?),
        (Some(any), Some(all)) => {
            found.conflict(
                "contradiction",
                (all.span, any.span),
                format!("role `{}` has both `any_of` and `all_of`", name.value),
                "keep one; a rule can ask for several roles with `role = { all = […] }`",
            );
            return None;
        }
        (None, None) => {
            if !typed.gives("any_of") && !typed.gives("all_of") {
                found.error(
                    "missing_key",
                    name.span,
                    format!("role `{}` has no entry", name.value),
                    "add `any_of = [{ issuer = \"…\", scope = \"…\" }]`",
                );
            }
            return None;
        }
    };
    Some(Role { name: name.value.clone(), entries })
}

fn role_entry(entry: &At<typed::RoleEntry>, issuers: &Names, found: &mut Diagnostics) -> Option<RoleEntry> {
    let typed = &entry.value;
    let issuer = typed.issuer.as_ref()?;
    let issuer = issuers.find(issuer.value.as_str(), issuer.span, found)?;
    // Half an entry asks for less than the entry.
    typed.is_read().then(|| RoleEntry {
        issuer: IssuerId(issuer),
        subject: globs(&typed.subject),
        client: globs(&typed.client),
        scope: texts(&typed.scope),
        group: texts(&typed.group),
        role: texts(&typed.role),
        claim: claim_tests(&typed.claim),
        actor_subject: globs(&typed.actor_subject),
    })
}
