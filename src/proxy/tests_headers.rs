//! Identity headers as a hostile client would have them.

use std::sync::Arc;
use std::sync::LazyLock;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::connection::Telling;
use super::headers::*;
use crate::audit::Signers;
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Caller, CertificateHash, Delegate, Hop, Name, Peer, PeerName};
use crate::policy::{Policy, PolicyHash, PolicyParts};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn peer() -> Peer {
    Peer {
        name: PeerName::Spiffe("spiffe://shop.example/web".parse().unwrap()),
        certificate: CertificateHash([0xab; 32]),
        not_after: Timestamp::MAX,
        hop: Hop::Direct,
    }
}

fn caller() -> Caller {
    Caller {
        issuer: name("corp"),
        subject: Some("auth0|ali ce\r\nx-auth-roles: admin".into()),
        client: Some("web,evil".into()),
        scopes: vec!["orders:read".into(), "a b".into()],
        groups: Vec::new(),
        roles: Vec::new(),
        actor: ActorKind::Human,
        on_behalf_of: ActorKind::Human,
        chain: Vec::new(),
        expires: Timestamp::MAX,
        believed_until: None,
        authenticated_at: None,
        acr: None,
        confirmation: None,
        via: None,
        token_id: None,
        claims: serde_json::Map::new(),
        token_hash: [0; 32],
    }
}

static ORIGIN: LazyLock<Origin> = LazyLock::new(|| Origin::new(Some("2001:db8::1".parse().unwrap()), true));
static AUTHORITY: HeaderValue = HeaderValue::from_static("orders.example:8443");

fn introduction(peer: Option<&Peer>, caller: Option<&Caller>, names: &[Name]) -> Introduction<'static> {
    Introduction {
        id: "01J",
        assertion: None,
        who: Some(Arc::new(Identity::new(peer, names, caller, names, None))),
        enforced: true,
        origin: &ORIGIN,
        authority: &AUTHORITY,
        traceparent: "00-1",
        trace_continued: false,
        authorization: Authorization::Stripped,
    }
}

fn through(sent: &[(&'static str, &'static str)], with: &Introduction<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        headers.append(*name, HeaderValue::from_static(value));
    }
    for_upstream(&mut headers, with);
    headers
}

#[test]
fn nothing_that_speaks_of_identity_passes_when_nobody_is_there() {
    let forged = [
        "x-auth-service",
        "x-auth-subject",
        "x-auth-anything",
        "x-forwarded-for",
        "x-forwarded-user",
        "x-forwarded-client-cert",
        "x-forwarded-prefix",
        "forwarded",
        "x-real-ip",
        "client-cert",
        "x-amzn-oidc-data",
        "x-amzn-mtls-clientcert",
        "x-forwarded",
        "remote-user",
        "x-remote-user",
        "x-ssl-client-cert",
        "ssl-client-cert",
        "ssl-client-verify",
        "x-ssl-client-verify",
        "x-envoy-original-path",
        "x-envoy-external-address",
        "x-original-url",
        "x-original-host",
        "x-rewrite-url",
        "x-http-method-override",
        "x-request-id",
        "tracestate",
        "authorization",
        "proxy",
        "keep-alive",
        "proxy-authorization",
        "upgrade",
        "te",
    ];
    let sent: Vec<_> = forged.iter().map(|name| (*name, "forged")).collect();
    let headers = through(&sent, &introduction(None, None, &[]));
    let mut seen = 0;
    for name in forged {
        assert!(headers.get_all(name).iter().all(|value| value != "forged"), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 33);
    let ours = [
        ("host", "orders.example:8443"),
        ("x-auth-decision", "01J"),
        ("x-request-id", "01J"),
        ("x-forwarded-for", "2001:db8::1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "orders.example:8443"),
        ("traceparent", "00-1"),
        ("forwarded", "for=\"[2001:db8::1]\";host=\"orders.example:8443\";proto=https"),
    ];
    for (name, value) in ours {
        assert_eq!(headers[name], value);
    }
    assert_eq!(headers.len(), ours.len());
}

#[test]
fn values_from_claims_cannot_break_out_of_their_header() {
    let (peer, caller, names) = (peer(), caller(), [name("web"), name("api")]);
    let headers = through(&[], &introduction(Some(&peer), Some(&caller), &names));
    for (name, value) in [
        ("x-auth-service", "web,api"),
        ("x-auth-issuer", "corp"),
        ("x-auth-subject", "auth0|ali%20ce%0D%0Ax-auth-roles:%20admin"),
        ("x-auth-client", "web%2Cevil"),
        ("x-auth-actor", "human"),
        ("x-auth-roles", "web,api"),
        ("x-auth-scopes", "orders:read a%20b"),
    ] {
        assert_eq!(headers[name], value);
    }
    let xfcc = format!("Hash={};URI=spiffe://shop.example/web", "ab".repeat(32));
    assert_eq!(headers["x-forwarded-client-cert"], xfcc);
}

#[test]
fn a_client_cannot_name_our_headers_as_its_hop_s() {
    let (peer, names) = (peer(), [name("web")]);
    let sent =
        [("connection", "X-Auth-Service, close"), ("connection", "x-own"), ("x-own", "1"), ("x-kept", "1")];
    let headers = through(&sent, &introduction(Some(&peer), None, &names));
    assert_eq!(headers["x-auth-service"], "web");
    assert!(!headers.contains_key("x-own") && !headers.contains_key("connection"));
    assert_eq!(headers["x-kept"], "1");
}

#[test]
fn what_is_not_known_of_a_caller_is_not_said() {
    let nobody = Caller { subject: None, client: None, scopes: Vec::new(), ..caller() };
    let headers = through(&[("host", "else.example")], &introduction(None, Some(&nobody), &[]));
    for absent in ["subject", "client", "roles", "scopes", "service"].map(|of| format!("x-auth-{of}")) {
        assert!(!headers.contains_key(&absent), "{absent}");
    }
    assert_eq!(headers["x-auth-issuer"], "corp");
    assert_eq!(headers.get_all("host").iter().collect::<Vec<_>>(), [&AUTHORITY]);
}

#[test]
fn what_is_told_of_two_signers_is_kept_only_while_it_is_small() {
    let (policy, _) = Policy::compile(PolicyParts::default(), PolicyHash([0; 32]), Timestamp::MIN).unwrap();
    let is_kept = |caller: &Caller| {
        let headers = Identity::new(Some(&peer()), &[], Some(caller), &[], None).into();
        Telling {
            headers,
            signers: Signers::new(None, None, &[], Some(caller), &[], &policy),
            assertion: Arc::default(),
        }
        .is_small()
    };
    assert!(is_kept(&caller()));
    // escaped, a letter of two bytes takes six
    assert!(is_kept(&Caller { subject: Some("é".repeat(250).into()), ..caller() }));
    assert!(!is_kept(&Caller { subject: Some("é".repeat(350).into()), ..caller() }));
    let link = Delegate { subject: "x".repeat(600).into(), issuer: Some("https://idp.example".into()) };
    assert!(is_kept(&Caller { chain: vec![link.clone(); 2], ..caller() }));
    assert!(!is_kept(&Caller { chain: vec![link; 4], ..caller() }));
    // what records alone tell counts too
    let groups = |count| Caller { groups: vec!["x".repeat(36).into(); count], ..caller() };
    assert!(is_kept(&groups(20)) && !is_kept(&groups(60)));
    let roles = |count| Caller { roles: vec!["x".repeat(36).into(); count], ..caller() };
    assert!(is_kept(&roles(20)) && !is_kept(&roles(60)));
    assert!(!is_kept(&Caller { acr: Some("x".repeat(2048).into()), ..caller() }));
}

#[test]
fn only_trailers_survives_of_te_and_credentials_only_where_the_route_says_so() {
    let with = introduction(None, None, &[]);
    assert_eq!(through(&[("te", "Trailers")], &with)["te"], "trailers");
    assert_eq!(through(&[("te", "gzip, Trailers;q=0.5")], &with).get("te"), None);
    assert_eq!(through(&[("te", "gzip, trailers")], &with)["te"], "trailers");
    assert_eq!(through(&[("te", "gzip"), ("te", "trailers")], &with)["te"], "trailers");
    let with = Introduction { authorization: Authorization::Forwarded, enforced: false, ..with };
    let headers = through(&[("authorization", "Bearer x")], &with);
    assert_eq!(headers["authorization"], "Bearer x");
    assert_eq!(headers["x-auth-enforced"], "false");
}

#[test]
fn a_trace_is_continued_only_if_it_is_one() {
    let given = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", HeaderValue::from_static(value));
        }
        given_traceparent(&headers).map(str::to_owned)
    };
    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(given(&[GOOD]).as_deref(), Some(GOOD));
    let bad: [&[&str]; 6] = [
        &[],
        &[GOOD, GOOD],
        &["01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        &["00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
        &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"],
    ];
    for values in bad {
        assert_eq!(given(values), None, "{values:?}");
    }
    for (trace, span) in [(0, 0), (1, 1), (u128::MAX, u64::MAX)] {
        let new = new_traceparent(trace, span);
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("traceparent"),
            HeaderValue::from_str(&new).unwrap(),
        )]);
        assert_eq!(given_traceparent(&headers), Some(&*new));
    }
}

#[test]
fn cookies_in_crumbs_become_one_field() {
    let sent = [("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")];
    let headers = through(&sent, &introduction(None, None, &[]));
    let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
}
