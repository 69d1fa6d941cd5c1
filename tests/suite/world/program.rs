//! Other programs as clients: curl, openssl. Tests that run one are ignored by plain `cargo test`.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::soon;

#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end; it does not outlive the test.
pub async fn run(program: &str, arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.as_bytes()).await.unwrap();
    drop(input);
    let output = soon(program, child.wait_with_output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// curl, silent but for errors, and deaf to the machine's proxies and configuration.
pub async fn curl(arguments: &[&str]) -> Output {
    run("curl", &[&["-q", "-sS", "--noproxy", "*"], arguments].concat(), "").await
}

#[cfg(test)]
mod tests {
    use countersign::clock::Clock;

    use super::*;
    use crate::world::certificates::Certificates;
    use crate::world::seen::Seen;
    use crate::world::upstream::Upstream;

    #[tokio::test]
    #[ignore = "needs curl; tests/run runs it"]
    async fn curl_reaches_the_upstream_over_both_protocols() {
        let upstream = Upstream::start().await;
        for (option, version) in [("--http1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "HTTP/2.0")] {
            let url = format!("{}/orders?status=201", upstream.url);
            let output = curl(&[option, "-d", "x=1", "-w", "\n%{http_code}", &url]).await;
            assert_eq!(output.code, Some(0), "{output:?}");
            let (body, status) = output.stdout.rsplit_once('\n').unwrap();
            let seen: Seen = serde_json::from_str(body).unwrap();
            assert_eq!((status, seen.body.as_deref()), ("201", Some("x=1")));
            assert_eq!((seen.method.as_str(), seen.version.as_str()), ("POST", version));
        }
        let refused = curl(&["http://127.0.0.1:1/"]).await;
        assert_eq!(refused.code, Some(7), "{refused:?}");
        assert!(refused.stderr.contains("127.0.0.1"), "{refused:?}");
    }

    #[tokio::test]
    #[ignore = "needs openssl; tests/run runs it"]
    async fn openssl_shakes_hands_with_the_upstream() {
        let certificates = Certificates::new(&Clock::system());
        let tls = Some(certificates.server_config("upstream"));
        let upstream = Upstream::start_with("127.0.0.1:0".parse().unwrap(), tls).await;
        let request = "GET /from-openssl HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let address = upstream.address().to_string();
        let asked =
            ["s_client", "-connect", &address, "-servername", "localhost", "-alpn", "http/1.1", "-ign_eof"];
        let output = run("openssl", &asked, request).await;
        assert!(output.stdout.contains("ALPN protocol: http/1.1"), "{output:?}");
        assert!(output.stdout.contains("/from-openssl"), "{output:?}");
    }
}
