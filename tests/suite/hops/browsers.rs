//! People who log in at an ALB: what pages of other origins, and they themselves, would make of that.

use std::sync::Arc;

use http::Method;
use serde_json::json;
use tonic::Code;

use super::balancer::{Keys, SAID};
use super::*;
use crate::streams::Kind;
use crate::world::client::with_token;

type Field<'a> = (&'static str, &'a str);

/// A page's, which the route's `cors` names.
const ROUTE: &str = r#"
[route.api]
host = "orders.shop.example"
path = "/api/**"
upstream = "orders"
cors = { origins = ["https://app.example"] }
"#;

const DESK: &str = r#"
[service.desk]
spiffe_id = "spiffe://shop.example/ns/prod/sa/nobody"
client_id = "any"

[[allow]]
name = "anybody at the desk"
service = "desk"
role = "none"
route = "orders"
path = "/desk"
"#;

fn configuration(keys: &Keys) -> String {
    let rules = keys.by_address("127.0.0.1/32");
    format!("{}{ROUTE}", rules.replace("[\"orders\", \"socket\"]", "[\"orders\", \"socket\", \"api\"]"))
}

fn sent(method: &str, path: &str, fields: &[(&'static str, &str)]) -> Request<Body> {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let mut request = passed(path, &fields);
    *request.method_mut() = method.parse().unwrap();
    request
}

#[tokio::test]
async fn a_page_of_another_origin_does_not_act_for_who_is_logged_in() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let proxy = world.start(&configuration(&keys));
    let behind = proxy.behind(Protocol::H1).await;
    let said = keys.said(&world, json!({}), json!({}));
    let own = format!("https://{HOST}");
    let by_tls = ("x-forwarded-proto", "https");
    let (site, origin) = ("sec-fetch-site", "origin");
    let cases: &[(&str, &str, &[Field], u16)] = &[
        // What sends neither header is no browser of these years.
        ("POST", "/orders/7", &[], 200),
        ("POST", "/orders/7", &[by_tls, (origin, &own)], 200),
        ("POST", "/orders/7", &[(origin, &own.replace("https", "http"))], 200),
        ("DELETE", "/orders/7", &[(site, "same-origin")], 200),
        ("POST", "/orders/7", &[(site, "none")], 200),
        ("POST", "/api/7", &[by_tls, (site, "cross-site"), (origin, "https://app.example")], 200),
        // Its page does not get to read the answer.
        ("GET", "/orders/7", &[by_tls, (site, "cross-site"), (origin, "https://evil.example")], 200),
        ("HEAD", "/orders/7", &[(site, "cross-site")], 200),
        ("POST", "/orders/7", &[by_tls, (origin, "https://evil.example")], 403),
        ("POST", "/orders/7", &[by_tls, (site, "same-origin"), (origin, "https://evil.example")], 403),
        ("POST", "/orders/7", &[by_tls, (origin, "https://app.example")], 403),
        ("POST", "/api/7", &[by_tls, (origin, "http://app.example")], 403),
        ("POST", "/orders/7", &[by_tls, (origin, "null")], 403),
        ("POST", "/orders/7", &[by_tls, (origin, &own.replace("https", "http"))], 403),
        ("POST", "/orders/7", &[by_tls, (origin, &format!("{own}:8443"))], 403),
        ("POST", "/orders/7", &[by_tls, (origin, &format!("{own}.evil.example"))], 403),
        ("POST", "/orders/7", &[by_tls, (origin, &own), (origin, &own)], 403),
        ("PUT", "/orders/7", &[(site, "cross-site")], 403),
        ("PATCH", "/orders/7", &[(site, "same-site")], 403),
        ("POST", "/orders/7", &[(site, "same-origin"), (site, "cross-site")], 403),
        ("DELETE", "/orders/7", &[by_tls, (origin, "https://evil.example")], 403),
    ];
    let mut refused = 0;
    for (method, path, fields, status) in cases {
        let case = format!("{method} {path} {fields:?}");
        let before = world.upstream.counts().requests;
        let fields = [fields, &[(SAID, said.as_str())][..]].concat();
        let answer = behind.ask(sent(method, path, &fields)).await.unwrap();
        assert_eq!(answer.status, *status, "{case}");
        let came = world.upstream.counts().requests - before;
        assert_eq!(came, u64::from(*status == 200), "{case}");
        if *status == 403 {
            refused += 1;
            assert_eq!(refusal(&answer), expect(403, "cross_site"), "{case}");
            let record = proxy.record_of(&answer).await;
            assert_eq!(record["caller"]["subject"], "alice", "{case}");
        }
    }
    assert_eq!((refused, cases.len()), (13, 21));
    // A token is nothing that a browser adds.
    let fields = [by_tls, (origin, "https://evil.example")];
    let request = with_token(sent("POST", "/orders/7", &fields), &world.issuer.token(json!({})));
    assert_eq!(behind.ask(request).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_page_of_another_origin_opens_no_websocket_for_who_is_logged_in() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let proxy = world.start(&configuration(&keys));
    let said = keys.said(&world, json!({}), json!({}));
    let before = world.upstream.counts().requests;
    for (origin, outcome) in
        [("https://evil.example", false), ("null", false), (&format!("https://{HOST}"), true)]
    {
        for protocol in [Protocol::H1, Protocol::H2] {
            let behind = proxy.behind(protocol).await;
            let fields = [("x-forwarded-proto", "https"), ("origin", origin), (SAID, &said)];
            let opened = behind.websocket(sent("GET", "/socket", &fields)).await;
            assert_eq!(opened.is_ok(), outcome, "{origin} {protocol:?}");
        }
        if !outcome {
            assert_eq!(world.upstream.counts().requests, before);
        }
    }
    let of_socket = |all: &[Value]| {
        let refused = all.iter().filter(|record| record["reason"] == "cross_site");
        (refused.filter(|record| record["action"]["path"] == "/socket").count() == 4).then_some(())
    };
    proxy.records.until(of_socket).await;
}

#[tokio::test]
async fn nobody_takes_a_log_in_away_by_what_an_alb_does_not_say() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let with_certificates = keys.by_address("127.0.0.1/32").replace("mutual_authentication = \"off\"\n", "");
    let rules = with_certificates.replace("service = \"none\"", "service = \"desk\"");
    let proxy = world.start(&format!("{rules}{DESK}"));
    let behind = proxy.behind(Protocol::H1).await;
    let told = Form::AlbChain.of(&client(&world, Who::Unnamed)).remove(0);
    let made_up = ("x-auth-assertion", "x".to_owned());
    let said = |exp: i64| keys.said(&world, json!({ "exp": exp }), json!({ "exp": exp }));
    let good = said(world.clock.now().unix_seconds() + 60);
    let fields = vec![told.clone(), made_up.clone(), (SAID, good.clone())];
    let answer = behind.ask(passed("/orders/7", &fields)).await.unwrap();
    assert_eq!(seen(&answer).header("x-auth-subject"), ["alice"]);
    let before = world.upstream.counts().requests;
    let ended = said(1);
    let fields = vec![told.clone(), made_up.clone(), (SAID, ended)];
    let answer = behind.ask(passed("/desk", &fields)).await.unwrap();
    assert_eq!(refusal(&answer), expect(401, "token_expired"));
    let bob = world.issuer.token(json!({ "sub": "bob" }));
    let request = with_token(passed("/orders/7", &vec![told.clone(), made_up, (SAID, good)]), &bob);
    assert_eq!(refusal(&behind.ask(request).await.unwrap()), expect(401, "token_malformed"));
    assert_eq!(world.upstream.counts().requests, before);
}

#[tokio::test]
async fn what_is_refused_of_a_page_tells_whose_certificate_came_with_it() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let with_certificates = keys.by_address("127.0.0.1/32").replace("mutual_authentication = \"off\"\n", "");
    let fields = |said: &str| {
        let told = Form::AlbChain.of(&client(&world, Who::Unnamed)).remove(0);
        vec![told, ("origin", "https://evil.example".to_owned()), (SAID, said.to_owned())]
    };
    for (more, service, reason) in [(DESK, json!("desk"), "cross_site"), ("", json!(null), "peer_unknown")] {
        let proxy = world.start(&format!("{with_certificates}{more}"));
        let behind = proxy.behind(Protocol::H1).await;
        let mut request = passed("/orders/7", &fields(&keys.said(&world, json!({}), json!({}))));
        *request.method_mut() = Method::POST;
        let answer = behind.ask(request).await.unwrap();
        assert_eq!(refusal(&answer), expect(403, reason));
        let record = proxy.record_of(&answer).await;
        assert_eq!(record["peer"]["service"], service, "{record}");
    }
}

#[tokio::test]
async fn what_streams_to_a_page_ends_when_its_origin_is_named_no_longer() {
    let world = World::new().await;
    let keys = Keys::start().await;
    let socket = "[route.socket]\n";
    let whole = configuration(&keys).replace("path = \"/socket\"", "path = \"/socket/**\"");
    assert!(whole.contains(socket));
    let named = whole.replace(socket, &format!("{socket}cors = {{ origins = [\"https://app.example\"] }}\n"));
    let proxy = world.start(&named);
    let said = keys.said(&world, json!({}), json!({}));
    let own = format!("https://{HOST}");
    for protocol in Protocol::BOTH {
        proxy.reload(&named).unwrap();
        let open = async |origin: &str| {
            let behind = Client::plain_for(proxy.address("behind"), HOST, protocol).await.unwrap();
            let fields = [("x-forwarded-proto", "https"), ("origin", origin), (SAID, &*said)];
            Kind::WebSocket.open_presenting(&Arc::new(behind), &fields).await
        };
        let (mut theirs, mut ours) = (open("https://app.example").await, open(&own).await);
        proxy.reload(&whole).unwrap();
        theirs.ends("cross_site", Code::PermissionDenied).await;
        ours.goes_on(&world).await;
    }
}
