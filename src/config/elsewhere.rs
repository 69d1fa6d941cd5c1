//! Values that name where something stands: certificates, keys, secrets and records are never in the file
//! itself.

use std::path::PathBuf;
use std::str::FromStr;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::read::{Field, Reader};
use super::tree::{Node, Value};

/// A secret, which never stands in the file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    Env(String),
    File(PathBuf),
}

/// Certificates or keys: a file, or a variable with the PEM itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    File(PathBuf),
    Env(String),
}

/// A path; a relative one starts at the folder of the file it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

/// A socket of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket(pub PathBuf);

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditOutput {
    Stdout,
    File(PathBuf),
}

impl FilePath {
    fn relative_to(node: &Node, text: &str, reader: &Reader<'_>) -> PathBuf {
        reader.sources.folder(node.span.file).join(text)
    }
}

impl Field for FilePath {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, "a path")?;
        Some(FilePath(FilePath::relative_to(node, text, reader)))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

impl FromStr for UnixSocket {
    type Err = NotASocket;

    /// `unix:/path` or `unix:///path`.
    fn from_str(text: &str) -> Result<UnixSocket, NotASocket> {
        let path = text.strip_prefix("unix:").ok_or(NotASocket)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.starts_with('/') { Ok(UnixSocket(path.into())) } else { Err(NotASocket) }
    }
}

/// Why a text names no socket of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not of the form `unix:/path`")]
pub struct NotASocket;

impl Field for UnixSocket {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, "`unix:/path`")?;
        let socket = text.parse();
        socket
            .map_err(|error| {
                reader.error(
                    "bad_value",
                    node.span,
                    format!("`{text}` is no socket: {error}"),
                    "write `unix:/run/spire/sockets/agent.sock`",
                )
            })
            .ok()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^unix:(//)?/" })
    }
}

impl Field for AuditOutput {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "stdout" => Some(AuditOutput::Stdout),
            _ => FilePath::read(node, reader).map(|path| AuditOutput::File(path.0)),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        FilePath::schema(generator)
    }
}

/// `{ env = "NAME" }` or `{ file = "path" }`.
fn elsewhere(node: &Node, reader: &mut Reader<'_>) -> Option<Secret> {
    const EXPECTED: &str = "`{ env = \"NAME\" }` or `{ file = \"path\" }`";
    let table = reader.table(node, EXPECTED)?;
    reader.check_keys(table, &["env", "file"], &[]);
    match (table.entries.get("env"), table.entries.get("file")) {
        (Some(env), None) => {
            let name = reader.text(&env.node, "the name of a variable")?;
            Some(Secret::Env(name.to_owned()))
        }
        (None, Some(file)) => FilePath::read(&file.node, reader).map(|path| Secret::File(path.0)),
        _ => {
            let message = "one of `env` and `file` belongs here".to_owned();
            reader.error("bad_value", node.span, message, format!("write {EXPECTED}"));
            None
        }
    }
}

fn elsewhere_schema() -> Schema {
    let env = "The variable of the environment that holds it.";
    let file = "The file that holds it. Watched.";
    json_schema!({ "oneOf": [
        { "type": "object", "properties": { "env": { "type": "string", "description": env } },
          "required": ["env"], "additionalProperties": false },
        { "type": "object", "properties": { "file": { "type": "string", "description": file } },
          "required": ["file"], "additionalProperties": false },
    ] })
}

impl Field for Secret {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        if let Value::Text(_) = node.value {
            reader.secrets.push(node.span);
            let remedy = "write `{ env = \"NAME\" }` or `{ file = \"path\" }`, and change the secret";
            reader.error("inline_secret", node.span, "a secret stands in the file".to_owned(), remedy);
            return None;
        }
        elsewhere(node, reader)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        elsewhere_schema()
    }
}

impl Field for Pem {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text.contains("-----BEGIN") => {
                reader.secrets.push(node.span);
                let remedy = "write the path of a file, or `{ env = \"NAME\" }`";
                reader.error("inline_pem", node.span, "PEM stands in the file".to_owned(), remedy);
                None
            }
            Value::Table(_) => elsewhere(node, reader).map(|place| match place {
                Secret::Env(name) => Pem::Env(name),
                Secret::File(path) => Pem::File(path),
            }),
            _ => FilePath::read(node, reader).map(|path| Pem::File(path.0)),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "minLength": 1 }, elsewhere_schema()] })
    }
}
