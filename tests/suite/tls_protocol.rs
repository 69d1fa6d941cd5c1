//! The handshake as a protocol: versions, key exchange, ALPN, SNI, and clients that do not speak TLS.

use std::sync::Arc;
use std::time::Duration;

use countersign::tls::{Alpn, HandshakeFailure, ListenerTls, PeerError};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, Error, InvalidMessage, NamedGroup, PeerIncompatible, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::faults::ANYTHING;
use crate::world::World;
use crate::world::certificates::Who;
use crate::world::client::{Client, Protocol, get};
use crate::world::proxy::HOST;
use crate::world::tls::{ClientSaw, Tls, connect, good, hello};

const LIMIT: Duration = Duration::from_secs(10);

/// Sends bytes as they are and returns the failure and what came back.
async fn send_raw(listener: &ListenerTls, pieces: &[&[u8]]) -> (HandshakeFailure, Vec<u8>) {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        for piece in pieces {
            near.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        near.shutdown().await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (outcome, answer) = tokio::join!(listener.accept(far, LIMIT), client);
    (outcome.expect_err("accepted"), answer)
}

const ECDHE_RSA_AES_128_CBC_SHA: u16 = 0xc013;
const ECDHE_ECDSA_AES_128_CBC_SHA: u16 = 0xc009;
const RSA_AES_128_CBC_SHA: u16 = 0x002f;
const RSA_AES_128_GCM_SHA256: u16 = 0x009c;
const ECDHE_ECDSA_AES_128_GCM_SHA256: u16 = 0xc02b;

const NO_COMPRESSION: u8 = 0;
const DEFLATE: u8 = 1;

/// A ClientHello for versions up to 3.`minor`, with two suites of old and one of TLS 1.2.
fn old_hello(minor: u8) -> Vec<u8> {
    let suites = [ECDHE_RSA_AES_128_CBC_SHA, RSA_AES_128_CBC_SHA, ECDHE_ECDSA_AES_128_GCM_SHA256];
    old_hello_with(minor, &suites, &[NO_COMPRESSION])
}

fn old_hello_with(minor: u8, suites: &[u16], compressions: &[u8]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().copied().flat_map(u16::to_be_bytes).collect();
    let mut body = vec![3, minor];
    body.extend([7; 32]); // random
    body.extend([0]); // no session
    body.extend([0, u8::try_from(suites.len()).unwrap()]);
    body.extend(suites);
    body.push(u8::try_from(compressions.len()).unwrap());
    body.extend(compressions);
    body.extend([0, 16]); // extensions
    body.extend([0, 10, 0, 4, 0, 2, 0, 29]); // supported_groups: x25519
    body.extend([0, 13, 0, 4, 0, 2, 4, 3]); // signature_algorithms: ecdsa_secp256r1_sha256
    let length = u8::try_from(body.len()).unwrap();
    [vec![22, 3, 1, 0, length + 4, 1, 0, 0, length], body].concat()
}

/// How many TLS records these bytes are.
fn records(bytes: &[u8]) -> usize {
    let (mut rest, mut count) = (bytes, 0);
    while let [22, 3, _, high, low, ref behind @ ..] = *rest {
        rest = &behind[usize::from(u16::from_be_bytes([high, low]))..];
        count += 1;
    }
    assert!(rest.is_empty(), "{rest:02x?}");
    count
}

/// The alert that is all of an answer.
fn fatal(answer: &[u8]) -> AlertDescription {
    let [21, 3, _, 0, 2, 2, alert] = *answer else { panic!("no fatal alert: {answer:02x?}") };
    alert.into()
}

#[tokio::test]
async fn tls_1_0_and_1_1_do_not_exist_here() {
    let listener = Tls::new().required();
    for minor in [1, 2] {
        let (failure, answer) = send_raw(&listener, &[&old_hello(minor)]).await;
        assert!(matches!(failure, HandshakeFailure::Tls(_)), "{failure}");
        assert_eq!(fatal(&answer), AlertDescription::ProtocolVersion);
    }
}

/// All that rustls has for TLS 1.2 is ECDHE with AEAD, and no compression.
#[tokio::test]
async fn tls_1_2_is_refused_with_suites_of_old_or_compression_alone() {
    let common = PeerIncompatible::NoCipherSuitesInCommon;
    let null = PeerIncompatible::NullCompressionRequired;
    let empty = InvalidMessage::IllegalEmptyList("Compressions");
    // What is wrong with neither comes as far as the extension that it lacks.
    let further = PeerIncompatible::ExtendedMasterSecretExtensionRequired;
    let modern = ECDHE_ECDSA_AES_128_GCM_SHA256;
    let handshake_failure = AlertDescription::HandshakeFailure;
    let cases: [(u16, &[u8], Error, AlertDescription); 8] = [
        (ECDHE_RSA_AES_128_CBC_SHA, &[NO_COMPRESSION], common.clone().into(), handshake_failure),
        (ECDHE_ECDSA_AES_128_CBC_SHA, &[NO_COMPRESSION], common.clone().into(), handshake_failure),
        (RSA_AES_128_CBC_SHA, &[NO_COMPRESSION], common.clone().into(), handshake_failure),
        (RSA_AES_128_GCM_SHA256, &[NO_COMPRESSION], common.into(), handshake_failure),
        (modern, &[DEFLATE], null.into(), AlertDescription::IllegalParameter),
        (modern, &[], empty.into(), AlertDescription::DecodeError),
        (modern, &[NO_COMPRESSION], further.clone().into(), handshake_failure),
        (modern, &[DEFLATE, NO_COMPRESSION], further.into(), handshake_failure),
    ];
    let listener = Tls::new().required();
    for (suite, compressions, wanted, alert) in cases {
        let (failure, answer) = send_raw(&listener, &[&old_hello_with(3, &[suite], compressions)]).await;
        let said = format!("{suite:x} {compressions:?}: {failure:?}");
        assert!(matches!(failure, HandshakeFailure::Tls(why) if why == wanted), "{said}");
        assert_eq!(fatal(&answer), alert, "{said}");
    }
}

/// Without it a client certificate under TLS 1.2 can be passed on by a third party (RFC 7627 §1).
#[tokio::test]
async fn tls_1_2_is_spoken_with_an_extended_master_secret_alone() {
    let (failure, _) = send_raw(&Tls::new().required(), &[&old_hello(3)]).await;
    let wanted = PeerIncompatible::ExtendedMasterSecretExtensionRequired;
    assert!(
        matches!(&failure, HandshakeFailure::Tls(Error::PeerIncompatible(why)) if *why == wanted),
        "{failure}"
    );
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_apart() {
    let listener = Tls::new().required();
    let (failure, answer) = send_raw(&listener, &[]).await;
    assert!(matches!(failure, HandshakeFailure::Probe) && answer.is_empty());
    let (failure, _) = send_raw(&listener, &[b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"]).await;
    assert!(matches!(failure, HandshakeFailure::PlainHttp), "{failure}");
    let (failure, _) = send_raw(&listener, &[&[0; 64]]).await;
    assert!(matches!(failure, HandshakeFailure::Tls(_)), "{failure}");
    let (failure, _) = send_raw(&listener, &[&old_hello(3)[..20]]).await;
    assert!(matches!(failure, HandshakeFailure::Io(_)), "{failure}");
}

/// A hello of TLS 1.3 is longer than 1,200 bytes, for its key of X25519MLKEM768.
#[tokio::test]
async fn a_client_hello_may_come_in_pieces() {
    let tls = Tls::new();
    let listener = tls.required();
    let own = tls.shop.issue(&good()).unwrap();
    // Whole and in records of 64 bytes (RFC 8446 §5.1), a few bytes and a record at a time.
    let cases = [(None, 16), (None, 64), (Some(64), 16), (Some(64), 64), (Some(64), 64 * 1024)];
    for (fragment, pipe) in cases {
        let mut config = tls.client(Some(&own));
        config.max_fragment_size = fragment;
        let config = Arc::new(config);
        assert_eq!(records(&hello(&config, "localhost")) > 16, fragment.is_some());
        let (near, far) = tokio::io::duplex(pipe);
        let connector = TlsConnector::from(config);
        let name = ServerName::try_from("localhost").unwrap();
        let client = async {
            let mut stream = connector.connect(name, near).await.unwrap();
            stream.read(&mut [0]).await.unwrap()
        };
        let server = async {
            let mut accepted = listener.accept(far, LIMIT).await.unwrap();
            assert_eq!(accepted.server_name.as_str(), Some("localhost"));
            accepted.stream.write_all(b"k").await.unwrap();
            accepted.stream.flush().await.unwrap();
        };
        assert_eq!(tokio::join!(client, server).0, 1, "{fragment:?} {pipe}");
    }
}

#[tokio::test]
async fn a_client_hello_of_many_records_opens_a_connection_like_any_other() {
    let world = World::new().await;
    let proxy = world.start(ANYTHING);
    for protocol in Protocol::BOTH {
        let mut config = world.certificates.client_config(Who::Storefront);
        config.max_fragment_size = Some(64);
        assert!(records(&hello(&Arc::new(config.clone()), HOST)) > 16);
        let client = Client::tls(proxy.address("mesh"), HOST, config, protocol).await.unwrap();
        for (host, status) in [(HOST, 200), ("localhost", 421)] {
            let request = world.signed(get(&format!("https://{host}/orders/1")));
            assert_eq!(client.ask(request).await.unwrap().status, status, "{protocol:?} {host}");
        }
    }
    assert_eq!(world.upstream.counts().requests, 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_runs_out_of_time() {
    let listener = Tls::new().required();
    for sent in [&[][..], &old_hello(3)[..20]] {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(sent).await.unwrap();
        let outcome = listener.accept(far, LIMIT).await;
        assert!(matches!(outcome, Err(HandshakeFailure::TimedOut(LIMIT))));
    }
}

#[tokio::test]
async fn a_post_quantum_key_exchange_is_offered_and_preferred() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let mut hybrid = aws_lc_rs::default_provider();
    hybrid.kx_groups.retain(|group| group.name() == NamedGroup::X25519MLKEM768);
    assert_eq!(hybrid.kx_groups.len(), 1);
    let hybrid_only = tls.client_with(Some(&own), &[&rustls::version::TLS13], hybrid);
    for client in [tls.client(Some(&own)), hybrid_only] {
        let (outcome, _) = connect(&tls.required(), &Arc::new(client)).await;
        let accepted = outcome.unwrap();
        let group = accepted.stream.get_ref().1.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
        assert_eq!(accepted.version, Some(ProtocolVersion::TLSv1_3));
    }
}

#[tokio::test]
async fn alpn_and_server_name_are_handed_on() {
    let tls = Tls::new();
    let own = tls.shop.issue(&good()).unwrap();
    let cases: [(&[&str], Alpn); 4] = [
        (&[], Alpn::Http1),
        (&["http/1.1"], Alpn::Http1),
        (&["http/1.1", "h2"], Alpn::Http2),
        (&["h2"], Alpn::Http2),
    ];
    for (offered, agreed) in cases {
        let mut client = tls.client(Some(&own));
        client.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
        let (outcome, _) = connect(&tls.required(), &client.into()).await;
        let accepted = outcome.unwrap();
        assert_eq!(accepted.alpn, agreed, "{offered:?}");
        assert_eq!(accepted.server_name.as_str(), Some("localhost"));
    }
    let mut client = tls.client(Some(&own));
    client.alpn_protocols = vec![b"h3".to_vec()];
    let (outcome, saw) = connect(&tls.required(), &client.into()).await;
    assert!(matches!(outcome, Err(HandshakeFailure::Tls(_))));
    assert_eq!(saw, ClientSaw::Alert(AlertDescription::NoApplicationProtocol));

    let mut client = tls.client(Some(&own));
    client.enable_sni = false;
    let (outcome, _) = connect(&tls.required(), &client.into()).await;
    assert_eq!(outcome.unwrap().server_name.as_str(), None);
}

/// The client of TLS 1.3 is done before it is judged. What it sent by then must not turn its alert
/// into a reset.
#[tokio::test]
async fn the_alert_arrives_although_the_client_was_already_sending() {
    let tls = Tls::new();
    let listener = tls.required();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = async {
        let (io, _) = socket.accept().await.unwrap();
        listener.accept(io, LIMIT).await.map(|_| ())
    };
    let client = async {
        let io = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(tls.client(None)));
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, io).await.unwrap();
        for _ in 0..40 {
            stream.write_all(&[b'x'; 1024]).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.read(&mut [0]).await.unwrap_err()
    };
    let (outcome, error) = tokio::join!(server, client);
    assert!(matches!(outcome, Err(HandshakeFailure::Peer { error: PeerError::Missing, claimed: None })));
    let alert = error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>());
    let required = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    assert_eq!(alert, Some(&required));
}
