//! The least request that fulfils a demand in a cell.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::cells::{CallerCell, Cell, PeerCell};
use super::search::Search;
use super::{STAND_IN, Witness};
use crate::identity::{Hop, Peer, PeerName, Signature};
use crate::policy::action::is_grpc;
use crate::policy::cells::{Built, Demand, Gap, Unbuilt};
use crate::policy::pattern::HostPattern;
use crate::policy::{Host, NormalPath};

const CREDENTIALS_LAST: Duration = Duration::from_secs(3_600);
/// RFC 3986 §2.3.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a demand alone decides.
pub type Addressed = (Host, HeaderMap);

impl Search<'_> {
    pub(super) fn witness(&self, demand: &Demand, cell: &Cell) -> Built<Witness> {
        in_cell(&self.least(demand, cell)?, &self.addressed(demand)?, cell)
    }

    /// By whoever it is in this cell, wherever it is addressed to.
    pub(super) fn least(&self, demand: &Demand, cell: &Cell) -> Built<Witness> {
        let shape = demand.path.of_length(cell.length);
        let peer = self.peer(cell)?;
        let (token, path) = match cell.caller {
            CallerCell::Present { vouched, acting } => {
                let mut token = (self.realm.token)(vouched, acting, demand, &shape, cell.at)?;
                let certificate = peer.verified().map(|peer| &peer.certificate);
                for caller in &mut token.callers {
                    let bound = caller.as_ref().ok().and_then(Signature::verified);
                    if let Some(Err(code)) = bound.map(|bound| (self.realm.bound)(bound, certificate)) {
                        *caller = Err(code);
                    }
                }
                let path = token.path.clone();
                (Some((vouched, token)), path)
            }
            CallerCell::Absent => {
                let fill = |(at, segment): (usize, &Option<Arc<str>>)| match segment {
                    Some(literal) => Ok(Arc::clone(literal)),
                    None => Ok(self.fresh.word(at + 1)?.into()),
                };
                (None, shape.segments.iter().enumerate().map(fill).collect::<Built<_>>()?)
            }
        };
        let encoded = path.iter().map(|segment| format!("/{}", utf8_percent_encode(segment, SEGMENT)));
        let text: String = encoded.collect();
        let path = NormalPath::parse(if text.is_empty() { "/" } else { &text });
        let (host, headers) = self.addressed(demand)?;
        Ok(Witness {
            peer,
            token,
            method: cell.method.clone(),
            host,
            path: path.map_err(|_| Unbuilt::Open(Gap::Name))?,
            headers,
            hop: hop(cell)?,
            peer_ip: cell.peer_ip,
            client_ip: cell.client_ip,
            at: cell.at,
        })
    }

    pub(super) fn addressed(&self, demand: &Demand) -> Built<Addressed> {
        let mut headers: HeaderMap = demand.headers.iter().cloned().collect();
        if demand.grpc {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/grpc"));
            // each of its values must be gRPC's, and the one that is demanded is not
            if !is_grpc(&headers) {
                return Err(Unbuilt::Impossible);
            }
        }
        let host = self.host(demand.host.as_ref())?.parse().map_err(|_| Unbuilt::Open(Gap::Name))?;
        Ok((host, headers))
    }

    fn host(&self, pattern: Option<&HostPattern>) -> Built<String> {
        Ok(match pattern {
            Some(HostPattern::Exact(host)) => host.to_string(),
            Some(HostPattern::Wildcard(parent)) => format!("{}.{parent}", self.fresh.word(1)?),
            // under no domain that a wildcard is of
            None => format!("{}.{}", self.fresh.word(1)?, self.fresh.word(2)?),
        })
    }

    fn peer(&self, cell: &Cell) -> Built<Signature<Peer>> {
        let spiffe = |id: String| id.parse().map(PeerName::Spiffe).map_err(|_| Unbuilt::Open(Gap::Name));
        let name = match &cell.peer {
            PeerCell::Absent => return Ok(Signature::Absent),
            PeerCell::Unknown => self.unknown.clone()?,
            PeerCell::Spiffe { trust_domain, path } => {
                let mut id = format!("spiffe://{trust_domain}");
                for (at, segment) in path.segments.iter().enumerate() {
                    id.push('/');
                    match segment {
                        Some(literal) => id.push_str(literal),
                        None => id.push_str(&self.fresh.word(at + 1)?),
                    }
                }
                spiffe(id)?
            }
            PeerCell::Dns { trust_domain, names } => PeerName::Dns {
                names: names.iter().map(|name| Ok(self.host(Some(name))?.into())).collect::<Built<_>>()?,
                trust_domain: trust_domain.clone(),
            },
        };
        Ok(Signature::Verified(Arc::new(Peer {
            name,
            certificate: STAND_IN,
            not_after: cell.at.plus(CREDENTIALS_LAST),
            hop: Hop::Direct,
        })))
    }
}

fn hop(cell: &Cell) -> Built<Hop> {
    Ok(match &*cell.hop {
        "direct" => Hop::Direct,
        "local" => Hop::Local,
        name => Hop::Trusted(name.parse().map_err(|_| Unbuilt::Open(Gap::Name))?),
    })
}

/// The same caller, path and time, in another cell of theirs.
pub fn in_cell(least: &Witness, (host, headers): &Addressed, cell: &Cell) -> Built<Witness> {
    let hop = hop(cell)?;
    let peer = match &least.peer {
        Signature::Verified(peer) => {
            Signature::Verified(Arc::new(Peer { hop: hop.clone(), ..Peer::clone(peer) }))
        }
        other => other.clone(),
    };
    Ok(Witness {
        peer,
        method: cell.method.clone(),
        host: host.clone(),
        headers: headers.clone(),
        hop,
        peer_ip: cell.peer_ip,
        client_ip: cell.client_ip,
        ..least.clone()
    })
}
