//! Requests in the words of random policies.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value, json};

use super::Issuers;
use super::tests_universe::{DAY, Dice, World, text};
use crate::clock::Timestamp;
use crate::identity::*;
use crate::policy::condition::*;
use crate::policy::difference::{Approach, Token, Witness};
use crate::policy::*;

/// Anybody comes, and two hops tell of others.
pub fn approach() -> Approach {
    let hops: BTreeSet<Name> = ["alb", "edge"].map(|hop| hop.parse().unwrap()).into();
    Approach { hops: hops.clone(), telling: hops, ..Approach::OPEN }
}

/// Those of two configurations: anybody comes to half of them.
pub fn approaches(dice: &mut Dice) -> [Approach; 2] {
    let mut old = approach();
    if dice.one_in(2) {
        return [old.clone(), old];
    }
    (old.takes_nobody, old.takes_peers) = dice.pick(&[(true, true), (false, true), (true, false)]);
    old.telling.retain(|_| !dice.one_in(4));
    let mut new = old.clone();
    if old.takes_peers && dice.one_in(4) {
        new.takes_nobody = !old.takes_nobody;
    }
    [old, new]
}

/// These, or others with `SEEDS=5000..6000`.
pub fn seeds(usual: Range<u64>) -> Range<u64> {
    let stated = std::env::var("SEEDS").ok().and_then(|seeds| {
        let (from, to) = seeds.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    stated.unwrap_or(usual)
}

/// A request, as both worlds read it. Half of them ask for what some rule speaks of.
pub fn request(
    dice: &mut Dice,
    worlds: &[&World; 2],
    pairs: &[Issuers<'_>],
    at: Timestamp,
) -> Option<Witness> {
    let rules = &worlds[dice.below(2)].parts.rules;
    let rule = match rules.is_empty() || dice.one_in(3) {
        true => None,
        false => Some(&rules[dice.below(rules.len())]),
    };
    let said = |fits: &dyn Fn(&Condition) -> bool| rule.is_none_or(|rule| rule.conditions.iter().all(fits));
    let dns = |names: &[&str]| PeerName::Dns {
        names: names.iter().map(|name| text(name)).collect(),
        trust_domain: "shop.example".parse().unwrap(),
    };
    let spiffe = |id: &str| PeerName::Spiffe(format!("spiffe://shop.example/{id}").parse().unwrap());
    let peer = match dice.below(9) {
        0 => None,
        1 | 2 => Some(spiffe("web")),
        3 | 4 => Some(spiffe("bots/b1")),
        5 => Some(spiffe(dice.pick(&["bots/b1/deep", "else"]))),
        6 => Some(PeerName::Spiffe("spiffe://away.example/web".parse().unwrap())),
        7 => Some(dns(&["db.svc.example", "x.svc.example"])),
        _ => Some(dns(&["x.svc.example"])),
    };
    let trusted = |name: &str| Hop::Trusted(name.parse().unwrap());
    let hop = match dice.below(12) {
        0 => Hop::Local,
        1 => trusted("edge"),
        2 | 3 => trusted("alb"),
        _ => Hop::Direct,
    };
    // the local application speaks as we
    let hop = if peer.is_none() && hop == Hop::Local { Hop::Direct } else { hop };
    let peer = peer.map_or(Signature::Absent, |name| {
        let (certificate, not_after, hop) = (CertificateHash([1; 32]), at.plus(DAY), hop.clone());
        Signature::Verified(Arc::new(Peer { name, certificate, not_after, hop }))
    });
    let token = match dice.one_in(7) {
        true => None,
        false => {
            let pair = dice.below(pairs.len());
            let mut claims = claims(dice, &pairs[pair], at);
            if let Some(confirmation) = confirmation(dice, peer.verified()) {
                claims.insert("cnf".into(), confirmation);
            }
            let callers = pairs[pair].callers(&claims, at).map(|caller| match caller {
                Ok(caller) => Ok(Signature::Verified(Arc::new(caller))),
                Err(error) => Err(error.code()),
            });
            if callers.iter().all(Result::is_err) {
                return None;
            }
            Some((pair, Token { claims, path: vec![], callers }))
        }
    };
    let paths = [
        "/",
        "/a",
        "/a/x",
        "/a/b",
        "/a/alice",
        "/alice/b",
        "/amy/b",
        "/alice/alice",
        "/alice/amy",
        "/a/alice/z",
        "/a/x/y/z",
        "/7/b",
        "/a/7",
        "/z/b",
        "/z/z",
        "/shop.Orders/Get",
        "/shop.Orders/Get",
        "/a/a",
        "/q/q/q",
    ];
    let methods = [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::TRACE];
    let methods: Vec<_> = methods
        .iter()
        .filter(|method| {
            said(&|condition| match condition {
                Condition::Method(methods) => methods.contains(method),
                Condition::Grpc(_) => **method == Method::POST,
                _ => true,
            })
        })
        .cloned()
        .collect();
    let paths: Vec<_> = paths
        .iter()
        .filter(|path| {
            let path = NormalPath::parse(path).unwrap();
            let segments: Vec<_> = path.segments().collect();
            said(&|condition| match condition {
                Condition::Path(patterns) => patterns.iter().any(|pattern| pattern.matches(&segments)),
                Condition::Grpc(calls) => calls.iter().any(|call| call.path().matches(&segments)),
                _ => true,
            })
        })
        .copied()
        .collect();
    let addresses = ["10.1.2.3", "10.2.2.2", "10.200.0.1", "192.0.2.1", "2001:db8::1"];
    let addresses = addresses.map(|address| address.parse::<std::net::IpAddr>().unwrap());
    let addresses: Vec<_> = addresses.to_vec();
    let fitting = |fits: &dyn Fn(&Condition, std::net::IpAddr) -> bool| -> Vec<_> {
        addresses.iter().filter(|ip| said(&|condition| fits(condition, **ip))).copied().collect()
    };
    let is_in = |nets: &[ipnet::IpNet], ip| nets.iter().any(|net| net.contains(&ip));
    let peers = fitting(&|condition, ip| !matches!(condition, Condition::PeerIp(nets) if !is_in(nets, ip)));
    let clients =
        fitting(&|condition, ip| !matches!(condition, Condition::ClientIp(nets) if !is_in(nets, ip)));
    let hosts = ["a.example", "a.example", "b.example", "c.example", "x.org"]
        .map(|host| host.parse::<Host>().unwrap());
    let hosts: Vec<_> = hosts
        .iter()
        .filter(|host| {
            said(&|condition| match condition {
                Condition::Host(hosts) => hosts.iter().any(|pattern| pattern.matches(host)),
                _ => true,
            })
        })
        .cloned()
        .collect();
    if [methods.len(), paths.len(), peers.len(), clients.len(), hosts.len()].contains(&0) {
        return None;
    }
    let mut headers = HeaderMap::new();
    if dice.one_in(2) {
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    }
    if dice.one_in(3) {
        headers.insert("x-next", HeaderValue::from_static("1"));
    }
    Some(Witness {
        peer,
        token,
        method: dice.pick(&methods),
        host: dice.pick(&hosts),
        path: NormalPath::parse(dice.pick(&paths)).unwrap(),
        headers,
        hop,
        peer_ip: Some(dice.pick(&peers)),
        client_ip: Some(dice.pick(&clients)),
        at,
    })
}

/// The key that a token is bound to: one that the request proves to have, or that of the certificate it came with.
fn confirmation(dice: &mut Dice, peer: Option<&Arc<Peer>>) -> Option<Value> {
    let thumbprint = |digest: [u8; 32]| URL_SAFE_NO_PAD.encode(digest);
    match (dice.below(6), peer) {
        (0, _) => Some(json!({ "jkt": thumbprint([0; 32]) })),
        (1, Some(peer)) => Some(json!({ "x5t#S256": thumbprint(peer.certificate.0) })),
        _ => None,
    }
}

fn claims(dice: &mut Dice, issuers: &Issuers<'_>, at: Timestamp) -> Map<String, Value> {
    let iss = issuers.sides.into_iter().flatten().find_map(|issuer| issuer.url.issued(String::new));
    let now = at.unix_seconds();
    let mut claims = json!({
        "iss": iss, "aud": "us", "exp": now + 60,
        "sub": dice.pick(&["alice", "alice", "amy", "bot-1", "web", "zed"]),
    });
    let mut put = |dice: &mut Dice, name: &str, values: &[Value]| {
        let value = dice.pick(values);
        if !value.is_null() {
            claims[name] = value;
        }
    };
    let clients = [json!("web"), json!("web"), json!("bot-1"), json!("zed"), json!("alice"), json!(null)];
    put(dice, "cid", &clients);
    put(dice, "azp", &clients);
    put(dice, "uid", &[json!("1"), json!("1"), json!(null)]);
    let words =
        [json!("read"), json!("read write"), json!(["read", "write", "zz"]), json!("zz"), json!(null)];
    put(dice, "scp", &words);
    put(dice, "perms", &words);
    put(dice, "groups", &[json!(["staff"]), json!(["beta", "staff"]), json!(null)]);
    put(dice, "roles", &[json!(["admin"]), json!(null)]);
    put(dice, "tier", &[json!("gold"), json!("grey"), json!(["gold", "grey"]), json!(null)]);
    put(
        dice,
        "tags",
        &[json!(["a", "alice"]), json!("alice"), json!(["alice", "amy"]), json!("a"), json!(null)],
    );
    put(dice, "email", &[json!("alice"), json!("amy"), json!(null)]);
    put(dice, "level", &[json!(7), json!(8), json!(null)]);
    put(dice, "staff", &[json!(true), json!(null)]);
    put(dice, "realm", &[json!({ "roles": ["x"] }), json!({ "roles": "yy" }), json!(null)]);
    put(dice, "acr", &[json!("mfa"), json!("pwd"), json!("none"), json!(null)]);
    let ages = [30, 60, 61, 600, 601, -100];
    let login = json!(now - dice.pick(&ages));
    put(dice, "auth_time", &[login.clone(), login, json!(null)]);
    let act = [
        json!({ "sub": "bot-1" }),
        json!({ "sub": "bot-1", "cid": "bot-1", "azp": "bot-1" }),
        json!({ "sub": "zed", "uid": "1" }),
        json!({ "sub": "bot-1", "iss": "https://away.example" }),
    ];
    if dice.one_in(6) {
        put(dice, "act", &act);
    }
    claims.as_object().unwrap().clone()
}
