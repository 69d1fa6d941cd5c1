//! The revocation list: a file of its own, which changes without the configuration.
//!
//! Read with the configuration, and again by itself whenever it changes; so nothing in it depends on a variable.

use std::path::{Path, PathBuf};

use schemars::{Schema, SchemaGenerator, json_schema};

use super::definition::table;
use super::error::{Diagnostic, Diagnostics, Report, suggestion};
use super::file::File;
use super::lints;
use super::names::{entries, items};
use super::read::{Field, List, Reader};
use super::source::{At, FileId, Sources, Span};
use super::tree::{self, Node, Value};
use super::value::{Moment, Version};
use crate::clock::Timestamp;
use crate::identity::{CertificateHash, Name, SpiffeId, TrustDomain};
use crate::policy::lint::Code;
use crate::revocation::{Entry, Idle, Revocations, Target};

table! {
    /// A revocation list of Countersign.
    RevocationList {
        /// The version of this format: 1.
        version: Version = required,
        /// Who and what is revoked.
        revoked: List<RevokedEntry>,
    }
}

table! {
    /// One that is revoked: exactly one of `jti`, `subject`, `client`, `spiffe_id` and `certificate`.
    RevokedEntry {
        /// Whose token, subject or client it is: an `[issuer.NAME]`.
        issuer: Name,
        /// One token, by its `jti`. A token without one can only be revoked by its subject or client.
        jti: String,
        /// All tokens for this subject, and those in which this subject acts for somebody.
        subject: String,
        /// All tokens that were issued to this client.
        client: String,
        /// All certificates of this workload; exact.
        spiffe_id: SpiffeId,
        /// One certificate, and all tokens that are bound to it, by the SHA-256 of its DER in hex, as records show it and
        /// `openssl x509 -fingerprint -sha256` prints it.
        certificate: Fingerprint,
        /// From then on it is revoked no longer, as when what is revoked has expired. Default: for good.
        until: Moment,
        /// Why, for the record of whoever is refused. Default: nothing.
        reason: String,
    }
}

/// SHA-256 of a certificate, as people have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub CertificateHash);

/// Where the list stands, and what its entries may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationSettings {
    pub file: PathBuf,
    pub issuers: Vec<Name>,
    /// Of all whom this proxy may know by a SPIFFE ID.
    pub trust_domains: Vec<TrustDomain>,
}

/// As records have it, and as `openssl x509 -fingerprint -sha256` does.
const PREFIXES: [&str; 2] = ["sha256:", "sha256 Fingerprint="];

fn hex_digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_hexdigit).count()
}

impl Field for Fingerprint {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "the SHA-256 of a certificate in hex, as records show it or `openssl x509 -fingerprint -sha256` prints it";
        let text = reader.text(node, EXPECTED)?;
        let prefix = PREFIXES
            .iter()
            .find_map(|prefix| text.get(..prefix.len()).filter(|it| it.eq_ignore_ascii_case(prefix)));
        let digits = text[prefix.map_or(0, str::len)..].replace(':', "");
        let mut hash = [0; 32];
        match hex::decode_to_slice(&digits, &mut hash) {
            Ok(()) => Some(Fingerprint(CertificateHash(hash))),
            Err(_) => {
                let why =
                    format!("it has {} hex digits after its prefix, and not 64 alone", hex_digits(&digits));
                reader.refuse(node.span, text, &why, EXPECTED);
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([Ss][Hh][Aa]256(:| [Ff]ingerprint=))?([0-9A-Fa-f]{2}:?){32}$" })
    }
}

/// The JSON Schema of a revocation list.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::SchemaGenerator::default().into_root_schema_for::<RevocationList>();
    schema.insert("title".to_owned(), "A revocation list of Countersign".into());
    schema.to_value()
}

/// Reads a list that stands by itself.
///
/// # Errors
/// All that is wrong with it; then nothing of it counts.
pub fn load(settings: &RevocationSettings, now: Timestamp) -> Result<Revocations, Report> {
    let (mut sources, mut found) = (Sources::default(), Diagnostics::default());
    let read = match std::fs::read_to_string(&settings.file) {
        Ok(text) => read(settings, text, &mut sources, now, &mut found),
        Err(error) => {
            let file = sources.add(settings.file.clone(), String::new());
            unreadable(&settings.file, &error, Span::start_of(file), &mut found);
            None
        }
    };
    match read {
        Some(revocations) if !found.has_errors() => Ok(revocations),
        _ => Err(Report::new(sources, found, [settings.file.clone()].into())),
    }
}

/// The list that the configuration names, and where it stands.
pub fn configured(
    file: &File,
    sources: &mut Sources,
    now: Timestamp,
    found: &mut Diagnostics,
) -> (Option<RevocationSettings>, Revocations) {
    let none = (None, Revocations::default());
    let Some(at) = file.revocation.as_ref().and_then(|table| table.value.file.as_ref()) else { return none };
    let issuers = entries(&file.issuer).iter().map(|(name, _)| name.value.clone()).collect();
    let path = &at.value.0;
    let settings = RevocationSettings { file: path.clone(), issuers, trust_domains: trust_domains(file) };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            unreadable(path, &error, at.span, found);
            return none;
        }
    };
    let Some(revocations) = read(&settings, text, sources, now, found) else { return none };
    let code = Code::RevocationIdle;
    for Idle { line, why } in revocations.idle() {
        if !lints::is_allowed(file, code.as_str(), None) {
            let message = format!("line {line} of the list: it revokes nothing{why}");
            let remedy = "take the entry out, or correct it".to_owned();
            let (severity, code, span) = (code.severity(), code.as_str(), at.span);
            found.push(Diagnostic { severity, code, span, message, remedy, related: None });
        }
    }
    (Some(settings), revocations)
}

/// Those that are configured, and those of servers that are known by their SPIFFE IDs.
fn trust_domains(file: &File) -> Vec<TrustDomain> {
    let configured = entries(&file.trust_domain).iter().map(|(name, _)| name.value.clone());
    let upstreams = entries(&file.upstream).iter().map(|(_, upstream)| &upstream.value.server_spiffe_id);
    let issuers = entries(&file.issuer).iter().map(|(_, issuer)| &issuer.value.server_spiffe_id);
    let servers = upstreams.chain(issuers).flat_map(items).map(|id| id.value.trust_domain().clone());
    configured.chain(servers).collect()
}

fn unreadable(path: &Path, error: &std::io::Error, span: Span, found: &mut Diagnostics) {
    let message = format!("the revocation list `{}` cannot be read: {error}", path.display());
    let remedy = "put it there, with `version = 1` alone while nothing is revoked";
    found.error("unreadable_file", span, message, remedy);
}

/// What the list says. An entry that revokes nothing is told of, and keeps none of the others out.
fn read(
    settings: &RevocationSettings,
    text: String,
    sources: &mut Sources,
    now: Timestamp,
    found: &mut Diagnostics,
) -> Option<Revocations> {
    let file = sources.add(settings.file.clone(), text);
    let list = typed(file, sources, found)?;
    let mut revocations = Revocations::default();
    for entry in items(&list.revoked) {
        let Some(target) = target(entry, found) else { continue };
        let typed = &entry.value;
        let until = typed.until.map(|until| until.value.0);
        let why = match until.filter(|until| *until <= now) {
            Some(until) => Some(format!(" since {until}")),
            None => idle(&target, settings),
        };
        if let Some(why) = why {
            revocations.add_idle(Idle { line: sources.position(entry.span).line, why });
            continue;
        }
        let reason = typed.reason.as_ref().map(|reason| reason.value.as_str().into());
        revocations.add(target, Entry { until, reason });
    }
    Some(revocations)
}

/// Why a target can be none of ours, if so.
fn idle(target: &Target, settings: &RevocationSettings) -> Option<String> {
    let unknown = |kind: &str, name: &str, known: Vec<&str>| {
        let missing = !known.contains(&name);
        missing.then(|| format!(": there is no {kind} `{name}`, {}", suggestion(name, known)))
    };
    match target {
        Target::Token { issuer, .. } | Target::Subject { issuer, .. } | Target::Client { issuer, .. } => {
            let known = settings.issuers.iter().map(Name::as_str).collect();
            unknown("issuer", issuer.as_str(), known)
        }
        Target::Workload(id) => {
            let known = settings.trust_domains.iter().map(TrustDomain::as_str).collect();
            unknown("trust domain", id.trust_domain().as_str(), known)
        }
        Target::Certificate(_) => None,
    }
}

fn typed(file: FileId, sources: &Sources, found: &mut Diagnostics) -> Option<RevocationList> {
    let whole = tree::parse(file, sources, found);
    let node = Node { value: Value::Table(whole), span: Span::start_of(file) };
    RevocationList::read(&node, &mut Reader { found, sources, secrets: &mut Vec::new() })
}

/// The one thing that an entry names; `None` after an error was pushed.
fn target(entry: &At<RevokedEntry>, found: &mut Diagnostics) -> Option<Target> {
    let RevokedEntry { issuer, jti, subject, client, spiffe_id, certificate, .. } = &entry.value;
    let named = ["jti", "subject", "client", "spiffe_id", "certificate"];
    let named: Vec<_> = named.into_iter().filter(|key| entry.value.gives(key)).collect();
    let [name] = named[..] else {
        let message = format!("an entry names one thing, and this names {}", named.len());
        let remedy = "write one of `jti`, `subject`, `client`, `spiffe_id` and `certificate`";
        found.error("bad_entry", entry.span, message, remedy);
        return None;
    };
    let is_issuers = matches!(name, "jti" | "subject" | "client");
    match (is_issuers, entry.value.gives("issuer")) {
        (true, false) => {
            let message = format!("a {name} means nothing without its issuer");
            found.error("bad_entry", entry.span, message, "write `issuer`, the name of its `[issuer]`");
        }
        (false, true) => {
            let message = format!("`{name}` has no issuer");
            found.error("bad_entry", entry.span, message, "leave `issuer` out");
        }
        _ => {}
    }
    let text = |text: &At<String>| text.value.as_str().into();
    if let Some(id) = spiffe_id {
        return Some(Target::Workload(id.value.clone()));
    }
    if let Some(certificate) = certificate {
        return Some(Target::Certificate(certificate.value.0));
    }
    let issuer = issuer.as_ref()?.value.clone();
    match (jti, subject, client) {
        (Some(id), _, _) => Some(Target::Token { issuer, id: text(id) }),
        (_, Some(name), _) => Some(Target::Subject { issuer, name: text(name) }),
        (_, _, Some(name)) => Some(Target::Client { issuer, name: text(name) }),
        (None, None, None) => None,
    }
}
