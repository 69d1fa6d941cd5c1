//! `[identity]`: where our own certificate comes from, and with it, perhaps, CAs of trust domains.

use super::elsewhere::{NotASocket, UnixSocket};
use super::error::Diagnostics;
use super::file::{File, Identity, IdentitySource};
use super::listeners::check_pair;
use super::material::Material;
use super::source::At;
use crate::tls::Own;
use crate::tls::source::{SourceSettings, workload_api};

/// What stands in the environment of every workload that a SPIFFE Workload API is there for
/// (SPIFFE Workload Endpoint §4).
const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Keys that belong to one source alone.
const OF_FILES: [&str; 3] = ["certificate", "private_key", "passphrase"];
const OF_WORKLOAD_API: [&str; 2] = ["workload_api", "hint"];

/// `[identity]`, where it is given and can be read: what we present, and the source that gives it unless files do.
pub fn own(
    file: &File,
    material: &mut Material<'_>,
    found: &mut Diagnostics,
) -> (Option<Own>, Option<SourceSettings>) {
    let Some(table) = &file.identity else { return (None, None) };
    let identity = &table.value;
    let source = match &identity.source {
        None if identity.gives("source") => return (None, None),
        None => IdentitySource::Files,
        Some(source) => source.value,
    };
    match source {
        IdentitySource::Files => {
            refuse(identity, &OF_WORKLOAD_API, "files", found);
            (from_files(table, material, found), None)
        }
        IdentitySource::WorkloadApi => {
            refuse(identity, &OF_FILES, "workload_api", found);
            let settings = workload_api(table, material, found);
            (Some(Own::Awaited), settings.map(SourceSettings::WorkloadApi))
        }
    }
}

/// Whether a source gives the CAs of trust domains that name none.
pub fn is_issued(file: &File) -> bool {
    let identity = file.identity.as_ref().map(|identity| &identity.value);
    identity.is_some_and(|identity| match &identity.source {
        Some(source) => source.value != IdentitySource::Files,
        // Given, and not understood.
        None => identity.gives("source"),
    })
}

fn from_files(table: &At<Identity>, material: &mut Material<'_>, found: &mut Diagnostics) -> Option<Own> {
    let identity = &table.value;
    let keys = ("certificate", &identity.certificate, "private_key", &identity.private_key);
    check_pair(keys, |key| identity.gives(key), found);
    if !identity.gives("certificate") && !identity.gives("private_key") {
        let message = "`[identity]` names no certificate";
        found.error("missing_key", table.span, message, "add `certificate` and `private_key`");
    }
    let (certificate, key) = (identity.certificate.as_ref()?, identity.private_key.as_ref()?);
    material.own(certificate, key, identity.passphrase.as_ref(), found).map(Own::Known)
}

fn workload_api(
    table: &At<Identity>,
    material: &Material<'_>,
    found: &mut Diagnostics,
) -> Option<workload_api::Settings> {
    let identity = &table.value;
    let hint = identity.hint.as_ref().map(|hint| hint.value.clone());
    let settings = |UnixSocket(socket)| workload_api::Settings { socket, hint };
    if identity.gives("workload_api") {
        return identity.workload_api.as_ref().map(|socket| settings(socket.value.clone()));
    }
    const REMEDY: &str = "add `workload_api = \"unix:/run/spire/sockets/agent.sock\"`";
    match (material.environment)(SOCKET_VARIABLE).map(|text| text.parse()) {
        Some(Ok(socket)) => Some(settings(socket)),
        Some(Err(NotASocket)) => {
            let message =
                format!("the variable `{SOCKET_VARIABLE}` names no socket of the form `unix:/path`");
            found.error("bad_value", table.span, message, REMEDY);
            None
        }
        None => {
            let message = format!(
                "`[identity]` names no Workload API, and the variable `{SOCKET_VARIABLE}` is not set"
            );
            found.error("missing_key", table.span, message, REMEDY);
            None
        }
    }
}

/// Keys that mean something only with another source.
fn refuse(identity: &Identity, keys: &[&str], source: &str, found: &mut Diagnostics) {
    for (key, span) in keys.iter().filter_map(|key| Some((key, identity.span_of(key)?))) {
        let message = format!("`{key}` means nothing with `source = \"{source}\"`");
        found.error("contradiction", span, message, "take one of the two out");
    }
}
