//! The audit file as it grows and is moved away, read once and not kept.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use super::ledger::Ledger;

pub struct Tail {
    path: PathBuf,
    /// `None` until the proxy has made it.
    file: Option<File>,
    /// The start of a line whose end was not written yet.
    begun: Vec<u8>,
    /// Where the file was moved to that is still read.
    moved: Option<PathBuf>,
}

impl Tail {
    pub fn of(path: PathBuf) -> Tail {
        Tail { path, file: None, begun: Vec::new(), moved: None }
    }

    /// Moves the file away, as logrotate does. It is read on until there is a new one.
    pub fn move_away(&mut self) {
        let moved = self.path.with_extension("moved");
        fs::rename(&self.path, &moved).unwrap();
        self.moved = Some(moved);
    }

    /// Whether the file that was moved away is done with.
    pub fn is_settled(&self) -> bool {
        self.moved.is_none()
    }

    /// Reads what has come.
    pub fn read(&mut self, ledger: &Ledger) {
        // the writer opens the new file after its last line in the old one
        let is_followed = self.path.exists();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.begun).unwrap();
        }
        let end = self.begun.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        for line in self.begun[..end].split_inclusive(|&byte| byte == b'\n') {
            ledger.recorded(str::from_utf8(line).unwrap());
        }
        self.begun.drain(..end);
        if !is_followed || (self.file.is_some() && self.moved.is_none()) {
            return;
        }
        if let Some(moved) = self.moved.take() {
            if !self.begun.is_empty() {
                ledger.complain(format!("cut short: {}", String::from_utf8_lossy(&self.begun)));
                self.begun.clear();
            }
            fs::remove_file(moved).unwrap();
        }
        self.file = Some(File::open(&self.path).unwrap());
    }
}
