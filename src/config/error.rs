//! What is wrong with a configuration, shown with file, line, column, the line itself and a remedy.
//!
//! Nothing stops at the first error: whoever reads or resolves pushes into one [`Diagnostics`] and
//! goes on.

use std::collections::BTreeSet;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use serde_json::json;

use super::source::{Sources, Span};
use crate::policy::lint::Severity;

/// One thing that is wrong, or worth knowing, at one place.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable, as `unknown_key`.
    pub code: &'static str,
    pub span: Span,
    /// Lower case, no full stop, what was typed in backticks.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// The other place, where two contradict each other.
    pub related: Option<Span>,
}

/// All that was found so far.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
    /// What variables gave, by the place they stand at.
    hidden: Vec<(Span, String)>,
}

/// What was found in a whole configuration, ready to be shown; sorted by file and position.
#[derive(Debug)]
pub struct Report {
    pub sources: Sources,
    /// All files that were read or looked for, configuration files and their folders included.
    pub watched: BTreeSet<PathBuf>,
    diagnostics: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (message, remedy) = (message.into(), remedy.into());
        self.push(Diagnostic { severity: Severity::Error, code, span, message, remedy, related: None });
    }

    /// An error of two places that contradict each other; shown at the later one.
    pub fn conflict(
        &mut self,
        code: &'static str,
        (span, earlier): (Span, Span),
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (message, remedy) = (message.into(), remedy.into());
        let related = Some(earlier);
        self.push(Diagnostic { severity: Severity::Error, code, span, message, remedy, related });
    }

    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Remembers the content of a variable: an error of this place shows what was typed instead, for
    /// nobody knows what is secret.
    pub fn hide(&mut self, span: Span, content: String) {
        if !content.is_empty() {
            self.hidden.push((span, content));
        }
    }

    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether something is known to be wrong with what stands at this place.
    pub fn has_error_in(&self, span: Span) -> bool {
        let inside = |at: Span| at.file == span.file && span.start <= at.start && at.end <= span.end;
        self.found.iter().any(|it| it.severity == Severity::Error && inside(it.span))
    }

    /// Drops what does not deserve to be shown, as the consequences of another error.
    pub fn retain(&mut self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.found.retain(keep);
    }
}

impl Report {
    /// The process's exit code for a configuration that cannot be loaded (`EX_CONFIG`).
    pub const EXIT_CODE: u8 = 78;

    pub fn new(sources: Sources, diagnostics: Diagnostics, watched: BTreeSet<PathBuf>) -> Report {
        let Diagnostics { found: mut diagnostics, hidden } = diagnostics;
        for diagnostic in &mut diagnostics {
            for (span, content) in hidden.iter().filter(|(span, _)| *span == diagnostic.span) {
                let typed = sources.typed(*span).trim_matches(['"', '\'']);
                // also where it is the end of a path
                let (content, typed) = (format!("{content}`"), format!("{typed}`"));
                diagnostic.message = diagnostic.message.replace(&content, &typed);
                diagnostic.remedy = diagnostic.remedy.replace(&content, &typed);
            }
        }
        diagnostics.sort_by_key(|diagnostic| diagnostic.span);
        Report { sources, watched, diagnostics }
    }

    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// What keeps it from being taken.
    fn errors(&self) -> impl Iterator<Item = (String, &Diagnostic)> {
        let errors = self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        errors.map(|error| {
            let position = self.sources.position(error.span);
            let file = self.sources.path(error.span.file).display();
            (format!("{file}:{}:{}", position.line, position.column), error)
        })
    }

    /// One event for each error.
    pub fn log(&self) {
        for (place, error) in self.errors() {
            tracing::error!(code = error.code, %place, help = %error.remedy, "{}", error.message);
        }
    }

    /// The first error, and how many more there are.
    pub fn in_words(&self) -> String {
        let mut errors = self.errors();
        let first = errors.next().map(|(place, error)| format!("{place}: {}", error.message));
        match errors.count() {
            0 => first.unwrap_or_default(),
            more => format!("{}, and {more} more", first.unwrap_or_default()),
        }
    }

    /// For people; `styled` with colours, for a terminal.
    pub fn to_text(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            text.push_str(&renderer.render(&[self.group(diagnostic)]));
            text.push_str("\n\n");
        }
        text
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Finding => Level::WARNING.with_name(Some("finding")),
            Severity::Information => Level::INFO,
        };
        let group = level.primary_title(&diagnostic.message).id(diagnostic.code).element(self.place(
            diagnostic.span,
            AnnotationKind::Primary,
            None,
        ));
        let group = match diagnostic.related {
            Some(related) => {
                group.element(self.place(related, AnnotationKind::Context, Some("the other is here")))
            }
            None => group,
        };
        group.element(Level::HELP.message(normalize_untrusted_str(&diagnostic.remedy)))
    }

    fn place(
        &self,
        span: Span,
        kind: AnnotationKind,
        label: Option<&'static str>,
    ) -> annotate_snippets::Element<'_> {
        let path = self.sources.path(span.file).display().to_string();
        let text = self.sources.text(span.file);
        if text.is_empty() {
            return Origin::path(path).into();
        }
        let annotation = kind.span(span.start..span.end.min(text.len())).label(label);
        Snippet::source(text).path(path).annotation(annotation).into()
    }

    /// For machines: a list of objects with `severity code file line column text message remedy`.
    pub fn to_json(&self) -> serde_json::Value {
        let entries = self.diagnostics.iter().map(|diagnostic| {
            let position = self.sources.position(diagnostic.span);
            json!({
                "severity": severity_text(diagnostic.severity),
                "code": diagnostic.code,
                "file": self.sources.path(diagnostic.span.file).display().to_string(),
                "line": position.line,
                "column": position.column,
                "text": self.sources.line(diagnostic.span),
                "message": diagnostic.message,
                "remedy": diagnostic.remedy,
            })
        });
        entries.collect()
    }
}

fn severity_text(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Finding => "finding",
        Severity::Information => "information",
    }
}

/// The nearest of the known names, if one is near enough to be what was meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|(distance, name)| {
            let begun = typed.len() >= 3 && name.starts_with(typed);
            begun || *distance <= (name.len().max(typed.len()) / 3).max(1)
        })
        .min()
        .map(|(_, name)| name)
}

/// What a wrong name was meant to be, or the names there are.
pub fn suggestion<'a>(typed: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(name) = nearest(typed, known.clone()) {
        return format!("did you mean `{name}`?");
    }
    let mut names: Vec<_> = known.into_iter().map(|name| format!("`{name}`")).collect();
    names.sort_unstable();
    match names.is_empty() {
        true => "none is defined yet".to_owned(),
        false => format!("known are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_line_and_the_remedy_in_file_order() {
        let mut sources = Sources::default();
        let first = sources.add("a.toml".into(), "version = 1\nnmae = \"x\"\n".into());
        let second = sources.add("b.toml".into(), String::new());
        let mut found = Diagnostics::default();
        found.error("unreadable", Span::start_of(second), "cannot be read", "check the path");
        let span = Span { file: first, start: 12, end: 16 };
        found.error("unknown_key", span, "unknown key `nmae`", "did you mean `name`?");
        let report = Report::new(sources, found, BTreeSet::new());
        let text = report.to_text(false);
        for part in ["error[unknown_key]", "a.toml:2:1", "nmae = \"x\"", "did you mean `name`?", "b.toml"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(report.to_json()[0]["column"], 1);
        assert_eq!(report.to_json()[0]["text"], "nmae = \"x\"");
        assert_eq!(report.to_json()[1]["code"], "unreadable");
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let known = ["address", "audience", "order-reader"];
        assert_eq!(nearest("adress", known), Some("address"));
        assert_eq!(nearest("order_reader", known), Some("order-reader"));
        assert_eq!(nearest("upstream", known), None);
    }
}
