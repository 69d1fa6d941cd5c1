//! Audit files, line by line, however long a line is.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::Why;

/// No record is longer: what it holds is bounded, and most take 2 KiB.
const LINE_BYTES_MAX: u64 = 4 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// Where a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'l> {
    pub file: &'l Path,
    /// From 1.
    pub line: u64,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be read: {source}", path.display())]
pub struct LogError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Hands every line that is not empty to `each`, with how many bytes were read so far. `-` is standard input.
///
/// # Errors
/// At the first file that cannot be read.
pub fn lines<'l>(
    files: &'l [PathBuf],
    mut each: impl FnMut(Place<'l>, Result<&[u8], Why>, u64),
) -> Result<(), LogError> {
    let mut bytes = 0;
    for file in files {
        let failed = |source| LogError { path: file.clone(), source };
        let input: Box<dyn Read> = match file.as_os_str() == "-" {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(file).map_err(failed)?),
        };
        let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
        let mut place = Place { file, line: 0 };
        let mut line = Vec::new();
        while let Some(whole) = next(&mut input, &mut line, &mut bytes).map_err(failed)? {
            place.line += 1;
            match whole {
                true if line.is_empty() => {}
                true => each(place, Ok(&line), bytes),
                false => each(place, Err(Why::TooLong), bytes),
            }
        }
    }
    Ok(())
}

/// The next line without its end, unless there is none; false if it is too long to be one of ours.
fn next(input: &mut impl BufRead, line: &mut Vec<u8>, bytes: &mut u64) -> io::Result<Option<bool>> {
    let mut is_whole = true;
    loop {
        line.clear();
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)?;
        *bytes += read as u64;
        if line.pop_if(|byte| *byte == b'\n').is_some() {
            line.pop_if(|byte| *byte == b'\r');
            return Ok(Some(is_whole));
        }
        if (read as u64) < LINE_BYTES_MAX {
            return Ok((read > 0 || !is_whole).then_some(is_whole));
        }
        is_whole = false;
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
