//! `countersign healthcheck`: asks a running proxy how it is, where there is neither shell nor curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{ConfigArgs, EXIT_FINDINGS};
use crate::config;

#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask /readyz (send it requests?) instead of /livez (restart it?)
    #[arg(long)]
    ready: bool,
}

const TIMEOUT: Duration = Duration::from_secs(3);
const STATUS_LINE_BYTES_MAX: u64 = 64;

/// Exit codes are 0 and 1 alone: container engines reserve 2.
pub fn run(args: &HealthcheckArgs) -> ExitCode {
    match check(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("unhealthy: {why}");
            ExitCode::from(EXIT_FINDINGS)
        }
    }
}

fn check(args: &HealthcheckArgs) -> Result<(), String> {
    let address = config::health_address(&args.config.files, &|name| std::env::var(name).ok())
        .ok_or("neither `[admin] health_address` nor `address` is found in the configuration")?;
    let page = if args.ready { "/readyz" } else { "/livez" };
    let status =
        ask(reachable(address), page).map_err(|error| format!("{address} does not answer: {error}"))?;
    if status.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{page} answered {status}")) }
}

/// The status line of the answer.
fn ask(address: SocketAddr, page: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // In one piece: whoever answers before it has all of the head must not break the rest off.
    let head = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(STATUS_LINE_BYTES_MAX).read_to_end(&mut answer)?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// Where an unspecified address is reached from the machine itself.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn healthcheck(text: &str) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy.toml");
        std::fs::write(&file, text).unwrap();
        check(&HealthcheckArgs { config: ConfigArgs { files: vec![file] }, ready: false })
    }

    /// A restart would then take a proxy away that serves on with its last good configuration.
    #[test]
    fn a_configuration_that_cannot_be_loaded_is_no_reason_to_be_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for status in ["200 OK", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 256];
                assert_ne!(stream.read(&mut head).unwrap(), 0);
                write!(stream, "HTTP/1.1 {status}\r\n\r\n").unwrap();
            }
        });
        let broken = format!(
            "version = 1\n[admin]\nhealth_address = \"{address}\"\n[identity]\ncertificate = \"gone.pem\"\nx = \n"
        );
        assert_eq!(healthcheck(&broken), Ok(()));
        assert_eq!(healthcheck(&broken), Err("/livez answered HTTP/1.1 503 Service Unavailable".to_owned()));
        server.join().unwrap();
        assert!(healthcheck("version = 1\n").unwrap_err().starts_with("neither `[admin] health_address`"));
    }
}
