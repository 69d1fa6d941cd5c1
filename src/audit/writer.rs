//! The thread behind a [`super::Sink`]: takes what is queued, puts it into words, writes it, and tries again
//! for as long as it cannot.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::line::LINE_BYTES;
use super::sink::{Line, Output, Queue, Shared, SinkError};

/// The thread that writes what a sink takes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    output: Output,
    file: File,
}

/// Lines that are being written, and the places that they take meanwhile.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    written: usize,
    places: Vec<OwnedSemaphorePermit>,
}

/// As many are written at once: what is put into words stays in the processor's cache until it is written.
const BATCH_RECORDS: usize = 128;

/// How long records gather before they are written together: waking a thread for each costs more than making it.
const GATHER: Duration = Duration::from_millis(10);

/// How long a failing output is left alone before it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Writer {
    pub(super) fn open(shared: Arc<Shared>, output: Output) -> Result<Writer, SinkError> {
        let file = open(&output)?;
        Ok(Writer { shared, output, file })
    }

    /// Writes until the sink is closed.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut batch = Batch::default();
        loop {
            let idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.reopen && !queue.closing;
            let queue = shared.work.wait_while(shared.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let gathering = |queue: &mut Queue| {
                queue.lines.len() < shared.batch_records && !queue.reopen && !queue.closing
            };
            let gathered = shared.work.wait_timeout_while(queue, GATHER, gathering);
            let (mut queue, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            let lines = mem::take(&mut queue.lines);
            queue.in_hand = lines.len();
            let reopen = mem::take(&mut queue.reopen);
            if lines.is_empty() && !reopen {
                queue.closed = true;
                shared.progress.notify_all();
                return;
            }
            drop(queue);
            if reopen {
                self.reopen();
                shared.progress.notify_all();
            }
            let mut lines = lines.into_iter();
            while lines.len() > 0 {
                lines.by_ref().take(BATCH_RECORDS).for_each(|line| batch.add(line, &shared));
                while let Err(error) = batch.write(&mut self.file) {
                    if !self.wait_for_better_days(&error, &mut batch) {
                        return;
                    }
                }
                self.wrote(&mut batch);
            }
        }
    }

    fn reopen(&mut self) {
        match open(&self.output) {
            Ok(file) => self.file = file,
            Err(error) => tracing::error!(%error, "the audit output stays the one that was open"),
        }
    }

    /// False when the deadline of closing came first.
    fn wait_for_better_days(&mut self, error: &io::Error, batch: &mut Batch) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.lock();
        if !queue.failing {
            tracing::error!(%error, "audit records cannot be written; the output is tried again every second");
        }
        queue.failing = true;
        shared.metrics.audit_failing.set(1);
        shared.progress.notify_all();
        let waiting = |queue: &mut Queue| !queue.reopen && !queue.abandoned;
        let waited = shared.work.wait_timeout_while(queue, RETRY_AFTER, waiting);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if queue.abandoned {
            return false;
        }
        if mem::take(&mut queue.reopen) {
            drop(queue);
            self.reopen();
            batch.back_to_a_whole_line();
        }
        true
    }

    fn wrote(&self, batch: &mut Batch) {
        let records = batch.places.len();
        batch.clear();
        let mut queue = self.shared.lock();
        queue.in_hand -= records;
        if mem::take(&mut queue.failing) {
            tracing::info!("audit records are written again");
            self.shared.metrics.audit_failing.set(0);
        }
        self.shared.metrics.audit_written.inc_by(records as u64);
        self.shared.progress.notify_all();
    }
}

impl Batch {
    /// A record that cannot be put into words costs its own line and no other's.
    fn add(&mut self, Line { record, place }: Line, shared: &Shared) {
        let begin = self.bytes.len();
        self.bytes.reserve(LINE_BYTES);
        match catch_unwind(AssertUnwindSafe(|| record.write(&mut self.bytes))) {
            Ok(Ok(())) => {
                self.bytes.push(b'\n');
                return self.places.push(place);
            }
            Ok(Err(error)) => shared.unwritable(&error),
            Err(_) => shared.unwritable(&"a fault of this program"),
        }
        self.bytes.truncate(begin);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BATCH_RECORDS * LINE_BYTES);
        self.written = 0;
        self.places.clear();
    }

    fn write(&mut self, to: &mut File) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match to.write(&self.bytes[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn back_to_a_whole_line(&mut self) {
        let done = &self.bytes[..self.written];
        self.written = done.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    }
}

fn open(output: &Output) -> Result<File, SinkError> {
    match output {
        Output::Stdout => {
            let fd = io::stdout().as_fd().try_clone_to_owned().map_err(SinkError::Stdout)?;
            Ok(File::from(fd))
        }
        Output::File(path) => {
            open_file(path).map_err(|source| SinkError::Open { path: path.clone(), source })
        }
    }
}

/// A file that ends in a line cut short, as after a crash, goes on with a new line.
fn open_file(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_short_is_written_whole_into_the_next_file() {
        let mut batch = Batch { bytes: b"one\ntwo\nthree\n".to_vec(), written: 6, places: Vec::new() };
        batch.back_to_a_whole_line();
        assert_eq!(batch.written, 4);
        batch.written = 2;
        batch.back_to_a_whole_line();
        assert_eq!(batch.written, 0);
    }
}
