//! The log: what happens to the proxy itself, for operators. Requests are told by the audit records.
//!
//! Written to standard error, pretty on a terminal and as JSON else, so that standard output stays
//! free for audit records. No event of this program may carry a token, a cookie, a key or a query.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic;

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::util::SubscriberInitExt;

use crate::audit::line::{is_misleading, write_escaped};
use crate::config::{LogFormat, LogSettings};

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`{level}` is no log level: {source}")]
    Level { level: String, source: ParseError },
    #[error("the log is already set up")]
    AlreadySetUp,
}

/// Makes every event of this process go to standard error. To be called once.
pub fn set_up(settings: &LogSettings) -> Result<(), LogError> {
    let pretty = match settings.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    subscriber(&settings.level, pretty, io::stderr)?.try_init().map_err(|_| LogError::AlreadySetUp)?;
    // Its message may quote what was sliced or parsed, as a token: the place alone is told.
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a fault of this program, which ended what it was at: please report it");
    }));
    Ok(())
}

fn subscriber<W: Write + 'static>(
    level: &str,
    pretty: bool,
    to: impl Fn() -> W + Send + Sync + 'static,
) -> Result<tracing::Dispatch, LogError> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|source| LogError::Level { level: level.to_owned(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    Ok(if pretty {
        let fields = debug_fn(plain_field).delimited(" ");
        lines.with_target(false).fmt_fields(fields).with_writer(to).into()
    } else {
        let lines = lines.with_writer(move || Escaped(to()));
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).into()
    })
}

/// Escapes in a line of JSON what JSON itself leaves bare: DEL, C1, line separators, bidi controls.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut line = Vec::with_capacity(event.len());
        for c in String::from_utf8_lossy(event).chars() {
            if is_misleading(c) && c != '\n' { write_escaped(c, &mut line) } else { write!(line, "{c}")? }
        }
        self.0.write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Like the default, but no value can move the cursor: fields given with `%` come unescaped, also on
/// a terminal.
fn plain_field(to: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(to, "{field}=")?;
    }
    for c in format!("{value:?}").chars() {
        if is_misleading(c) { write!(to, "{}", c.escape_default())? } else { to.write_char(c)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, pretty: bool) -> String {
        let buffer = Buffer::default();
        let to = buffer.clone();
        let subscriber = subscriber(level, pretty, move || to.clone()).unwrap();
        tracing::dispatcher::with_default(&subscriber, || {
            tracing::debug!("unheard");
            let shown = "\u{1b}[32m";
            tracing::warn!(path = "a\r\nb\u{1b}[31m\u{2028}", %shown, "a \u{1b}[2J\nword");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_line_an_event_whatever_stands_in_it() {
        let text = logged("info", false);
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((text.lines().count(), &event["level"]), (1, &"WARN".into()));
        assert_eq!(event["path"], "a\r\nb\u{1b}[31m\u{2028}");
        assert!(!text.trim_end().chars().any(is_misleading), "{text:?}");
    }

    #[test]
    fn pretty_lines_let_no_field_move_the_cursor() {
        let text = logged("info", true);
        assert!(text.contains("word") && !text.contains("unheard"), "{text:?}");
        assert!(
            !text.contains("\u{1b}[31m")
                && !text.contains("\u{1b}[32m")
                && !text.contains("\u{1b}[2J")
                && !text.contains('\r'),
            "{text:?}"
        );
    }

    #[test]
    fn a_level_that_is_none_is_named() {
        let error = subscriber("countersign=loud", false, io::sink).unwrap_err().to_string();
        assert!(error.starts_with("`countersign=loud` is no log level"), "{error}");
    }
}
