//! The proxy as a process of its own, for what only a process has: memory, signals, an exit code.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use super::certificates::Who;
use super::client::{Answer, Client, Protocol, get};
use super::program::{Output, run};
use super::proxy::HOST;
use super::{World, soon};

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

/// Killed when dropped.
pub struct Process<'w> {
    world: &'w World,
    child: Child,
    files: [PathBuf; 2],
    /// By the name of the listener, and `admin` and `health`.
    pub addresses: BTreeMap<String, SocketAddr>,
}

impl World {
    /// Runs the proxy on the base configuration and `more`, with a health address.
    pub async fn run(&self, more: &str) -> Process<'_> {
        // A free port that `healthcheck` can read in the file.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let health = self.write("health.toml", &format!("[admin]\nhealth_address = \"{free}\""));
        let files = [self.configuration(more), health];
        let mut child = Command::new(PROGRAM);
        child.arg("run").arg("-c").arg(&files[0]).arg("-c").arg(&files[1]);
        child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = child.spawn().unwrap();
        let addresses = soon("the proxy's addresses", addresses(child.stderr.take().unwrap())).await;
        Process { world: self, child, files, addresses }
    }
}

/// What the log says is listened on; the rest of it is read and forgotten.
async fn addresses(log: ChildStderr) -> BTreeMap<String, SocketAddr> {
    let mut lines = BufReader::new(log).lines();
    let mut addresses = BTreeMap::new();
    while !addresses.contains_key("health") {
        let line = lines.next_line().await.unwrap().expect("a proxy that stays");
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if event["message"] == "listening" {
            let name = event["listener"].as_str().or(event["page"].as_str()).unwrap();
            addresses.insert(name.to_owned(), event["address"].as_str().unwrap().parse().unwrap());
        }
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    addresses
}

impl Process<'_> {
    pub async fn client(&self, who: Who, protocol: Protocol) -> Client {
        let config = self.world.certificates.client_config(who);
        Client::tls(self.addresses["mesh"], HOST, config, protocol).await.unwrap()
    }

    /// What the health listener answers.
    pub async fn health(&self, page: &str) -> Answer {
        let client = Client::plain(self.addresses["health"], Protocol::H1).await.unwrap();
        client.ask(get(page)).await.unwrap()
    }

    /// Waits until the health listener answers with this status.
    pub async fn health_turns(&self, page: &str, status: u16) {
        let turned = async {
            while self.health(page).await.status != status {
                tokio::task::yield_now().await;
            }
        };
        soon(&format!("{page} {status}"), turned).await;
    }

    /// `countersign COMMAND` on the configuration that runs.
    pub async fn command(&self, command: &str) -> Output {
        let [base, health] = self.files.each_ref().map(|path| path.to_str().unwrap());
        run(PROGRAM, &[command, "-c", base, "-c", health], "").await
    }

    /// A line of `/proc/PID/status` in KiB, as `VmRSS`.
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let found = status.lines().find_map(|other| other.strip_prefix(&format!("{line}:")));
        found.unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    /// As a supervisor ends it.
    pub async fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id().unwrap());
        assert_eq!(run("sh", &["-c", &kill], "").await.code, Some(0));
    }

    pub async fn ended(&mut self) -> ExitStatus {
        soon("the end of the process", self.child.wait()).await.unwrap()
    }
}
