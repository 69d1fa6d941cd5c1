//! `[identity]`: where our own certificate comes from, and with it, perhaps, CAs of trust domains.

use super::elsewhere::{NotASocket, UnixSocket};
use super::error::Diagnostics;
use super::file::File;
use super::file_identity::{Identity, IdentitySource};
use super::identity_sources;
use super::listeners::check_pair;
use super::material::Material;
use super::source::At;
use crate::identity::TrustDomain;
use crate::tls::Own;
use crate::tls::source::{SourceSettings, workload_api};

/// What stands in the environment of every workload that a SPIFFE Workload API is there for
/// (SPIFFE Workload Endpoint §4).
const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Keys that belong to one source alone, and the source's own name.
const OF_SOURCES: [(IdentitySource, &str, &[&str]); 4] = [
    (IdentitySource::Files, "files", &["certificate", "private_key", "passphrase"]),
    (IdentitySource::WorkloadApi, "workload_api", &["workload_api", "hint"]),
    (IdentitySource::Consul, "consul", &["consul"]),
    (IdentitySource::AwsPrivateCa, "aws_private_ca", &["aws_private_ca"]),
];

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
    refuse_keys_of_others(identity, source, found);
    let settings = match source {
        IdentitySource::Files => return (from_files(table, material, found), None),
        IdentitySource::WorkloadApi => workload_api(table, material, found).map(SourceSettings::WorkloadApi),
        IdentitySource::Consul => mandatory("consul", &identity.consul, table, found)
            .and_then(|typed| identity_sources::consul(typed, material, found))
            .map(SourceSettings::Consul),
        IdentitySource::AwsPrivateCa => mandatory("aws_private_ca", &identity.aws_private_ca, table, found)
            .and_then(|typed| identity_sources::aws_private_ca(typed, material, found))
            .map(SourceSettings::AwsPrivateCa),
    };
    (Some(Own::Awaited), settings)
}

/// The table of a source, which cannot do without.
fn mandatory<'t, T>(
    key: &str,
    typed: &'t Option<At<T>>,
    table: &At<Identity>,
    found: &mut Diagnostics,
) -> Option<&'t At<T>> {
    if !table.value.gives(key) {
        let message = format!("`[identity]` with `source = \"{key}\"` says nothing of it");
        found.error("missing_key", table.span, message, format!("add `[identity.{key}]`"));
    }
    typed.as_ref()
}

/// Of which trust domains a source gives the CAs, where these name none.
pub enum Issues {
    None,
    /// Of the one that it is in, as far as that is known.
    Own(Option<TrustDomain>),
    Any,
}

pub fn issues(file: &File) -> Issues {
    let Some(identity) = file.identity.as_ref().map(|identity| &identity.value) else { return Issues::None };
    match identity.source.as_ref().map(|source| source.value) {
        Some(IdentitySource::Files) => Issues::None,
        Some(IdentitySource::WorkloadApi) => Issues::Any,
        Some(IdentitySource::Consul) => Issues::Own(None),
        Some(IdentitySource::AwsPrivateCa) => {
            let ca = identity.aws_private_ca.as_ref();
            let id = ca.and_then(|ca| ca.value.spiffe_id.as_ref());
            Issues::Own(id.map(|id| id.value.trust_domain().clone()))
        }
        // Given, and not understood.
        None if identity.gives("source") => Issues::Any,
        None => Issues::None,
    }
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
fn refuse_keys_of_others(identity: &Identity, source: IdentitySource, found: &mut Diagnostics) {
    let name = OF_SOURCES.iter().find(|(of, ..)| *of == source).map_or("", |(_, name, _)| name);
    let of_others = OF_SOURCES.iter().filter(|(of, ..)| *of != source).flat_map(|(.., keys)| *keys);
    for (key, span) in of_others.filter_map(|key| Some((key, identity.span_of(key)?))) {
        let message = format!("`{key}` means nothing with `source = \"{name}\"`");
        found.error("contradiction", span, message, "take one of the two out");
    }
}
