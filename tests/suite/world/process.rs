//! The program itself, `countersign run`, as a process of its own: for what signals, files that change
//! and its log do.
//!
//! It is steered through its files and signals, and watched through its log, which is read line by line.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::certificates::Who;
use super::client::{Answer, Client, Protocol, get};
use super::proxy::HOST;
use super::{Error, World, soon};

pub struct Process<'w> {
    pub world: &'w World,
    /// Of the `mesh` listener.
    pub address: SocketAddr,
    admin: SocketAddr,
    child: Child,
    log: watch::Receiver<Vec<Value>>,
}

impl World {
    /// Runs the program on the base configuration and `more`; it listens when this returns.
    pub async fn run(&self, more: &str) -> Process<'_> {
        let path = self.configuration(more);
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.arg("run").arg("-c").arg(path).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Some(line) = lines.next_line().await? {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sender.send_modify(|log| log.push(event));
            }
            Ok::<_, Error>(())
        });
        let listens = |key: &'static str, name: &'static str| {
            let log = log.clone();
            async move {
                let event = logged(&log, 0, |event| event[key] == name && says(event, "listening")).await;
                event["address"].as_str().unwrap().parse().unwrap()
            }
        };
        let (address, admin) = (listens("listener", "mesh").await, listens("pages", "admin").await);
        Process { world: self, address, admin, child, log }
    }
}

impl Process<'_> {
    /// A new connection of `who` to the `mesh` listener.
    pub async fn client(&self, who: Who, protocol: Protocol) -> Client {
        self.try_client(who, protocol).await.unwrap()
    }

    pub async fn try_client(&self, who: Who, protocol: Protocol) -> Result<Client, Error> {
        let config = self.world.certificates.client_config(who);
        Client::tls(self.address, HOST, config, protocol).await
    }

    /// What the admin listener answers.
    pub async fn admin(&self, path: &str) -> Answer {
        Client::plain(self.admin, Protocol::H1).await.unwrap().ask(get(path)).await.unwrap()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.admin("/metrics").await.body.to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How many events the log has by now.
    pub fn log_length(&self) -> usize {
        self.log.borrow().len()
    }

    /// Waits for an event of the log, from position `from` on.
    pub async fn logged(&self, from: usize, is_it: impl Fn(&Value) -> bool) -> Value {
        logged(&self.log, from, is_it).await
    }

    /// Waits for an event with these words in its message.
    pub async fn log_says(&self, from: usize, words: &str) -> Value {
        self.logged(from, |event| says(event, words)).await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(mut self) -> ExitStatus {
        soon("the program's end", self.child.wait()).await.unwrap()
    }

    /// Ends it by SIGTERM; all it recorded is in its file then.
    pub async fn stop(self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}");
    }
}

fn says(event: &Value, words: &str) -> bool {
    event["message"].as_str().is_some_and(|message| message.contains(words))
}

async fn logged(log: &watch::Receiver<Vec<Value>>, from: usize, is_it: impl Fn(&Value) -> bool) -> Value {
    let mut log = log.clone();
    let find = |log: &Vec<Value>| log.iter().skip(from).find(|event| is_it(event)).cloned();
    let waited = soon("a log event", log.wait_for(|log| find(log).is_some())).await.map(|log| find(&log));
    match waited {
        Ok(Some(event)) => event,
        _ => panic!("the program ended; its log: {:#?}", *log.borrow()),
    }
}
