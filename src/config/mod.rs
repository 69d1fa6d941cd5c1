//! From files to domain types, or to all that is wrong with them at once.
//!
//! What was typed (`file.rs`, private) and what the program runs on are different types: nothing
//! outside this folder sees a key, a default or a name that was not looked up. The runtime imports
//! nothing from here.

mod assertion;
mod canonical;
mod credentials;
pub(crate) mod definition;
mod directions;
mod effective;
mod elsewhere;
pub(crate) mod error;
mod file;
mod file_credential;
mod file_identity;
mod file_policy;
mod hops;
mod identity_sources;
mod issuer_alb;
mod issuer_checks;
mod issuers;
mod lints;
mod listeners;
mod material;
mod names;
mod own_identity;
mod places;
mod ranges;
pub(crate) mod read;
mod resolve;
mod revocation;
mod routes;
mod rules;
mod settings;
pub(crate) mod source;
mod surroundings;
pub(crate) mod tree;
mod upstreams;
pub(crate) mod value;
mod vouching;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use error::{Diagnostic, Diagnostics, Report};
pub use hops::WITHOUT_HOP;
pub use listeners::{ListenerSettings, ListenerTlsSettings};
pub use resolve::Config;
pub use revocation::{RevocationSettings, load as load_revocations, schema as revocation_schema};
pub use settings::{LogFormat, LogSettings};
pub use source::{At, FileId, Position, Sources, Span};
pub use tree::Environment;
pub use upstreams::{IssuerServer, UpstreamConfig, UpstreamTls};

use read::{Field, Reader};

use crate::clock::Timestamp;
use material::Material;

/// Reads files in the order given, each a file or a directory (its `*.toml`, by name), and resolves
/// them. `now` is for what must lie in the future.
///
/// # Errors
/// All that keeps the configuration from being loaded, with findings beside it.
pub fn load(paths: &[PathBuf], environment: Environment<'_>, now: Timestamp) -> Result<Config, Report> {
    load_beside(paths, None, environment, now)
}

/// The same with one more file at the end, by its name and text, which need not be there yet.
///
/// # Errors
/// As [`load`].
pub fn load_beside(
    paths: &[PathBuf],
    more: Option<(&Path, &str)>,
    environment: Environment<'_>,
    now: Timestamp,
) -> Result<Config, Report> {
    let mut found = Diagnostics::default();
    let mut material = Material { environment, now, watched: paths.iter().cloned().collect() };
    let mut sources = sources_of(paths, Kind::Configuration, &mut found);
    if let Some((name, text)) = more {
        sources.add(name.to_owned(), text.to_owned());
    }
    material.watched.extend(sources.ids().map(|file| sources.path(file).to_owned()));
    let typed = read_sources(&mut sources, environment, &mut found);
    resolve::resolve(typed, sources, found, material)
}

/// `[admin]`'s `health_address`, else its `address`, whatever else is wrong with the files: while they
/// cannot be loaded, a running proxy serves on as they were before.
pub fn health_address(paths: &[PathBuf], environment: Environment<'_>) -> Option<SocketAddr> {
    let mut found = Diagnostics::default();
    let mut sources = sources_of(paths, Kind::Configuration, &mut found);
    let typed = read_sources(&mut sources, environment, &mut found)?;
    let admin = typed.file.value.admin?.value;
    admin.health_address.or(admin.address).map(|address| address.value)
}

/// The JSON Schema of the configuration.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::SchemaGenerator::default().into_root_schema_for::<file::File>();
    schema.insert("title".to_owned(), "A configuration of Countersign".into());
    schema.to_value()
}

/// What the names of files end in that stand in folders, of this kind and of no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `*.toml`, but not those of tests.
    Configuration,
    /// `*.test.toml`.
    Tests,
}

/// The files of a directory by name, or the path itself, also where a directory has none or
/// cannot be listed: reading it then says why.
fn files_of(path: &Path, kind: Kind) -> Vec<PathBuf> {
    let listed = path.read_dir().and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut files = listed.unwrap_or_default();
    files.retain(|file| match file.file_name().map(|name| name.to_string_lossy()) {
        Some(name) if name.ends_with(".test.toml") => kind == Kind::Tests,
        Some(name) => kind == Kind::Configuration && name.ends_with(".toml"),
        None => false,
    });
    files.sort();
    if files.is_empty() { vec![path.to_owned()] } else { files }
}

pub(crate) fn sources_of(paths: &[PathBuf], kind: Kind, found: &mut Diagnostics) -> Sources {
    let mut sources = Sources::default();
    for path in paths.iter().flat_map(|path| files_of(path, kind)) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                sources.add(path, text);
            }
            Err(error) => {
                let message = format!("`{}` cannot be read: {error}", path.display());
                let file = sources.add(path, String::new());
                let remedy = match kind {
                    Kind::Configuration => "name a TOML file in UTF-8, or a directory with `*.toml` in it",
                    Kind::Tests => "name a TOML file in UTF-8, or a directory with `*.test.toml` in it",
                };
                found.error("unreadable", Span::start_of(file), message, remedy);
            }
        }
    }
    sources
}

/// All files as one.
struct Typed {
    file: At<file::File>,
    /// The same, for `check --resolved`.
    merged: toml::Table,
}

/// Parses, merges, expands and reads all files.
fn read_sources(
    sources: &mut Sources,
    environment: Environment<'_>,
    found: &mut Diagnostics,
) -> Option<Typed> {
    let mut whole = tree::Table::default();
    let mut first = None;
    for file in sources.ids() {
        first = first.or(Some(file));
        tree::merge(&mut whole, tree::parse(file, sources, found), found);
    }
    let span = Span::start_of(first?);
    tree::expand(&mut whole, environment, found);
    let merged = effective::table(&whole);
    let node = tree::Node { value: tree::Value::Table(whole), span };
    let mut secrets = Vec::new();
    let value = file::File::read(&node, &mut Reader { found, sources, secrets: &mut secrets });
    secrets.into_iter().for_each(|secret| sources.blank(secret));
    value.map(|value| Typed { file: At { value, span }, merged })
}
