//! One shell in a folder of its own, that is typed into line by line, as by whoever reads a page.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::world::soon;

/// Ports that pages name. Others take their place here: several tests run at once.
const PORTS: [&str; 10] = ["8443", "8444", "8445", "9901", "9902", "9903", "9904", "9080", "8080", "8081"];
/// What is printed behind the output of each command.
const END: &str = "-- end of a command --";

/// `sh`, and all that it started, which ends with it.
pub struct Shell {
    pub folder: TempDir,
    child: Child,
    stdin: ChildStdin,
    printed: Lines<BufReader<ChildStdout>>,
    /// As pages name them, and as they are here.
    ports: Vec<(&'static str, String)>,
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(group) = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if std::thread::panicking() {
            let files = self.folder.path().read_dir().into_iter().flatten().flatten();
            for path in
                files.map(|entry| entry.path()).filter(|path| path.extension() == Some("log".as_ref()))
            {
                println!("{}:\n{}", path.display(), fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
}

impl Shell {
    pub async fn open() -> Shell {
        let folder = tempfile::tempdir().unwrap();
        let programs = Path::new(env!("CARGO_BIN_EXE_countersign")).parent().unwrap().to_owned();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([programs].into_iter().chain(env::split_paths(&path))).unwrap();
        let mut child = Command::new("sh")
            .current_dir(&folder)
            .env("PATH", path)
            .env("LC_ALL", "C")
            .env("no_proxy", "*")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"exec 2>&1\n").await.unwrap();
        let printed = BufReader::new(child.stdout.take().unwrap()).lines();
        let ports = PORTS.into_iter().zip(free_ports());
        Shell { folder, child, stdin, printed, ports: ports.collect() }
    }

    /// A file, as a page has it.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.here(text)).unwrap();
    }

    /// What a command prints, errors included.
    pub async fn run(&mut self, command: &str) -> String {
        let typed = format!(
            "{{ {}\n}} < /dev/null; code=$?; printf '\\n{END}\\n'; (exit $code)\n",
            self.here(command)
        );
        self.stdin.write_all(typed.as_bytes()).await.unwrap();
        let mut lines = Vec::new();
        soon(command, async {
            loop {
                match self.printed.next_line().await.unwrap() {
                    Some(line) if line == END => break,
                    Some(line) => lines.push(line),
                    None => panic!("the shell ended at `{command}`: {lines:#?}"),
                }
            }
        })
        .await;
        self.move_ports(self.folder.path());
        // the line that ends what has no line break at its end
        let came = lines.join("\n");
        let back = |text: String, (page, here): &(&str, String)| replaced(&text, here, page);
        self.ports.iter().fold(came, back).trim_end().to_owned()
    }

    fn here(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (page, here)| replaced(&text, page, here))
    }

    /// What a command wrote names the ports of the page.
    fn move_ports(&self, folder: &Path) {
        for entry in folder.read_dir().unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                self.move_ports(&path);
            } else if path.extension().is_some_and(|end| end == "toml" || end == "sh") {
                let text = fs::read_to_string(&path).unwrap();
                let moved = self.here(&text);
                if moved != text {
                    fs::write(&path, moved).unwrap();
                }
            }
        }
    }
}

/// Below those that the system gives to connections, and never one twice.
fn free_ports() -> impl Iterator<Item = String> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    let next = move || Some(first + GIVEN.fetch_add(1, Ordering::Relaxed));
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::from_fn(next).filter(free).map(|port| port.to_string())
}

/// Only where it is the whole number.
fn replaced(text: &str, number: &str, by: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(number) {
        let (before, after) = (&rest[..at], &rest[at + number.len()..]);
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let whole = !is_part(before.chars().next_back()) && !is_part(after.chars().next());
        out += before;
        out += if whole { by } else { number };
        rest = after;
    }
    out + rest
}
