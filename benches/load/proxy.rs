//! The proxy that is measured: the release binary as a process of its own, and what the kernel and the proxy
//! itself say of it.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::world::World;
use crate::world::policy::Shape;

/// Killed when dropped.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    admin: SocketAddr,
}

impl Proxy {
    /// The program that `COUNTERSIGN_BINARY` names, started by `wrapper`, once it listens.
    pub async fn start(world: &World, shape: &Shape, wrapper: &[&str]) -> Proxy {
        let program = env::var("COUNTERSIGN_BINARY").expect("COUNTERSIGN_BINARY names the program");
        let configuration = world.configuration(shape);
        let words = wrapper.iter().copied().chain([program.as_str(), "run", "-c"]).collect::<Vec<_>>();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(configuration).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut address, mut admin) = (None, None);
        while address.is_none() || admin.is_none() {
            let line = log.next_line().await.unwrap().expect("it ended; see what it said above");
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                eprintln!("{line}");
                continue;
            };
            if event["message"] == "listening" {
                let place = if event["listener"] == "mesh" { &mut address } else { &mut admin };
                *place = Some(event["address"].as_str().unwrap().parse().unwrap());
            }
        }
        tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                if !line.contains(r#""level":"INFO""#) {
                    eprintln!("{line}");
                }
            }
        });
        Proxy { child, address: address.unwrap(), admin: admin.unwrap() }
    }

    /// On one core of its own, the last, as in a container of one.
    pub async fn on_one_core(world: &World, shape: &Shape) -> Proxy {
        let last = (std::thread::available_parallelism().unwrap().get() - 1).to_string();
        Proxy::start(world, shape, &["taskset", "-c", &last]).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// CPU time of all its threads so far, user's and kernel's.
    pub fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        // a thread may end while it is looked at
        let of_thread = |path: &Path| -> io::Result<u64> {
            let text = fs::read_to_string(path.join("schedstat"))?;
            Ok(text.split(' ').next().unwrap().parse().unwrap())
        };
        let ns = threads.map(|thread| of_thread(&thread.unwrap().path()).unwrap_or_default()).sum();
        Duration::from_nanos(ns)
    }

    /// Resident memory.
    pub fn memory_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// The value of one series of `/metrics`.
    pub async fn metric(&self, series: &str) -> f64 {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }

    /// Ends it in peace.
    pub async fn stop(mut self) {
        kill_process(Pid::from_raw(self.pid().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "{status}");
    }
}
