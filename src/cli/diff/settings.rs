//! What decides before any rule, key by key, and whether its change may let in what was refused. Whatever is not
//! known to narrow may widen.

use std::fs;

use serde::Serialize;
use toml::{Table, Value};

use crate::config::Config;
use crate::tls::Trust;
use crate::token::KeySource;

/// One key that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: String,
    pub old: String,
    pub new: String,
    pub may_widen: bool,
    /// In a few words.
    pub effect: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Its requests are among those that were judged.
    Judged,
    /// It decides about nobody's access.
    Nothing,
    Narrows,
    /// Who is served is served by something else.
    Elsewhere,
    MayWiden,
}

const ABSENT: &str = "-";

/// All keys that differ between two resolved configurations, but for those that are compared by requests.
pub fn changes(old: &Table, new: &Table) -> Vec<Setting> {
    let mut found = Vec::new();
    walk(&mut Vec::new(), Some(old), Some(new), &mut found);
    found
}

/// Files that may be called the same and are not: CAs and revocation lists, and the keys of issuers. Another CA or key is
/// another who can sign.
pub fn contents(old: &Config, new: &Config) -> Vec<Setting> {
    let changed = |key: String| Setting {
        key,
        old: "its files".to_owned(),
        new: "other contents".to_owned(),
        may_widen: true,
        effect: "may widen",
    };
    let mut found = Vec::new();
    if let [Some(old), Some(new)] = [old, new].map(trust) {
        found.extend(old.changed(new).map(|domain| changed(format!("trust_domain.{domain}"))));
    }
    for issuer in &new.issuers {
        let Some(before) = old.issuers.iter().find(|before| before.name == issuer.name) else { continue };
        if before.keys.ca != issuer.keys.ca {
            found.push(changed(format!("issuer.{}.ca", issuer.name)));
        }
        if let (KeySource::File(before), KeySource::File(now)) = (&before.keys.source, &issuer.keys.source)
            // One that cannot be read is no key set that is known to be the same.
            && !matches!((fs::read(before), fs::read(now)), (Ok(before), Ok(now)) if before == now)
        {
            found.push(changed(format!("issuer.{}.jwks", issuer.name)));
        }
    }
    found
}

/// All trust domains, where some listener asks for certificates.
fn trust(config: &Config) -> Option<&Trust> {
    config.listeners.iter().find_map(|listener| listener.tls.as_ref()?.clients.trust().map(AsRef::as_ref))
}

fn walk(path: &mut Vec<String>, old: Option<&Table>, new: Option<&Table>, found: &mut Vec<Setting>) {
    let mut keys: Vec<&String> = old.into_iter().chain(new).flat_map(Table::keys).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let [one, other] = [old, new].map(|table| table.and_then(|table| table.get(key)));
        if one == other {
            continue;
        }
        path.push(key.clone());
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let effect = effect(&names, one, other);
        let tables = [one, other].map(|value| value.and_then(Value::as_table));
        match (effect, tables) {
            (Some(Effect::Judged | Effect::Nothing), _) => {}
            (None, [None, None]) => found.push(setting(path, one, other, Effect::MayWiden)),
            (None, [one, other]) => walk(path, one, other, found),
            (Some(effect), _) => found.push(setting(path, one, other, effect)),
        }
        path.pop();
    }
}

fn setting(path: &[String], old: Option<&Value>, new: Option<&Value>, effect: Effect) -> Setting {
    let shown = |value: Option<&Value>| value.map_or(ABSENT.to_owned(), short);
    Setting {
        key: path.join("."),
        old: shown(old),
        new: shown(new),
        may_widen: effect == Effect::MayWiden,
        effect: match effect {
            Effect::Judged | Effect::Nothing => "",
            Effect::Narrows => "narrows",
            Effect::Elsewhere => "another server answers",
            Effect::MayWiden => "may widen",
        },
    }
}

/// A table is shown by its name alone: what matters of it is told key by key, or is that it is there.
fn short(value: &Value) -> String {
    match value {
        Value::Table(_) => "…".to_owned(),
        other => other.to_string(),
    }
}

/// `None` where the keys below tell more.
fn effect(path: &[&str], old: Option<&Value>, new: Option<&Value>) -> Option<Effect> {
    use Effect::{Elsewhere, Judged, MayWiden, Narrows, Nothing};
    let gone = new.is_none();
    let narrows = |does: bool| Some(if does { Narrows } else { MayWiden });
    match path {
        ["version" | "lint" | "log" | "admin" | "cache" | "identity"] => Some(Nothing),
        ["allow" | "deny" | "require" | "role" | "service"] => Some(Judged),
        ["proxy", "name" | "workers"] => Some(Nothing),
        ["proxy", "odd_header_names"] => narrows(is(new, "refuse")),
        ["audit", "required"] => narrows(new.and_then(Value::as_bool) == Some(true)),
        ["audit", _] => Some(Nothing),
        // what it vouched for, or let in, is refused now
        ["trust_domain" | "listener" | "trusted_hop" | "issuer", _] if gone => Some(Narrows),
        ["trust_domain" | "listener" | "trusted_hop" | "issuer", _] if old.is_none() => Some(MayWiden),
        ["trust_domain", _, "crl"] => narrows(old.is_none()),
        ["listener", _, "client_certificate"] => {
            narrows(is(new, "required") || (new.is_none() && old.is_some()))
        }
        ["listener", _, "allow_plaintext"] => narrows(new.and_then(Value::as_bool) != Some(true)),
        ["listener", _, "certificate" | "private_key"] => Some(Nothing),
        ["trusted_hop", _, "address"] => narrows(is_subset(new, old)),
        ["issuer", _, "actor"] => Some(Judged),
        // what it read there may have been of a wrong type, for which a token is refused
        ["issuer", _, "claims", _] if old.is_some() => Some(MayWiden),
        ["issuer", _, "claims", _] => Some(Judged),
        ["issuer", _, "url" | "audience" | "algorithms" | "signer"] => narrows(is_subset(new, old)),
        ["issuer", _, "requires"] => narrows(is_subset(old, new)),
        ["issuer", _, "only"] => narrows(old.is_none()),
        ["issuer", _, "leeway" | "max_stale"] => narrows(is_less(new, old)),
        ["issuer", _, "allow_http" | "allow_private_addresses"] => {
            narrows(new.and_then(Value::as_bool) != Some(true))
        }
        ["limit", _] | ["route", _, "total_timeout" | "body_bytes_max"] => narrows(is_less(new, old)),
        ["route", _, "mode" | "host" | "path" | "header" | "upstream" | "variant" | "shadow_until"] => {
            Some(Judged)
        }
        ["route", _, "forward_authorization"] => narrows(new.and_then(Value::as_bool) != Some(true)),
        ["route", _, "upgrade"] => narrows(is_subset(new, old)),
        ["route", _, "cors"] if gone => Some(Narrows),
        ["route", _, "cors", "origins"] => narrows(is_subset(new, old)),
        // a route that is new, or gone: its requests are judged, and its defaults are nobody's change
        ["route", _] if gone => Some(Judged),
        ["upstream", _] if gone || old.is_none() => Some(Judged),
        ["upstream", _, "server" | "weight" | "server_spiffe_id" | "ca"] => Some(Elsewhere),
        ["upstream", _, "credential", ..] => Some(MayWiden),
        ["upstream", _, _] => Some(Nothing),
        _ => None,
    }
}

fn is(value: Option<&Value>, word: &str) -> bool {
    value.and_then(Value::as_str) == Some(word)
}

/// Whether all members of the one are among the other's; a value is a list of one.
fn is_subset(some: Option<&Value>, all: Option<&Value>) -> bool {
    let members = |value: Option<&'_ Value>| match value {
        Some(Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    let all = members(all);
    members(some).iter().all(|one| all.contains(one))
}

fn is_less(new: Option<&Value>, old: Option<&Value>) -> bool {
    matches!((amount(new), amount(old)), (Some(new), Some(old)) if new < old)
}

/// A number, a time or a size in its smallest unit.
fn amount(value: Option<&Value>) -> Option<u128> {
    let text = match value? {
        Value::Integer(number) => return u128::try_from(*number).ok(),
        Value::String(text) => text,
        _ => return None,
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "B" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u128>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_known_to_narrow_may_widen() {
        let mut seen = 0;
        for (old, new, widens) in [
            ("[issuer.a]\nleeway = '60s'", "[issuer.a]\nleeway = '2m'", Some(true)),
            ("[issuer.a]\nleeway = '2m'", "[issuer.a]\nleeway = '60s'", Some(false)),
            ("[issuer.a]\naudience = ['a']", "[issuer.a]\naudience = ['a', 'b']", Some(true)),
            ("[issuer.a]\naudience = ['a', 'b']", "[issuer.a]\naudience = 'a'", Some(false)),
            ("[issuer.a]\nrequires = ['sub']", "[issuer.a]\nrequires = []", Some(true)),
            ("[issuer.a]\nrequires = []", "[issuer.a]\nrequires = ['sub']", Some(false)),
            ("[issuer.a]\nonly = { hd = 'x' }", "[issuer.a]", Some(true)),
            ("[issuer.a]", "[issuer.a]\nonly = { hd = 'x' }", Some(false)),
            ("[issuer.a]\nonly = { hd = 'x' }", "[issuer.a]\nonly = { hd = 'y' }", Some(true)),
            ("[issuer.a]", "[issuer.a]\njwks = 'other'", Some(true)),
            ("", "[issuer.a]\nurl = 'x'", Some(true)),
            ("[issuer.a]\nurl = 'x'", "", Some(false)),
            ("[issuer.a.claims]\ngroups = 'x'", "[issuer.a.claims]\ngroups = 'y'", Some(true)),
            ("[issuer.a.claims]\ngroups = 'x'", "[issuer.a]", Some(true)),
            ("[issuer.a]", "[issuer.a.claims]\ngroups = 'y'", None),
            ("[issuer.a]", "[[issuer.a.actor]]\nkind = 'human'", None),
            ("[trust_domain.a]\nca = 'x'", "[trust_domain.a]\nca = 'y'", Some(true)),
            ("[trust_domain.a]\nca = 'x'", "[trust_domain.a]\nca = 'x'\ncrl = 'c'", Some(false)),
            ("[trust_domain.a]\nca = 'x'\ncrl = 'c'", "[trust_domain.a]\nca = 'x'", Some(true)),
            ("[listener.a]\nclient_certificate = 'optional'", "[listener.a]", Some(false)),
            ("[listener.a]", "[listener.a]\nclient_certificate = 'optional'", Some(true)),
            ("[listener.a]\naddress = 'x'", "[listener.a]\naddress = 'y'", Some(true)),
            ("[limit]\nbody_bytes_max = '1MiB'", "[limit]\nbody_bytes_max = '64KiB'", Some(false)),
            ("[limit]\nbody_bytes_max = '64KiB'", "[limit]\nbody_bytes_max = '1MiB'", Some(true)),
            ("[limit]\nscope_count_max = 1", "[limit]\nscope_count_max = 2", Some(true)),
            ("[audit]\nrequired = true", "[audit]\nrequired = false", Some(true)),
            ("[proxy]\nodd_header_names = 'refuse'", "[proxy]\nodd_header_names = 'drop'", Some(true)),
            ("[route.a]", "[route.a]\nupgrade = ['websocket']", Some(true)),
            ("[route.a]", "[route.a]\nstrip_prefix = '/x'", Some(true)),
            ("[route.a]\ncors = { origins = ['a'] }", "[route.a]", Some(false)),
            ("[upstream.a]\nserver = 'x'", "[upstream.a]\nserver = 'y'", Some(false)),
            ("[something]", "[something]\nnew = 1", Some(true)),
            ("[proxy]\nname = 'a'", "[proxy]\nname = 'b'", None),
            ("[route.a]\npath = '/x'", "[route.a]\npath = '/y'", None),
            ("[[allow]]\nname = 'x'", "", None),
        ] {
            let table = |text: &str| text.parse::<Table>().unwrap();
            let found = changes(&table(old), &table(new));
            let widening = found.first().map(|setting| setting.may_widen);
            assert_eq!(widening, widens, "{old:?} → {new:?}: {found:?}");
            assert!(found.len() <= 1);
            seen += 1;
        }
        assert_eq!(seen, 35);
    }
}
