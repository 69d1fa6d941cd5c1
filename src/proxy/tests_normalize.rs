//! Heads that have one meaning, and those that have none.

use http::Version;
use http::request::Parts;

use super::normalize::{Asked, HeadError, Kind};
use crate::policy::Host;

fn head(method: &str, target: &str, version: Version, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri(target).version(version);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn read(target: &str, headers: &[(&str, &str)]) -> Result<Asked, HeadError> {
    Asked::read(&head("GET", target, Version::HTTP_11, headers), None)
}

#[test]
fn one_authority_or_none() {
    let asked = read("/a", &[("host", "Orders.Example:8443")]).unwrap();
    assert_eq!(
        (asked.host.as_str(), asked.authority),
        ("orders.example", "orders.example:8443".parse().unwrap())
    );
    assert!(read("http://orders.example/a", &[("host", "orders.example")]).is_ok());
    let refused: [(&str, &[(&str, &str)]); 8] = [
        ("/a", &[]),
        ("/a", &[("host", "a.example"), ("host", "a.example")]),
        ("/a", &[("host", "")]),
        ("/a", &[("host", "u@a.example")]),
        ("/a", &[("host", "a.example,b.example")]),
        ("http://orders.example/a", &[("host", "other.example")]),
        ("http://orders.example/a", &[]),
        ("http://u@orders.example/a", &[("host", "orders.example")]),
    ];
    for (target, headers) in refused {
        assert!(read(target, headers).is_err(), "{target} {headers:?}");
    }
}

#[test]
fn an_http_2_request_may_name_its_authority_without_host_but_never_two() {
    let asked = |headers: &[(&str, &str)]| {
        Asked::read(&head("GET", "https://a.example/x", Version::HTTP_2, headers), None)
    };
    assert!(asked(&[]).is_ok());
    assert!(asked(&[("host", "a.example")]).is_ok());
    assert!(asked(&[("host", "b.example")]).is_err());
}

#[test]
fn the_server_name_of_the_handshake_must_be_the_host() {
    let name: Host = "a.example".parse().unwrap();
    let head = |host| head("GET", "/", Version::HTTP_11, &[("host", host)]);
    assert!(Asked::read(&head("A.example.:443"), Some(&name)).is_ok());
    assert!(matches!(Asked::read(&head("b.example"), Some(&name)), Err(HeadError::Misdirected { .. })));
}

#[test]
fn names_and_framing_that_two_servers_could_read_differently_are_refused() {
    let refused: [&[(&str, &str)]; 8] = [
        &[("content-length", "")],
        &[("content-length", "+1")],
        &[("x_auth_subject", "alice")],
        &[("x.auth.subject", "alice")],
        &[("transfer-encoding", "gzip, chunked")],
        &[("transfer-encoding", ",chunked")],
        &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        &[("content-length", "1"), ("content-length", "1")],
    ];
    for headers in refused {
        let with_host: Vec<_> = [("host", "a.example")].iter().chain(headers).copied().collect();
        assert!(read("/", &with_host).is_err(), "{headers:?}");
    }
    assert!(read("/", &[("host", "a.example"), ("transfer-encoding", "Chunked")]).is_ok());
}

#[test]
fn targets_other_than_a_path_are_refused() {
    let targets = [("OPTIONS", "*"), ("GET", "*"), ("CONNECT", "a.example:443"), ("GET", "ftp://a.example/")];
    for (method, target) in targets {
        let head = head(method, target, Version::HTTP_11, &[("host", "a.example")]);
        assert!(Asked::read(&head, None).is_err(), "{method} {target}");
    }
    for query in ["/?a=\\", "/?\"", "/?<a>"] {
        let Ok(uri) = query.parse::<http::Uri>() else { continue };
        let head = head("GET", &uri.to_string(), Version::HTTP_11, &[("host", "a.example")]);
        assert!(Asked::read(&head, None).is_err(), "{query}");
    }
}

#[test]
fn a_token_has_no_place_in_a_query() {
    for query in [
        "access_token=x",
        "a=b&access_token",
        "access%5Ftoken=x",
        "a&acces%73_token=",
        "&access_token=x",
        "a=1;access_token=x",
        ";access%5ftoken",
        "a=1&b;access_token=x&c",
        "access_token;a=1",
    ] {
        assert!(read(&format!("/?{query}"), &[("host", "a.example")]).is_err(), "{query}");
    }
    for query in [
        "a=access_token",
        "access_token_type=x",
        "my_access_token=x",
        "access%255Ftoken=x",
        "a=1%3Baccess_token=x",
        "a=1;b=access_token",
    ] {
        assert!(read(&format!("/?{query}"), &[("host", "a.example")]).is_ok(), "{query}");
    }
}

#[test]
fn a_websocket_handshake_is_recognised_and_nothing_else_upgrades() {
    let upgrade = |kind| [("host", "a.example"), ("connection", "keep-alive, Upgrade"), ("upgrade", kind)];
    assert_eq!(read("/", &upgrade("websocket")).unwrap().kind, Kind::WebSocket);
    assert_eq!(read("/", &upgrade("h2c")).unwrap().kind, Kind::Plain);
    assert_eq!(read("/", &[("host", "a.example"), ("upgrade", "websocket")]).unwrap().kind, Kind::Plain);
    let post = head("POST", "/", Version::HTTP_11, &upgrade("websocket"));
    assert!(Asked::read(&post, None).is_err());
    let mut with_body = upgrade("websocket").to_vec();
    with_body.push(("content-length", "5"));
    assert!(read("/", &with_body).is_err());
}
