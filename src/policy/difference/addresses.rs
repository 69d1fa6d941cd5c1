//! Which addresses rules tell apart: of the other end, and of the client.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::policy::cells::{Demand, join_nets};

/// RFC 5737, RFC 3849: nobody's.
const EXAMPLES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The two addresses of a request: of the other end and of the client.
pub struct Addresses {
    nets: [Nets; 2],
    /// Whether there are hops, so that they can differ.
    apart: bool,
}

impl Addresses {
    pub fn new(demands: &[&Demand], apart: bool) -> Addresses {
        let peers = demands.iter().filter_map(|demand| demand.peer_ip);
        let clients = demands.iter().filter_map(|demand| demand.client_ip);
        let nets = match apart {
            true => [Nets::new(peers), Nets::new(clients)],
            false => [Nets::new(peers.chain(clients)), Nets::new(std::iter::empty())],
        };
        Addresses { nets, apart }
    }

    pub fn are_apart(&self) -> bool {
        self.apart
    }

    pub fn least(&self, demand: &Demand) -> Vec<[Option<IpAddr>; 2]> {
        let Demand { peer_ip, client_ip, .. } = *demand;
        let [peers, clients] = &self.nets;
        if self.apart {
            let clients = clients.least(client_ip);
            let with = |peer| clients.iter().map(move |client| [peer, *client]);
            return peers.least(peer_ip).into_iter().flat_map(with).collect();
        }
        let both = match (peer_ip, client_ip) {
            (Some(one), Some(other)) => match join_nets(&one, &other) {
                Some(both) => Some(both),
                None => return Vec::new(),
            },
            (one, other) => one.or(other),
        };
        peers.least(both).into_iter().map(|address| [address; 2]).collect()
    }
}

/// Ranges of addresses, as trees.
struct Nets(Vec<IpNet>);

impl Nets {
    fn new(nets: impl Iterator<Item = IpNet>) -> Nets {
        let nets: BTreeSet<IpNet> = nets.map(|net| net.trunc()).collect();
        Nets(nets.into_iter().collect())
    }

    /// Addresses of the range, or of any, that are in as few other ranges as can be.
    fn least(&self, within: Option<IpNet>) -> Vec<Option<IpAddr>> {
        if self.0.is_empty() {
            return vec![None];
        }
        let Some(net) = within else {
            let families: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
            let free = families.iter().filter(|all| !self.0.contains(all));
            // an address in no range stands for all others
            return match free.filter_map(|all| self.outside_children(all)).next() {
                Some(address) => vec![Some(address)],
                None => families.iter().flat_map(|all| self.least(Some(*all))).collect(),
            };
        };
        let net = net.trunc();
        match self.outside_children(&net) {
            Some(address) => vec![Some(address)],
            None => self.children(&net).into_iter().flat_map(|child| self.least(Some(child))).collect(),
        }
    }

    /// The widest ranges within this one.
    fn children(&self, of: &IpNet) -> Vec<IpNet> {
        let inside: Vec<&IpNet> = self.0.iter().filter(|net| of.contains(*net) && *net != of).collect();
        let widest =
            inside.iter().filter(|net| !inside.iter().any(|other| other != *net && other.contains(**net)));
        widest.map(|net| **net).collect()
    }

    /// An address of this range in none of those within it.
    fn outside_children(&self, of: &IpNet) -> Option<IpAddr> {
        let children = self.children(of);
        let known =
            EXAMPLES.iter().find(|ip| of.contains(*ip) && !children.iter().any(|net| net.contains(*ip)));
        if let Some(example) = known {
            return Some(*example);
        }
        let mut open = vec![*of];
        while let Some(net) = open.pop() {
            if !children.iter().any(|child| net.contains(child) || child.contains(&net)) {
                // the second of a range looks more like somebody's than the first
                return Some(
                    net.hosts()
                        .nth(if net.prefix_len() == net.max_prefix_len() { 0 } else { 1 })
                        .unwrap_or(net.addr()),
                );
            }
            if !children.iter().any(|child| child.contains(&net))
                && let Ok(halves) = net.subnets(net.prefix_len() + 1)
            {
                open.extend(halves);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_as_few_ranges_as_can_be() {
        let nets = |texts: &[&str]| Nets::new(texts.iter().map(|text| text.parse().unwrap()));
        let inside = |nets: &Nets, net: Option<&str>| {
            let found = nets.least(net.map(|net| net.parse().unwrap()));
            let counts =
                found.iter().flatten().map(|ip| nets.0.iter().filter(|net| net.contains(ip)).count());
            counts.collect::<Vec<_>>()
        };
        let some = nets(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32"]);
        assert_eq!(inside(&some, None), [0]);
        assert_eq!(inside(&some, Some("10.0.0.0/8")), [1]);
        assert_eq!(inside(&some, Some("10.1.2.3/32")), [3]);
        let halves = nets(&["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"]);
        assert_eq!(inside(&halves, Some("10.0.0.0/8")), [2, 2]);
        let all = nets(&["0.0.0.0/0", "::/0", "10.0.0.0/8"]);
        assert_eq!(inside(&all, None), [1, 1]);
    }
}
