//! Routes as typed become routes of the policy, and what is said of how their requests are carried.

use http::{HeaderName, HeaderValue};
use url::Url;

use super::error::Diagnostics;
use super::file::File;
use super::file_policy::{self as typed, Upgrade};
use super::names::{Names, entries, items, refuse_reserved};
use super::read::Keyed;
use super::rules::Vocabulary;
use super::source::At;
use crate::identity::{Direction, Name};
use crate::policy::route::{Route, Variant};
use crate::policy::{NormalPath, RoleId, UpstreamId};
use crate::proxy::limits::Limits;
use crate::proxy::route::{Cors, RouteSettings};

/// Each route as it is judged, and how its requests are carried.
pub fn routes(
    file: &File,
    known: &Vocabulary,
    limits: &Limits,
    found: &mut Diagnostics,
) -> (Names, Vec<(Route, RouteSettings)>) {
    refuse_reserved("route", &file.route, found);
    let routes: Vec<_> = entries(&file.route)
        .iter()
        .map(|(name, table)| (name.value.to_string(), route(&name.value, &table.value, known, limits, found)))
        .collect();
    Names::number("route", "unknown_route", routes)
}

fn route(
    name: &Name,
    typed: &typed::Route,
    known: &Vocabulary,
    limits: &Limits,
    found: &mut Diagnostics,
) -> Option<(Route, RouteSettings)> {
    let upstream = find_upstream(&typed.upstream, known, found);
    let mut variants = Vec::new();
    for variant in items(&typed.variant) {
        let role = variant.value.role.as_ref();
        let role = role.and_then(|role| known.roles.find(role.value.as_str(), role.span, found));
        let upstream = find_upstream(&variant.value.upstream, known, found);
        variants.push(role.zip(upstream).map(|(role, upstream)| Variant { role: RoleId(role), upstream }));
    }
    let header = headers(&typed.header, found);
    if let Some(prefix) = &typed.strip_prefix
        && !is_plain_path(&prefix.value)
    {
        let message = format!("`{}` is no start of a path", prefix.value);
        found.error("bad_value", prefix.span, message, "write whole segments from `/` on, as `\"/api\"`");
    }
    for origin in typed.cors.iter().flat_map(|cors| items(&cors.value.origins)) {
        if !is_origin(&origin.value) {
            let message = format!("`{}` is no origin", origin.value);
            found.error(
                "bad_value",
                origin.span,
                message,
                "write scheme and host, as `\"https://shop.example\"`",
            );
        }
    }
    let path = match &typed.path {
        Some(path) => path.value.clone(),
        None => "/**".parse().ok()?,
    };
    if !typed.is_read() {
        return None;
    }
    let direction = typed.mode.map_or(Direction::Inbound, |mode| mode.value);
    if let Some(mode) = typed.mode.filter(|_| direction == Direction::Outbound && !typed.gives("host")) {
        let message = format!("outbound route `{name}` takes whatever host is asked for");
        let remedy = "add `host`: a web page on this machine can send any other to a listener on loopback";
        found.error("missing_key", mode.span, message, remedy);
        return None;
    }
    let strip_prefix = match &typed.strip_prefix {
        Some(prefix) => Some(NormalPath::parse(&prefix.value).ok()?),
        None => None,
    };
    let settings = RouteSettings {
        strip_prefix,
        total_timeout: typed.total_timeout.map_or(limits.total_timeout, |timeout| timeout.value.0),
        body_bytes_max: typed.body_bytes_max.map_or(limits.body_bytes_max, |bytes| bytes.value.0),
        forward_authorization: typed.forward_authorization.is_some_and(|forward| forward.value),
        websocket: items(&typed.upgrade).iter().any(|upgrade| upgrade.value == Upgrade::WebSocket),
        cors: typed.cors.as_ref().map(|cors| Cors {
            origins: items(&cors.value.origins).iter().map(|origin| origin.value.clone()).collect(),
        }),
    };
    let route = Route {
        name: name.clone(),
        direction,
        host: items(&typed.host).iter().map(|host| host.value.clone()).collect(),
        path,
        header: header?,
        upstream: upstream?,
        variants: variants.into_iter().collect::<Option<_>>()?,
        shadow_until: typed.shadow_until.as_ref().map(|day| day.value.end()),
    };
    Some((route, settings))
}

/// Whole, non-empty segments without wildcards, since it is taken off byte for byte.
fn is_plain_path(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| {
        rest.split('/')
            .all(|segment| !segment.is_empty() && !segment.contains(['*', '{', '}', '%', '?', '#', '\\']))
    })
}

/// As browsers send it (RFC 6454 §6.2): no path, no trailing slash, no wildcard.
fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| url.origin().is_tuple() && url.origin().ascii_serialization() == text)
}

fn find_upstream(name: &Option<At<Name>>, known: &Vocabulary, found: &mut Diagnostics) -> Option<UpstreamId> {
    let name = name.as_ref()?;
    known.upstreams.find(name.value.as_str(), name.span, found).map(UpstreamId)
}

fn headers(
    typed: &Option<At<Keyed<String, String>>>,
    found: &mut Diagnostics,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    for (name, value) in entries(typed) {
        match (name.value.parse(), value.value.parse()) {
            (Ok(name), Ok(value)) => headers.push(Some((name, value))),
            (name_read, _) => {
                let span = if name_read.is_err() { name.span } else { value.span };
                let message = format!("`{}` is no header field that can be sent", name.value);
                found.error("bad_value", span, message, "write `header = { x-version = \"2\" }`");
                headers.push(None);
            }
        }
    }
    headers.into_iter().collect()
}
