//! The demo's configuration: the sample that is shipped, byte for byte, and a second file with what is
//! different on this machine. Both are loaded as every configuration is.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::DemoError;
use super::folder::{Access, Document};
use crate::clock::Clock;
use crate::config::{self, Config};

/// The sample, which is also the policy of the docs.
pub const SAMPLE: &str = include_str!("../../../config/sidecar.toml");
const SAMPLE_TESTS: &str = include_str!("../../../config/sidecar.test.toml");

/// The listener of the sample.
pub const LISTENER: &str = "mesh";
/// Where `--write` leaves the proxy to listen.
pub const LASTING_PROXY: &str = "127.0.0.1:8443";
/// The `iss` of the tokens that `--write` leaves.
pub const LASTING_ISSUER: &str = "https://login.example.com";
/// The keys of that issuer.
pub const KEYS_FILE: &str = "jwks.json";
/// Where the audit records go.
pub const AUDIT_FILE: &str = "audit.jsonl";

const POLICY_FILE: &str = "10-policy.toml";
const SITE_FILE: &str = "20-site.toml";
const TESTS_FILE: &str = "policy.test.toml";

/// Who may do what: the sample, or a file that takes its place.
#[derive(Debug)]
pub struct PolicySource {
    pub text: String,
    /// The file, as it was typed.
    pub file: Option<PathBuf>,
}

/// What the temporary proxy has around it.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub issuer: &'a str,
    pub orders: SocketAddr,
    pub orders_next: SocketAddr,
}

impl PolicySource {
    /// # Errors
    /// [`DemoError::Policy`] where the file cannot be read.
    pub fn read(file: Option<&Path>) -> Result<PolicySource, DemoError> {
        let text = match file {
            Some(file) => {
                let failed = |source| DemoError::Policy { path: file.to_owned(), source };
                std::fs::read_to_string(file).map_err(failed)?
            }
            None => SAMPLE.to_owned(),
        };
        Ok(PolicySource { text, file: file.map(Path::to_owned) })
    }

    pub fn document(&self) -> Document {
        Document::new(POLICY_FILE, Access::Everybody, self.text.clone())
    }

    /// What the sample allows and what it does not; nobody knows that of another policy.
    pub fn tests(&self) -> Option<Document> {
        let is_sample = self.file.is_none();
        is_sample.then(|| Document::new(TESTS_FILE, Access::Everybody, SAMPLE_TESTS.to_owned()))
    }

    /// Loads what stands in `folder`. Errors in the policy name the file that was typed, not its copy.
    pub fn load(&self, folder: &Path, clock: &Clock) -> Result<Config, DemoError> {
        let loaded = config::load(&[folder.to_owned()], &|name| std::env::var(name).ok(), clock.now());
        loaded.map_err(|report| {
            let text = report.to_text(std::io::stderr().is_terminal());
            let copy = folder.join(POLICY_FILE);
            DemoError::Config(match &self.file {
                Some(file) => text.replace(&*copy.to_string_lossy(), &file.to_string_lossy()),
                None => text,
            })
        })
    }
}

/// The second file of a proxy that ends with the demo.
pub fn temporary_site(around: &Surroundings<'_>) -> Document {
    let Surroundings { issuer, orders, orders_next } = around;
    let text = format!(
        r#"version = 1

[proxy]
workers = 1

[admin]
address        = "127.0.0.1:0"
health_address = "127.0.0.1:0"

[listener.{LISTENER}]
address = "127.0.0.1:0"

[issuer.corp]
url        = "{issuer}"
allow_http = true

[upstream.orders]
server = ["http://{orders}"]
[upstream.orders-next]
server = ["http://{orders_next}"]

[audit]
output = "{AUDIT_FILE}"
"#
    );
    Document::new(SITE_FILE, Access::Everybody, text)
}

/// The second file of a proxy that outlives the demo.
pub fn lasting_site() -> Document {
    let text = format!(
        r#"# What is different on this machine. The files of a folder are read by name: tables add up, and of what
# stands in an earlier file a later one may change [proxy], [admin], [identity], [listener.*],
# [upstream.*] and an issuer's `url`, `jwks` and `audience`; never a rule, role, service or route.
version = 1

[admin]
health_address = "127.0.0.1:9902"

[listener.{LISTENER}]
address = "{LASTING_PROXY}"

[issuer.corp]
url  = "{LASTING_ISSUER}"
jwks = "{KEYS_FILE}"                   # the demo's issuer ended with the demo; with a real one, take this line out

[upstream.orders]
server = ["http://127.0.0.1:8080"]   # your service here; until one listens, what is allowed is answered with 502
[upstream.orders-next]
server = ["http://127.0.0.1:8081"]
"#
    );
    Document::new(SITE_FILE, Access::Everybody, text)
}
