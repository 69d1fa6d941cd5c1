//! All that the demo starts: an issuer, two upstreams and the proxy itself, which is the serving code
//! with a configuration read from files.

use std::net::SocketAddr;
use std::time::Duration;

use super::configuration::{self, PolicySource, Surroundings};
use super::folder::{Access, Document, Folder};
use super::issuer::{Issuer, IssuerKey, Login};
use super::loopback::Listening;
use super::records::Records;
use super::{DemoError, curl, upstream, workloads};
use crate::clock::{Clock, Timestamp};
use crate::server::Server;

/// What runs, until it is dropped.
pub struct Stage {
    // Dropped in this order: the proxy first, its folder last.
    _server: Server,
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    pub issuer: Issuer,
    pub upstreams: [Listening; 2],
    key: IssuerKey,
    pub clock: Clock,
    pub folder: Folder,
}

/// Of the certificates; nobody lets a demo run for longer.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// As issuers have it for access tokens.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);

impl Stage {
    pub async fn set(policy: &PolicySource, clock: Clock) -> Result<Stage, DemoError> {
        let key = IssuerKey::generate()?;
        let issuer = Issuer::start(&key).await?;
        let upstreams = [upstream::start("orders").await?, upstream::start("orders-next").await?];
        let folder = Folder::temporary()?;
        let around = Surroundings {
            issuer: &issuer.url,
            orders: upstreams[0].address,
            orders_next: upstreams[1].address,
        };
        folder.write(&[policy.document(), configuration::temporary_site(&around)])?;
        folder.write(&workloads::documents(clock.now(), CERTIFICATE_LIFETIME)?)?;
        let server = Server::start(policy.load(folder.path(), &clock)?, clock.clone())?;
        let mut listeners = server.addresses().listeners.iter();
        let proxy = listeners.find(|(name, _)| name.as_str() == configuration::LISTENER);
        let proxy = proxy.map(|(_, address)| *address).ok_or(DemoError::NoListener)?;
        let stage = Stage { _server: server, proxy, issuer, upstreams, key, clock, folder };
        stage.renew_tokens()?;
        Ok(stage)
    }

    /// A token minted now.
    pub fn token(&self, login: Login) -> Result<String, DemoError> {
        self.key.token(&self.issuer.url, login, self.clock.now(), TOKEN_LIFETIME)
    }

    /// Replaces the tokens that the curl lines send.
    pub fn renew_tokens(&self) -> Result<(), DemoError> {
        self.folder.write(&headers(&self.key, &self.issuer.url, self.clock.now(), TOKEN_LIFETIME)?)
    }

    /// The proxy's audit records, from the first.
    pub fn records(&self) -> Result<Records, DemoError> {
        Ok(Records::open(&self.folder.path().join(configuration::AUDIT_FILE))?)
    }
}

/// The tokens of all logins, as curl takes them.
pub fn headers(
    key: &IssuerKey,
    issuer: &str,
    now: Timestamp,
    lifetime: Duration,
) -> Result<Vec<Document>, DemoError> {
    let document = |login: &Login| {
        let token = key.token(issuer, *login, now, lifetime)?;
        Ok(Document::new(curl::header_file(*login), Access::Owner, curl::header(&token)))
    };
    Login::ALL.iter().map(document).collect()
}
