//! Identity headers of a client's own: each under each of its aliases, named as a hop's or not, on each kind
//! of route and listener. None reaches an upstream.

use std::fs;

use http::{HeaderName, HeaderValue};

use super::recorder::Recorder;
use super::{POLICY, answers, raw, world};
use crate::world::certificates::Who;
use crate::world::client::{Protocol, get};
use crate::world::proxy::{HOST, Proxy};

/// Names that an upstream might believe.
pub const NAMES: [&str; 76] = [
    "x-auth-service",
    "x-auth-issuer",
    "x-auth-subject",
    "x-auth-client",
    "x-auth-actor",
    "x-auth-roles",
    "x-auth-scopes",
    "x-auth-decision",
    "x-auth-enforced",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-anything",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-forwarded-server",
    "x-forwarded-user",
    "forwarded",
    "forwarded-for",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-request-id",
    "x-original-url",
    "x-original-uri",
    "x-original-host",
    "x-rewrite-url",
    "x-envoy-original-path",
    "x-http-method-override",
    "x-method-override",
    "x-ssl-client-verify",
    "ssl-client-subject-dn",
    "x-amzn-oidc-data",
    "x-amzn-mtls-clientcert",
    "x-goog-authenticated-user-email",
    "x-goog-iap-jwt-assertion",
    "x-ms-client-principal",
    "x-ms-client-principal-name",
    "x-webauth-user",
    "cf-access-jwt-assertion",
    "cf-access-authenticated-user-email",
    "tailscale-user-login",
    "client-cert",
    "x-client-cert-spiffe",
    "x-client-cert-leaf",
    "client-cert-chain",
    "x-remote-group",
    "x-remote-extra-scopes",
    "remote-addr",
    "x-authenticated-userid",
    "x-consumer-username",
    "x-credential-identifier",
    "x-anonymous-consumer",
    "x-userinfo",
    "x-amzn-lattice-identity",
    "x-arr-clientcert",
    "x-authentik-username",
    "x-pomerium-jwt-assertion",
    "x-pomerium-claim-email",
    "x-spiffe-id",
    "remote-user",
    "remote-groups",
    "remote-email",
    "remote-name",
    "proxy",
];

/// How a name may be written so that some server still takes it for itself.
const ALIASES: [fn(&str) -> String; 7] = [
    |name| name.to_owned(),
    |name| name.to_ascii_uppercase(),
    |name| {
        name.split('-').map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect::<Vec<_>>().join("-")
    },
    |name| name.replace('-', "_"),
    |name| name.replace('-', "."),
    |name| name.replacen('-', "_", 1),
    |name| format!("{name}~"),
];

/// Which of them are plain names.
const PLAIN: usize = 3;

/// How `Connection` may speak of them.
const CONNECTION: [fn(&str) -> String; 3] = [
    |_| String::new(),
    |names| format!("Connection: {names}\r\n"),
    |names| {
        format!("Connection: keep-alive,\t{}, x-other\r\nConnection: {names}\r\n", names.to_ascii_uppercase())
    },
];

const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What is asked, what else stands in the head, and what comes of it where nothing is malformed.
const ROUTES: [(&str, &str, u16); 4] = [
    ("/a", "", 200),
    ("/forbidden", "", 403),
    ("/socket/stay", UPGRADE, 200),
    ("/socket/switch", UPGRADE, 101),
];

/// Asks for everything that there is to ask; the outcome is how often, and how often upstream.
async fn ask(proxy: &Proxy<'_>, recorder: &mut Recorder, odd_names_pass: bool) -> (usize, usize) {
    let (mut asked, mut served) = (0, 0);
    for listener in ["mesh", "plain"] {
        for (path, more, status) in ROUTES {
            for (alias, spell) in ALIASES.iter().enumerate() {
                for connection in CONNECTION {
                    let names: Vec<String> = NAMES.iter().map(|name| spell(name)).collect();
                    let fields: String = names.iter().map(|name| format!("{name}: forged\r\n")).collect();
                    let connection = connection(&names.join(", "));
                    let head =
                        format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}{more}{connection}\r\n");
                    let mut raw = raw(proxy, listener).await;
                    raw.send(head).await.unwrap();
                    let case = format!("{listener} {path} {} {connection}", names[0]);
                    let answered = raw.head().await.unwrap();
                    let answer = answers(answered.as_bytes(), true);
                    let malformed = alias >= PLAIN && !odd_names_pass;
                    assert_eq!(answer[0].status, if malformed { 400 } else { status }, "{case}");
                    drop(raw);
                    if !malformed && status != 403 {
                        let message = recorder.next().await;
                        let shown = message.shown();
                        assert!(!shown.to_ascii_lowercase().contains("forged"), "{case}: {shown}");
                        assert_eq!(message.field("x-auth-decision").len(), 1, "{case}: {shown}");
                        assert_eq!(message.field("x-forwarded-for"), ["127.0.0.1"], "{case}: {shown}");
                        served += 1;
                    }
                    asked += 1;
                }
            }
        }
    }
    assert!(recorder.more().is_empty());
    (asked, served)
}

#[tokio::test]
async fn no_spelling_of_an_identity_header_passes_anywhere() {
    let (world, mut recorder) = world().await;
    let proxy = world.start(POLICY);
    assert_eq!(ask(&proxy, &mut recorder, false).await, (2 * 4 * 7 * 3, 2 * 3 * 3 * 3));
}

#[tokio::test]
async fn odd_names_are_dropped_where_the_configuration_says_so() {
    let (world, mut recorder) = world().await;
    let proxy = world.start(POLICY);
    let text = fs::read_to_string(world.configuration(POLICY)).unwrap();
    world.write("countersign.toml", &text.replace("[proxy]", "[proxy]\nodd_header_names = \"drop\""));
    proxy.server.reload(world.load()).unwrap();
    assert_eq!(ask(&proxy, &mut recorder, true).await, (2 * 4 * 7 * 3, 2 * 3 * 7 * 3));

    let client = proxy.client(Who::Storefront, Protocol::H2).await;
    let mut request = get("/a");
    for name in ["x_auth_subject", "x.auth.subject", "x-auth-subject~", "x-other"] {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static("a-value"));
    }
    assert_eq!(client.ask(request).await.unwrap().status, 200);
    let message = recorder.next().await;
    assert_eq!(message.field("x-other"), ["a-value"]);
    assert_eq!(message.shown().matches("a-value").count(), 1, "{}", message.shown());
}
