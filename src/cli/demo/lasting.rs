//! `--write DIR`: the demo as a first configuration of one's own.
//!
//! Nothing of it needs the demo to run on: the issuer's keys stand in a file. The keys with which
//! certificates and tokens were signed are not among it, so what is there cannot become more.

use std::path::Path;
use std::time::Duration;

use super::configuration::{self, KEYS_FILE, LASTING_ISSUER, LASTING_PROXY, PolicySource};
use super::folder::{Access, Document, Folder};
use super::issuer::IssuerKey;
use super::{DemoError, curl, requests, stage, workloads};
use crate::clock::Clock;

/// Of certificates and tokens: long enough to learn with. No real token lives as long.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Writes all of it into the folder `path`; gives what there is to say about it.
pub fn write(path: &Path, policy: &PolicySource, clock: &Clock) -> Result<String, DemoError> {
    let now = clock.now();
    let ends = now.plus(LIFETIME);
    let key = IssuerKey::generate()?;
    let about = format!(
        "The demo's requests, against `countersign run -c` with this folder; PROXY=address:port asks elsewhere.\n\
         \n\
         Made at {now}. Certificates, revocation list and tokens are good until\n\
         {ends}. The keys that signed them were thrown away, so there will be no more\n\
         of them: `countersign demo --write` makes new ones. The login in clients/alice.header is fresh for\n\
         15 minutes; after that the refund asks for a new one, with 401 step_up_required. What is allowed is\n\
         passed on to [upstream.orders] in 20-site.toml, and answered with 502 until something listens there."
    );
    let mut documents = vec![
        policy.document(),
        configuration::lasting_site(),
        Document::new(KEYS_FILE, Access::Everybody, format!("{:#}\n", key.jwks())),
        Document::new("requests.sh", Access::Run, curl::script(&requests::lines(), LASTING_PROXY, &about)),
    ];
    let tests = policy.tests();
    let of_tests = match tests {
        Some(_) => "policy.test.toml  tests of that, for `countersign test`\n  ",
        None => "",
    };
    documents.extend(tests);
    documents.extend(workloads::documents(now, LIFETIME)?);
    documents.extend(stage::headers(&key, LASTING_ISSUER, now, LIFETIME)?);

    // A policy that cannot be loaded leaves nothing behind.
    let trial = Folder::temporary()?;
    trial.write(&documents)?;
    policy.load(trial.path(), clock)?;
    Folder::lasting(path)?.write(&documents)?;

    let quoted = |path: &Path| curl::quoted(&path.to_string_lossy());
    let folder = path.display();
    let (config, script) = (quoted(path), quoted(&path.join("requests.sh")));
    Ok(format!(
        "{folder} holds a configuration that can be served:\n\
         \n  \
           10-policy.toml    who may do what\n  \
           {of_tests}\
           20-site.toml      what is different on this machine: addresses, upstreams, the issuer\n  \
           certs/            what the proxy reads: its CA, revocation list, certificate and key\n  \
           clients/          certificates with their keys, and tokens, of those who ask\n  \
           jwks.json         the issuer's public keys\n  \
           requests.sh       the demo's requests, with what must come of each\n\
         \n\
         Serve it, which prints the audit record of every request, then ask in another terminal:\n\
         \n  \
           countersign run -c {config}\n  \
           {script}\n\
         \n\
         What is allowed is answered with 502 until a service listens at 127.0.0.1:8080; name your own in\n\
         20-site.toml. Certificates and tokens are good until {ends}; Alice's login is\n\
         fresh enough for a refund for 15 minutes. The signing keys were thrown away: for more, write a new\n\
         folder, or name your own issuer and CA.\n"
    ))
}
