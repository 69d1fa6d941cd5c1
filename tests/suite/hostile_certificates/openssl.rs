//! What only openssl still makes: signatures and keys that are too weak, a handshake within a connection, and a
//! server name with a last dot.

use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::AsyncWriteExt;

use super::CONFIGURATION;
use crate::world::certificates::{PARTNER_DOMAIN, Who, spiffe_id};
use crate::world::proxy::{HOST, Proxy};
use crate::world::{World, soon};

const PARTNERS: &str = r#"
[service.partner]
spiffe_id = "spiffe://partner.example/ns/prod/sa/storefront"
client_id = "any"

[[allow]]
name = "partners"
service = "partner"
role = "none"
path = "/orders/7"
route = "orders"
"#;

fn openssl(folder: &Path, arguments: &str) {
    let output =
        Command::new("openssl").current_dir(folder).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a client says and hears: the answer, and what openssl tells of the connection.
async fn s_client(proxy: &Proxy<'_>, arguments: &str, said: &str) -> (String, String) {
    let address = proxy.address("mesh");
    let all = format!("s_client -connect {address} -servername {HOST} -CAfile shop-ca.pem {arguments}");
    let mut client = tokio::process::Command::new("openssl");
    client.current_dir(proxy.world.folder.path()).args(all.split_whitespace());
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    // It may have ended by then.
    _ = client.stdin.take().unwrap().write_all(said.as_bytes()).await;
    let output = soon("openssl", client.wait_with_output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
#[ignore = "needs openssl; tests/run runs it"]
async fn weak_signatures_and_keys_vouch_for_nobody() {
    let world = World::new().await;
    let folder = world.folder.path();
    world.write(
        "san.cnf",
        &format!(
            "keyUsage=digitalSignature\nsubjectAltName=URI:{}\n",
            spiffe_id(PARTNER_DOMAIN, "storefront")
        ),
    );
    world.write("ca.cnf", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n");
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out partner-ca.pem -subj /CN=root -days 2",
    );
    let issue = |name: &str, key: &str, by: &str, digest: &str, content: &str| {
        openssl(
            folder,
            &format!("req -new -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA {by} -CAkey {} -CAcreateserial -days 1 -{digest} -extfile {content} -out {name}.pem",
                by.replace("partner-ca.pem", "root.key").replace(".pem", ".key")
            ),
        );
    };
    let root = "partner-ca.pem";
    issue("good", "rsa:2048", root, "sha256", "san.cnf");
    issue("sha1", "rsa:2048", root, "sha1", "san.cnf");
    issue("md5", "rsa:2048", root, "md5", "san.cnf");
    issue("small", "rsa:1024", root, "sha256", "san.cnf");
    issue("p224", "ec -pkeyopt ec_paramgen_curve:secp224r1", root, "sha256", "san.cnf");
    issue("small-ca", "rsa:1024", root, "sha256", "ca.cnf");
    issue("by-small-ca", "rsa:2048", "small-ca.pem", "sha256", "san.cnf");
    issue("sha1-ca", "rsa:2048", root, "sha1", "ca.cnf");
    issue("by-sha1-ca", "rsa:2048", "sha1-ca.pem", "sha256", "san.cnf");
    let proxy = world.start(&format!("{CONFIGURATION}{PARTNERS}"));
    let request = format!("GET /orders/7 HTTP/1.0\r\nhost: {HOST}\r\n\r\n");
    let ask = async |name: &str, more: &str| {
        let own = format!("-quiet -cert {name}.pem -key {name}.key {more} -cipher DEFAULT:@SECLEVEL=0");
        s_client(&proxy, &own, &request).await
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let (answer, log) = ask("good", version).await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{version}: {answer} {log}");
    }
    let mut refused = 0;
    for (name, more, alert, says) in [
        ("sha1", "", 48, "is not accepted"),
        ("md5", "", 48, "is not accepted"),
        ("small", "", 0, "the key is too weak"),
        ("p224", "", 0, ""),
        ("by-small-ca", "-cert_chain small-ca.pem", 48, "is not trusted"),
        ("by-sha1-ca", "-cert_chain sha1-ca.pem", 48, "is not accepted"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let (answer, log) = ask(name, &format!("{version} {more}")).await;
            refused += 1;
            let record = proxy.events("handshake", refused).await.remove(refused - 1);
            assert_eq!(answer, "", "{name} {version}");
            assert!(record["detail"].as_str().unwrap().contains(says), "{name} {version}: {record}");
            if alert != 0 {
                assert!(log.contains(&format!("SSL alert number {alert}")), "{name} {version}: {log}");
            }
        }
    }
    assert_eq!((refused, world.upstream.counts().requests), (12, 2));
}

#[tokio::test]
#[ignore = "needs openssl; tests/run runs it"]
async fn nobody_shakes_hands_twice_on_one_connection() {
    let world = World::new().await;
    let certificate = world.certificates.client(Who::Storefront).unwrap();
    world.write("client.pem", &certificate.chain);
    world.write("client.key", &certificate.key);
    let proxy = world.start(CONFIGURATION);
    let arguments = "-tls1_2 -cert client.pem -key client.key";
    let (_, log) = s_client(&proxy, arguments, "R\nGET /orders/7 HTTP/1.0\r\n\r\n").await;
    // It asked, and was told no (RFC 5246 §7.2.2).
    assert!(log.contains("RENEGOTIATING") && log.contains("no renegotiation"), "{log}");
    assert_eq!(world.upstream.counts().requests, 0);
}

#[tokio::test]
#[ignore = "needs openssl; tests/run runs it"]
async fn a_server_name_with_a_last_dot_or_in_capitals_is_the_same_name() {
    let world = World::new().await;
    let certificate = world.certificates.client(Who::Storefront).unwrap();
    world.write("client.pem", &certificate.chain);
    world.write("client.key", &certificate.key);
    let proxy = world.start(CONFIGURATION);
    let names =
        ["orders.shop.example", "orders.shop.example.", "ORDERS.Shop.EXAMPLE", "Orders.shop.example."];
    for name in names {
        for (host, status) in [(HOST, "200"), ("localhost", "421")] {
            let arguments = format!("-quiet -servername {name} -cert client.pem -key client.key");
            let request = format!("GET /orders/7 HTTP/1.0\r\nhost: {host}\r\n\r\n");
            let (answer, log) = s_client(&proxy, &arguments, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{name} {host}: {answer} {log}");
        }
    }
    assert_eq!(world.upstream.counts().requests, names.len() as u64);
}
