//! The program itself as a process of its own, for what only a process has: its log, its environment, its
//! signals.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{World, soon};

/// `countersign run`; killed when dropped.
pub struct Binary {
    child: Child,
    /// Lines of its log so far.
    log: watch::Receiver<Vec<String>>,
    stdout: JoinHandle<String>,
}

impl World {
    /// Runs the program on the configuration that the world's folder holds: the one of this build, or the one
    /// that `COUNTERSIGN_BINARY` names.
    pub fn run(&self, environment: &[(&str, &str)]) -> Binary {
        let program = env::var("COUNTERSIGN_BINARY").unwrap_or(env!("CARGO_BIN_EXE_countersign").to_owned());
        let mut command = Command::new(program);
        command.arg("run").arg("-c").arg(self.folder.path().join("countersign.toml"));
        command.envs(environment.iter().copied()).kill_on_drop(true);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log| log.push(line));
            }
        });
        let stdout = tokio::spawn(async move {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text).await; // a killed process's output ends as it ends
            text
        });
        Binary { child, log, stdout }
    }
}

impl Binary {
    /// The first line of its log, as JSON, that `wanted` accepts.
    pub async fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.logged_after(0, wanted).await
    }

    /// The same, without the first `lines`.
    pub async fn logged_after(&self, lines: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let find = |log: &Vec<String>| {
            let log = log.iter().skip(lines).filter_map(|line| serde_json::from_str(line).ok());
            log.into_iter().find(|line| wanted(line))
        };
        let mut log = self.log.clone();
        let log = soon("a line in the log", log.wait_for(|log| find(log).is_some())).await;
        find(&log.unwrap_or_else(|_| panic!("it ended: {:#?}", self.log.borrow()))).unwrap()
    }

    /// How long its log is by now.
    pub fn log_lines(&self) -> usize {
        self.log.borrow().len()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(mut self) -> ExitStatus {
        soon("the program's end", self.child.wait()).await.unwrap()
    }

    /// Where `listener.mesh` (`key` is `listener`), or the `admin` page (`key` is `page`), really listens.
    pub async fn address(&self, key: &str, name: &str) -> SocketAddr {
        let line = self.logged(|line| line["message"] == "listening" && line[key] == name).await;
        line["address"].as_str().unwrap().parse().unwrap()
    }

    /// Of the memory that it holds, a line of `/proc/PID/status` in KiB, as `VmRSS`.
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let found = status.lines().find_map(|other| other.strip_prefix(&format!("{line}:")));
        found.unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    /// `VmHWM` is the most that it holds from now on.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id().unwrap()), "5").unwrap();
    }

    /// Its open files and sockets.
    pub fn descriptors(&self) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", self.child.id().unwrap())).unwrap().count() as u64
    }

    /// Lines of its log as they come.
    pub fn log(&self) -> watch::Receiver<Vec<String>> {
        self.log.clone()
    }

    /// Ends it at once: the whole log, and all of its standard output.
    pub async fn end(mut self) -> (String, String) {
        self.child.kill().await.unwrap();
        while self.log.changed().await.is_ok() {}
        let log = self.log.borrow().join("\n");
        (log, soon("the standard output", self.stdout).await.unwrap())
    }
}
