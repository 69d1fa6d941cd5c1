//! What operators and load balancers ask: `/livez`, `/readyz`, `/metrics`, `/status`, over plain
//! HTTP/1.1 on listeners of their own, never on a data port.
//!
//! Nothing here changes anything, and nothing that is shown can hold a secret: [`Serving`] has no
//! field for one. The admin pages answer only to hosts that a web page cannot rebind (DNS).

mod status;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use status::Report;
pub use status::{
    CasStatus, CertificateStatus, CredentialStatus, FailureStatus, IdentityStatus, IssuerStatus,
    ListenerStatus, LoadStatus, RevocationStatus, Serving, Status, TrustDomainStatus, UpstreamStatus,
};

use crate::audit::line::line;
use crate::policy::Host;

/// Which pages a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// `[admin] address`: all.
    Admin,
    /// `[admin] health_address`: `/livez` and `/readyz` alone, for any host.
    Health,
}

const CONNECTIONS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 32;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting rests after it failed, as without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// Answers on `listener` until dropped. The oldest connection gives way where there are too many: who asks is
/// answered at once, so it is one that asks nothing.
pub async fn serve(listener: TcpListener, status: Arc<Status>, pages: Pages) {
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    by_age.retain(|connection| !connection.is_finished());
                    if by_age.len() >= CONNECTIONS_MAX && let Some(oldest) = by_age.pop_front() {
                        oldest.abort();
                    }
                    by_age.push_back(connections.spawn(converse(stream, Arc::clone(&status), pages)));
                    // Before others come it is heard.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, status: Arc<Status>, pages: Pages) {
    let service = service_fn(|request| {
        let answer = answer(&status, pages, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        tracing::debug!(%error, "an admin connection ended badly");
    }
}

fn answer<B>(status: &Status, pages: Pages, request: &Request<B>) -> Answer {
    if pages == Pages::Admin && !is_asked_as_host(request) {
        return text(
            StatusCode::MISDIRECTED_REQUEST,
            "the admin pages answer only to localhost and to addresses\n",
        );
    }
    let page: fn(&Status) -> Answer = match (pages, request.uri().path()) {
        (_, "/livez") => live,
        (_, "/readyz") => ready,
        (Pages::Admin, "/metrics") => metrics,
        (Pages::Admin, "/status") => report,
        (Pages::Admin | Pages::Health, _) => return text(StatusCode::NOT_FOUND, "not found\n"),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return page(status);
    }
    let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    refusal
}

/// Whether the host is one that no foreign name can point here: `localhost` or an address.
fn is_asked_as_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let authority =
        request.uri().authority().map_or(host.as_bytes(), |authority| authority.as_str().as_bytes());
    let Ok(host) = str::from_utf8(authority).unwrap_or_default().parse::<Host>() else { return false };
    let address = host.as_str().trim_start_matches('[').trim_end_matches(']');
    host.as_str() == "localhost" || address.parse::<IpAddr>().is_ok()
}

fn live(_: &Status) -> Answer {
    json(StatusCode::OK, &serde_json::json!({"live": true}))
}

fn ready(status: &Status) -> Answer {
    let readiness = status.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(code, &readiness)
}

fn report(status: &Status) -> Answer {
    let serving = status.serving.load_full();
    let report = Report {
        proxy: &status.proxy,
        version: env!("CARGO_PKG_VERSION"),
        time: status.clock.now(),
        readiness: status.readiness(),
        serving: serving.as_deref(),
    };
    json(StatusCode::OK, &report)
}

fn metrics(status: &Status) -> Answer {
    match status.metrics.text() {
        Ok(metrics) => page(StatusCode::OK, OPENMETRICS, metrics.into_bytes()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be put into words\n"),
    }
}

fn json(code: StatusCode, value: &impl Serialize) -> Answer {
    match line(value) {
        Ok(body) => page(code, JSON, body),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be put into words\n"),
    }
}

fn text(code: StatusCode, body: &'static str) -> Answer {
    page(code, "text/plain; charset=utf-8", body)
}

fn page(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::identity::Name;
    use crate::metrics::Metrics;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_700_000_000);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn cas(name: &str, own: bool, seconds: u64) -> CasStatus {
        let end = NOW.plus(Duration::from_secs(seconds));
        CasStatus {
            name: name.to_owned(),
            own,
            cas: 1,
            next_not_after: end,
            last_not_after: end,
            crl_next_update: None,
            idle: Vec::new(),
            is_idle: false,
        }
    }

    fn status() -> Status {
        let status = Status::new(name("orders"), Clock::manual(NOW), Arc::new(Metrics::new()));
        status.serves(Serving {
            policy: "sha256:ab".to_owned(),
            generation: 3,
            configuration: LoadStatus {
                since: "then".to_owned(),
                failure: Some(FailureStatus { at: "now".to_owned(), why: "a.toml:1:1: no".to_owned() }),
            },
            revocation: Some(RevocationStatus {
                entries: 2,
                idle: vec!["line 2: it revokes nothing".to_owned()],
                load: LoadStatus { since: "then".to_owned(), failure: None },
            }),
            listeners: vec![ListenerStatus { name: name("mesh"), address: ([127, 0, 0, 1], 8443).into() }],
            issuers: vec![IssuerStatus { name: name("corp"), keys: 2, awaited: false, failure: None }],
            identity: None,
            certificates: vec![CertificateStatus {
                name: "identity".to_owned(),
                not_after: NOW.plus(Duration::from_secs(60)),
            }],
            trust_domains: vec![cas("shop.example", true, 60), cas("partner.example", false, 30)],
            credentials: Vec::new(),
            upstreams: vec![UpstreamStatus { name: name("orders"), servers: 2, ejected: 1 }],
        });
        status
    }

    /// All that comes back for `head` over a real connection.
    fn ask(status: &Arc<Status>, pages: Pages, head: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = serve(listener, Arc::clone(status), pages);
            let client = async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            };
            tokio::select! { () = server => String::new(), answer = client => answer }
        })
    }

    fn get(status: &Arc<Status>, pages: Pages, path: &str) -> (u16, String) {
        let answer = ask(status, pages, &format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:9901\r\n\r\n"));
        (code(&answer), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn code(answer: &str) -> u16 {
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn each_listener_has_its_pages_and_no_others() {
        let status = Arc::new(status());
        let mut seen = 0;
        for (path, admin, health) in [
            ("/livez", 200, 200),
            ("/readyz", 200, 200),
            ("/metrics", 200, 404),
            ("/status", 200, 404),
            ("/", 404, 404),
            ("/livez/", 404, 404),
            ("/LIVEZ", 404, 404),
            ("//livez", 404, 404),
            ("/%6civez", 404, 404),
            ("/status/../livez", 404, 404),
        ] {
            assert_eq!(get(&status, Pages::Admin, path).0, admin, "{path}");
            assert_eq!(get(&status, Pages::Health, path).0, health, "{path}");
            seen += 1;
        }
        assert_eq!(seen, 10);
    }

    #[test]
    fn readiness_says_in_words_what_is_missing() {
        let status = Arc::new(status());
        assert_eq!(
            get(&status, Pages::Health, "/readyz"),
            (200, "{\"ready\":true,\"reasons\":[]}\n".to_owned())
        );
        status.clock.advance(Duration::from_secs(60));
        status.drains();
        let mut serving = Serving::clone(&status.serving.load_full().unwrap());
        serving.issuers[0] = IssuerStatus {
            name: name("corp"),
            keys: 0,
            awaited: true,
            failure: Some("connection refused\u{1b}".into()),
        };
        status.serves(serving);
        let expected = concat!(
            r#"{"ready":false,"reasons":["draining: the proxy is shutting down","#,
            r#""issuer corp: no keys are known: connection refused\u001b","#,
            r#""certificate identity: expired at 2023-11-14T22:14:20.000Z","#,
            r#""trust domain shop.example: all its CAs have expired, the last at 2023-11-14T22:14:20.000Z","#,
            r#""trust domain partner.example: all its CAs have expired, the last at 2023-11-14T22:13:50.000Z"]}"#,
            "\n"
        );
        assert_eq!(get(&status, Pages::Health, "/readyz"), (503, expected.to_owned()));
        assert_eq!(get(&status, Pages::Health, "/livez").0, 200);
        let starting = Status::new(name("orders"), Clock::manual(NOW), Arc::new(Metrics::new()));
        assert_eq!(starting.unready(), ["starting: no configuration is served yet"]);
    }

    #[test]
    fn the_end_of_another_s_cas_is_no_reason_as_long_as_anybody_is_believed() {
        for (domains, unready) in [
            (vec![cas("ours", true, 9), cas("theirs", false, 5)], vec![]),
            (vec![cas("ours", true, 5), cas("theirs", false, 9)], vec!["ours"]),
            (vec![cas("ours", true, 5), cas("theirs", false, 5)], vec!["ours", "theirs"]),
            (vec![cas("one", false, 5), cas("other", false, 9)], vec![]),
            (vec![cas("one", false, 5), cas("other", false, 5)], vec!["one", "other"]),
            (vec![], vec![]),
        ] {
            let status = Status::new(name("orders"), Clock::manual(NOW), Arc::new(Metrics::new()));
            status.serves(Serving { trust_domains: domains, ..Serving::default() });
            assert_eq!(status.unready(), [""; 0]);
            status.clock.advance(Duration::from_secs(5));
            let told = status.unready();
            let named: Vec<_> = told.iter().filter_map(|it| it.split([' ', ':']).nth(2)).collect();
            assert_eq!(named, unready, "{told:?}");
        }
    }

    #[test]
    fn the_status_page_sums_up_what_is_served() {
        let expected = concat!(
            r#"{"proxy":"orders","version":""#,
            env!("CARGO_PKG_VERSION"),
            r#"","time":"2023-11-14T22:13:20.000Z","ready":true,"reasons":[],"policy":"sha256:ab","#,
            r#""generation":3,"configuration":{"since":"then","failure":{"at":"now","why":"a.toml:1:1: no"}},"#,
            r#""revocation":{"entries":2,"idle":["line 2: it revokes nothing"],"since":"then","failure":null},"#,
            r#""listeners":[{"name":"mesh","address":"127.0.0.1:8443"}],"#,
            r#""issuers":[{"name":"corp","keys":2,"awaited":false,"failure":null}],"#,
            r#""identity":null,"certificates":[{"name":"identity","not_after":"2023-11-14T22:14:20.000Z"}],"#,
            r#""trust_domains":[{"name":"shop.example","own":true,"cas":1,"#,
            r#""next_not_after":"2023-11-14T22:14:20.000Z","last_not_after":"2023-11-14T22:14:20.000Z","crl_next_update":null,"idle":[]},"#,
            r#"{"name":"partner.example","own":false,"cas":1,"#,
            r#""next_not_after":"2023-11-14T22:13:50.000Z","last_not_after":"2023-11-14T22:13:50.000Z","crl_next_update":null,"idle":[]}],"#,
            r#""upstreams":[{"name":"orders","servers":2,"ejected":1}],"credentials":[]}"#,
            "\n"
        );
        assert_eq!(get(&Arc::new(status()), Pages::Admin, "/status"), (200, expected.to_owned()));
        let metrics = get(&Arc::new(status()), Pages::Admin, "/metrics").1;
        assert!(metrics.contains("countersign_build_info") && metrics.ends_with("# EOF\n"));
    }

    #[test]
    fn only_reading_and_only_hosts_that_cannot_be_rebound() {
        let status = Arc::new(status());
        let mut seen = 0;
        for (head, expected) in [
            ("HEAD /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n", 200),
            ("GET /status HTTP/1.1\r\nhost: LOCALHOST:9901\r\n\r\n", 200),
            ("GET /status HTTP/1.1\r\nhost: [::1]:9901\r\n\r\n", 200),
            ("GET /status HTTP/1.1\r\nhost: 10.0.0.7\r\n\r\n", 200),
            ("POST /readyz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n", 405),
            ("DELETE /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
            ("GET /status HTTP/1.1\r\nhost: evil.example\r\n\r\n", 421),
            ("GET /status HTTP/1.1\r\nhost: localhost.evil.example\r\n\r\n", 421),
            ("GET /status HTTP/1.1\r\nhost: 127.0.0.1.evil.example\r\n\r\n", 421),
            ("GET http://evil.example/status HTTP/1.1\r\nhost: localhost\r\n\r\n", 421),
            ("GET /status HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", 421),
            ("GET /status HTTP/1.0\r\n\r\n", 421),
        ] {
            let answer = ask(&status, Pages::Admin, head);
            assert_eq!(code(&answer), expected, "{head}");
            assert!(answer.contains("cache-control: no-store"), "{answer}");
            assert_eq!(answer.contains("allow: GET, HEAD"), expected == 405);
            if head.starts_with("HEAD") {
                assert!(answer.ends_with("\r\n\r\n"), "{answer}");
            }
            seen += 1;
        }
        assert_eq!(seen, 12);
        assert_eq!(
            code(&ask(&status, Pages::Health, "GET /livez HTTP/1.1\r\nhost: lb.example\r\n\r\n")),
            200
        );
        let long = format!("GET /livez HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(HEADER_BYTES_MAX));
        assert_eq!(code(&ask(&status, Pages::Health, &long)), 431);
    }
}
