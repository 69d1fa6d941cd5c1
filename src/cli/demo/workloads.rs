//! The demo's workloads: throw-away CAs, and the certificates with which its clients and its proxy
//! present themselves.

use std::time::Duration;

use super::DemoError;
use super::folder::{Access, Document};
use super::requests::HOST;
use crate::cli::mint::{Authority, CaSpec, LeafSpec, Minted, Validity};
use crate::clock::Timestamp;

/// A client of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Storefront,
    Assistant,
    /// Of the same trust domain, but no `[service]` of the sample names it.
    Reports,
    /// Calls itself the storefront; a CA that the proxy does not know vouches for it.
    Stranger,
}

impl Workload {
    pub const ALL: [Workload; 4] =
        [Workload::Storefront, Workload::Assistant, Workload::Reports, Workload::Stranger];

    /// As files call it.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Storefront => "storefront",
            Workload::Assistant => "assistant",
            Workload::Reports => "reports",
            Workload::Stranger => "stranger",
        }
    }

    fn spiffe_id(self) -> &'static str {
        match self {
            Workload::Storefront | Workload::Stranger => "spiffe://shop.example/ns/prod/sa/storefront",
            Workload::Assistant => "spiffe://shop.example/ns/prod/sa/assistant",
            Workload::Reports => "spiffe://shop.example/ns/prod/sa/reports",
        }
    }

    /// Its certificate with its key, in one file as curl takes it.
    pub fn file(self) -> String {
        format!("clients/{}.pem", self.name())
    }
}

/// The CA that the sample's trust domain names; clients verify the proxy by it too.
pub const CA_FILE: &str = "certs/shop-ca.pem";

/// Clocks of containers and their hosts differ.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// All certificates, where the sample looks for them and where the curl lines do. The CAs' own keys
/// end here: nobody can issue more.
pub fn documents(now: Timestamp, lifetime: Duration) -> Result<Vec<Document>, DemoError> {
    let validity = Validity { from: now.minus(BACKDATED), to: now.plus(lifetime) };
    let ca = |name: &str| Authority::root(&CaSpec::new(name, validity));
    let shop = ca("Countersign demo CA")?;
    let stranger = ca("somebody else's CA")?;
    let proxy = LeafSpec {
        dns: vec![HOST.to_owned()],
        ..LeafSpec::workload("spiffe://shop.example/ns/prod/sa/orders", validity)
    };
    let proxy = shop.issue(&proxy)?;
    let mut documents = vec![
        Document::new(CA_FILE, Access::Everybody, shop.pem()),
        Document::new("certs/shop.crl", Access::Everybody, shop.crl(&[], validity)?),
        Document::new("certs/orders.pem", Access::Everybody, proxy.chain),
        Document::new("certs/orders-key.pem", Access::Owner, proxy.key),
    ];
    for workload in Workload::ALL {
        let ca = if workload == Workload::Stranger { &stranger } else { &shop };
        let Minted { chain, key, .. } = ca.issue(&LeafSpec::workload(workload.spiffe_id(), validity))?;
        documents.push(Document::new(workload.file(), Access::Owner, chain + &key));
    }
    Ok(documents)
}
