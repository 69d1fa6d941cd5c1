//! The guarded client against a provider double: what it refuses, and what it lets through.

use std::io::Write;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;

use super::double::{Answer, Provider};
use super::*;

fn settings() -> FetchSettings {
    FetchSettings {
        allow_http: true,
        allow_private_addresses: true,
        body_bytes_max: 1000,
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(5),
    }
}

fn tls(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn client(settings: FetchSettings) -> Client {
    Client::new(settings, &tls(RootCertStore::empty()))
}

async fn outcome(client: &Client, url: &str) -> String {
    told(client.get(&url.parse().expect("a url"), None).await)
}

/// What the error is, by the name of its variant.
fn told(outcome: Result<Fetched, FetchError>) -> String {
    match outcome {
        Ok(fetched) => format!("{} bytes", fetched.body.len()),
        Err(error) => format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
    }
}

#[tokio::test]
async fn only_a_plain_whole_answer_counts() {
    let provider = Provider::start(None).await;
    let client = client(settings());
    let mut seen = 0;
    for (path, answer, expected) in [
        ("/good", Answer::json("{}"), "2 bytes"),
        ("/identity", Answer::json("{}").with("content-encoding", "identity"), "2 bytes"),
        ("/gzip", Answer::json("{}").with("content-encoding", "gzip"), "Compressed"),
        ("/zstd", Answer::json("{}").with("content-encoding", "zstd"), "Compressed"),
        ("/limit", Answer::json("x".repeat(1000)), "1000 bytes"),
        ("/long", Answer::json("x".repeat(1001)), "TooLong"),
        ("/huge", Answer::json("x".repeat(5_000_000)), "TooLong"),
        ("/moved", Answer { status: 302, ..Answer::json("{}").with("location", "/good") }, "Redirect"),
        ("/error", Answer { status: 500, ..Answer::json("{}") }, "Status"),
        ("/empty", Answer { status: 204, ..Answer::json("") }, "Status"),
    ] {
        provider.set(path, answer);
        assert_eq!(outcome(&client, provider.url(path).as_str()).await, expected, "{path}");
        assert_eq!(provider.hits(path), 1, "{path}");
        seen += 1;
    }
    assert_eq!(seen, 10);
    assert_eq!(provider.hits("/good"), 1, "the redirect was not followed");
    let asked = provider.last("/good");
    assert_eq!(asked["host"], provider.address.to_string());
    assert_eq!(
        (&asked["accept"], &asked["accept-encoding"]),
        (&"application/json".parse().unwrap(), &"identity".parse().unwrap())
    );
    assert!(!provider.last("/good").contains_key("authorization"));
}

#[tokio::test]
async fn a_form_is_posted_and_an_error_in_words_is_an_answer() {
    let provider = Provider::start(None).await;
    let client = client(settings());
    provider.set("/token", Answer { status: 400, ..Answer::json(r#"{"error":"invalid_grant"}"#) });
    provider.set("/moved", Answer { status: 307, ..Answer::json("{}").with("location", "/token") });
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic YTpi"))]);
    let fields = [("grant_type", "client_credentials"), ("scope", "a b&c=d")];
    let post = async |url: Url| client.post_form(&url, headers.clone(), &fields).await;
    let answer = post(provider.url("/token")).await.unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::BAD_REQUEST, &br#"{"error":"invalid_grant"}"#[..])
    );
    let seen = provider.last_request("/token").unwrap();
    assert_eq!(
        (seen.method, &seen.body[..]),
        (Method::POST, &b"grant_type=client_credentials&scope=a+b%26c%3Dd"[..])
    );
    assert_eq!(seen.headers["authorization"], "Basic YTpi");
    assert_eq!(seen.headers["content-type"], "application/x-www-form-urlencoded");
    assert!(matches!(post(provider.url("/moved")).await, Err(FetchError::Redirect)));
    assert_eq!(provider.hits("/token"), 1, "a credential follows no redirect");
    let elsewhere = post("http://192.0.2.1/token".parse().unwrap()).await;
    assert!(matches!(elsewhere, Err(FetchError::AddressRefused(_))));
}

#[tokio::test]
async fn nothing_is_dialled_that_the_guard_refuses() {
    let provider = Provider::start(None).await;
    provider.set("/", Answer::json("{}"));
    let port = provider.address.port();
    let strict = FetchSettings { allow_http: false, allow_private_addresses: false, ..settings() };
    let mut seen = 0;
    for (settings, host, expected) in [
        (strict.clone(), "http://127.0.0.1", "Scheme"),
        (strict.clone(), "ftp://127.0.0.1", "Scheme"),
        (strict.clone(), "https://127.0.0.1", "AddressRefused"),
        (strict.clone(), "https://2130706433", "AddressRefused"),
        (strict.clone(), "https://0x7f.1", "AddressRefused"),
        (strict.clone(), "https://[::1]", "AddressRefused"),
        (strict.clone(), "https://[::ffff:127.0.0.1]", "AddressRefused"),
        (strict.clone(), "https://localhost", "AddressRefused"),
        (strict.clone(), "https://169.254.169.254", "AddressRefused"),
        (self::settings(), "https://169.254.169.254", "AddressRefused"),
        (self::settings(), "http://10.0.0.1", "AddressRefused"),
        (self::settings(), "http://93.184.216.34", "AddressRefused"),
        (self::settings(), "http://user@127.0.0.1", "UrlPart"),
        (self::settings(), "http://:secret@127.0.0.1", "UrlPart"),
        (self::settings(), "http://127.0.0.1", "2 bytes"),
        (self::settings(), "http://localhost", "2 bytes"),
    ] {
        assert_eq!(outcome(&client(settings), &format!("{host}:{port}/")).await, expected, "{host}");
        seen += 1;
    }
    assert_eq!(seen, 16);
    assert_eq!(provider.hits("/"), 2);
    assert_eq!(outcome(&client(self::settings()), &format!("http://127.0.0.1:{port}/#x")).await, "UrlPart");
}

/// Whatever the name has come to mean since: nobody knows `rebound.invalid`.
#[tokio::test]
async fn what_is_dialled_is_the_address_that_was_judged() {
    let provider = Provider::start(None).await;
    let client = client(settings());
    let mut seen = 0;
    for url in ["http://rebound.invalid/", "http://localhost:1/", "http://93.184.216.34/"] {
        let dialled = client.connect(&url.parse().expect("a url"), true, provider.address).await;
        let Ok(Connection::Plain(stream)) = dialled else { panic!("{url}") };
        assert_eq!(stream.peer_addr().expect("its address"), provider.address, "{url}");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

/// DNS rebinding between fetches: neither an earlier answer nor an earlier judgement counts.
#[tokio::test]
async fn each_fetch_looks_its_name_up_and_judges_what_it_finds() {
    let provider = Provider::start(None).await;
    provider.set("/keys", Answer::json("{}"));
    let client = client(settings());
    let url = format!("http://rebound.invalid:{}/keys", provider.address.port()).parse().expect("a url");
    let lookups = std::cell::RefCell::new(Vec::new());
    let mut hits = 0;
    let mut seen = 0;
    for (ip, expected) in [
        ("127.0.0.1", "2 bytes"),
        ("169.254.169.254", "AddressRefused"),
        ("127.0.0.1", "2 bytes"),
        ("10.0.0.1", "AddressRefused"),
        ("::ffff:169.254.169.254", "AddressRefused"),
    ] {
        let fetched = client.get_from(&url, None, async |host, port| {
            lookups.borrow_mut().push(host);
            Ok(vec![SocketAddr::new(ip.parse().expect("an address"), port)])
        });
        assert_eq!(told(fetched.await), expected, "{ip}");
        hits += usize::from(expected == "2 bytes");
        seen += 1;
        assert_eq!((provider.hits("/keys"), lookups.borrow().len()), (hits, seen), "{ip}");
    }
    assert_eq!(seen, 5);
    assert!(lookups.borrow().iter().all(|host| host == "rebound.invalid"));
}

#[tokio::test]
async fn a_silent_server_costs_the_total_time_and_no_more() {
    let provider = Provider::start(None).await;
    provider.set("/", Answer::json("{}"));
    provider.gate.forget_permits(usize::MAX);
    let client = client(FetchSettings { total_timeout: Duration::from_millis(20), ..settings() });
    assert_eq!(outcome(&client, provider.url("/").as_str()).await, "Timeout");
}

/// A server that says `head`, then `more` again and again until nobody listens.
async fn raw_server(head: &'static str, more: &'static [u8]) -> Url {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let url = format!("http://{}/", socket.local_addr().expect("its address"));
    tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.expect("a client");
        let mut asked = [0; 1024];
        let _ = stream.read(&mut asked).await;
        let mut alive = stream.write_all(head.as_bytes()).await.is_ok() && !more.is_empty();
        while alive {
            alive = stream.write_all(more).await.is_ok();
            tokio::task::yield_now().await;
        }
    });
    url.parse().expect("a url")
}

/// What a server claims of its answer, and what it then sends.
#[tokio::test]
async fn an_answer_is_as_long_as_it_says_or_none() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\n";
    let client = client(settings());
    let mut seen = 0;
    for (what, head, more, expected) in [
        ("sound", "content-length: 2\r\n\r\n{}", &b""[..], "2 bytes"),
        ("shorter than it says", "content-length: 100\r\n\r\n{}", b"", "Http"),
        ("longer than it says", "content-length: 2\r\n\r\n{}{}{}", b"", "2 bytes"),
        ("a gigabyte, it says", "content-length: 1073741824\r\n\r\n", &[b' '; 8192], "TooLong"),
        ("a gigabyte that does not come", "content-length: 1073741824\r\n\r\n{}", b"", "Http"),
        ("without an end", "transfer-encoding: chunked\r\n\r\n", b"8\r\n        \r\n", "TooLong"),
        ("until it closes, never", "\r\n", &[b' '; 8192], "TooLong"),
        ("cut off in a chunk", "transfer-encoding: chunked\r\n\r\n8\r\n{}", b"", "Http"),
        ("a chunk of no size", "transfer-encoding: chunked\r\n\r\nx\r\n{}", b"", "Http"),
        ("a head without an end", "", b"x-y: z\r\n", "Http"),
        ("two lengths", "content-length: 2\r\ncontent-length: 3\r\n\r\n{}", b"", "Http"),
        ("a length that is none", "content-length: x\r\n\r\n{}", b"", "Http"),
    ] {
        let head: &'static str = format!("{HEAD}{head}").leak();
        let url = raw_server(head, more).await;
        assert_eq!(outcome(&client, url.as_str()).await, expected, "{what}");
        seen += 1;
    }
    assert_eq!(seen, 12);
}

#[tokio::test]
async fn the_credential_is_read_for_each_fetch() {
    let provider = Provider::start(None).await;
    provider.set("/", Answer::json("{}"));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let source = SecretSource::File(file.path().to_owned());
    let client = client(settings());
    for secret in ["first", "second"] {
        file.as_file().set_len(0).expect("an empty file");
        std::io::Seek::rewind(&mut file).expect("the start");
        writeln!(file, "{secret}").expect("a secret");
        client.get(&provider.url("/"), Some(&source)).await.expect("a document");
        assert_eq!(provider.last("/")["authorization"], format!("Bearer {secret}"));
    }
    for missing in
        [SecretSource::File("/nowhere/at/all".into()), SecretSource::Env("NO_SUCH_VARIABLE_9".into())]
    {
        let outcome = client.get(&provider.url("/"), Some(&missing)).await;
        assert!(matches!(outcome, Err(FetchError::Credential)), "{missing:?}");
    }
    assert_eq!(provider.hits("/"), 2);
    let headers = bearer(Some(&source)).await.expect("a credential");
    assert!(headers["authorization"].is_sensitive(), "never printed");
}

#[tokio::test]
async fn a_server_is_verified() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).expect("a key");
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .expect("a server configuration");
    let provider = Provider::start(Some(Arc::new(server))).await;
    provider.set("/", Answer::json("{}"));
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).expect("a root");
    let url = |host: &str| format!("https://{host}:{}/", provider.address.port());
    let trusting = Client::new(settings(), &tls(roots));
    assert_eq!(outcome(&trusting, &url("localhost")).await, "2 bytes");
    assert_eq!(outcome(&trusting, &url("127.0.0.1")).await, "Connect", "another name");
    assert_eq!(outcome(&client(settings()), &url("localhost")).await, "Connect", "another CA");
    assert_eq!(provider.hits("/"), 1);
}

#[test]
fn cache_control_gives_the_shortest_lifetime_it_names() {
    let mut seen = 0;
    for (fields, expected) in [
        (&[][..], None),
        (&["public"][..], None),
        (&["max-age=300, public"], Some(300)),
        (&["public,max-age=300"], Some(300)),
        (&["Max-Age=\"300\""], Some(300)),
        (&["max-age=300", "max-age=60"], Some(60)),
        (&["max-age=300, no-store"], Some(0)),
        (&["no-cache"], Some(0)),
        (&["max-age=0"], Some(0)),
        (&["max-age=-1"], Some(0)),
        (&["max-age=soon"], Some(0)),
        (&["max-age"], Some(0)),
        (&["max-age=99999999999999999999999"], Some(u64::from(u32::MAX))),
        (&["s-maxage=5, max-age=9"], Some(9)),
    ] {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_static(field));
        }
        assert_eq!(lifetime(&headers).map(|lifetime| lifetime.as_secs()), expected, "{fields:?}");
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[tokio::test]
async fn the_agent_for_credentials_is_asked_at_its_one_url_and_nowhere_else() {
    let provider = Provider::start(None).await;
    provider.set("/role", Answer::json("{}"));
    let strict = || client(FetchSettings { allow_http: false, allow_private_addresses: false, ..settings() });
    let url = provider.url("/role");
    let agent = strict().allowing_agent(url.clone());
    assert_eq!(outcome(&strict(), url.as_str()).await, "Scheme");
    assert_eq!(outcome(&agent, url.as_str()).await, "2 bytes");
    for other in ["/role/", "/role?x", "/roles", "/"] {
        assert_eq!(outcome(&agent, provider.url(other).as_str()).await, "Scheme", "{other}");
    }
    // Which addresses would be dialled, without dialling them.
    let mut seen = 0;
    for (host, is_allowed) in [
        ("169.254.170.2", true),
        ("169.254.170.23", true),
        ("[fd00:ec2::23]", true),
        ("127.0.0.1", true),
        ("169.254.169.254", false),
        ("169.254.170.3", false),
        ("10.0.0.1", false),
        ("93.184.216.34", false),
    ] {
        let url: Url = format!("http://{host}/role").parse().expect("a url");
        let dialled = async |client: &Client| {
            client.addresses(&url, true, system_lookup).await.is_ok_and(|them| !them.is_empty())
        };
        assert_eq!(dialled(&strict().allowing_agent(url.clone())).await, is_allowed, "{host}");
        assert_eq!(dialled(&strict()).await, host == "127.0.0.1", "{host}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}
