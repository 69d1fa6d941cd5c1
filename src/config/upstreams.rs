//! Upstreams as typed.

use url::Url;

use super::error::Diagnostics;
use super::file::{File, Upstream};
use super::names::{entries, items};
use super::source::At;

pub fn check(file: &File, found: &mut Diagnostics) {
    for (_, upstream) in entries(&file.upstream) {
        check_servers(&upstream.value, found);
        if let Some(path) = &upstream.value.health_path
            && !path.value.starts_with('/')
        {
            let message = format!("`{}` is no path", path.value);
            found.error("bad_value", path.span, message, "write it from `/` on, as `\"/healthz\"`");
        }
    }
}

fn check_servers(upstream: &Upstream, found: &mut Diagnostics) {
    for server in items(&upstream.server) {
        check_server(server, upstream, found);
    }
    if let (Some(servers), Some(weights)) = (&upstream.server, &upstream.weight)
        && servers.value.len() != weights.value.len()
    {
        let (servers, weights_given) = (servers.value.len(), weights.value.len());
        let message = format!("{weights_given} weights for {servers} servers");
        found.error("contradiction", weights.span, message, "give one weight for each server, in order");
    }
}

fn check_server(server: &At<String>, upstream: &Upstream, found: &mut Diagnostics) {
    let refuse = |why: &str, found: &mut Diagnostics| {
        let message = format!("`{}` is no server: {why}", server.value);
        let remedy = "write `http://host:port`, `h2c://host:port` or `https://host:port`";
        found.error("bad_value", server.span, message, remedy);
    };
    let url = match Url::parse(&server.value) {
        Ok(url) => url,
        Err(error) => return refuse(&error.to_string(), found),
    };
    let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    match url.scheme() {
        _ if !url.has_host() => refuse("it names no host", found),
        _ if !bare || !anonymous => refuse("it has more than a host and a port", found),
        "https" => {}
        "http" | "h2c" => {
            if let Some(id) = &upstream.server_spiffe_id {
                let message = format!("`{}` shows no certificate to compare with", server.value);
                found.error("contradiction", id.span, message, "write `https://…`, or take it out");
            }
        }
        scheme => refuse(&format!("`{scheme}` is not spoken"), found),
    }
}
