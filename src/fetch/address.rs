//! Which addresses may be dialled: the guard against requests forged towards the inside.
//!
//! An address is judged after resolution and as what it really reaches: IPv4 inside IPv6 (mapped,
//! NAT64, 6to4) is judged as IPv4. Cloud metadata services and addresses that are nobody's host stay
//! refused whatever is allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Judges addresses; see [`Guard::allows`].
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub allow_private_addresses: bool,
}

enum Reach {
    Public,
    /// Loopback, private or shared: dialled only where that is allowed.
    Private,
    /// Never dialled: link-local, metadata, unspecified, multicast, reserved, documentation.
    Nowhere,
}

/// Metadata services outside the link-local ranges: Alibaba, Azure's wire server, Oracle, AWS.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
/// AWS's, and its agent's for the credentials of EKS pods; those of Google, Oracle, Scaleway, Akamai, Alibaba.
const METADATA_V6: [Ipv6Addr; 7] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
];

impl Guard {
    /// Whether a connection to `ip` may be opened.
    pub fn allows(self, ip: IpAddr) -> bool {
        match reach(ip) {
            Reach::Public => true,
            Reach::Private => self.allow_private_addresses,
            Reach::Nowhere => false,
        }
    }
}

/// Where the agent of Amazon ECS gives credentials to the tasks of its machine.
pub const ECS_AGENT: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);
/// The same for Amazon EKS.
const EKS_AGENTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// Whether a request to `ip` does not leave this machine: it is itself, or an agent for credentials on it.
pub fn is_near(ip: IpAddr) -> bool {
    is_loopback(ip) || ip == ECS_AGENT || EKS_AGENTS.contains(&ip)
}

/// Whether `ip` is this very machine.
pub fn is_loopback(ip: IpAddr) -> bool {
    match embedded(ip) {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}

/// Whether `ip` is link-local or a metadata service's: what stands there hands credentials to whoever asks from
/// this machine, so that nobody else's request may be led there.
pub fn is_metadata(ip: IpAddr) -> bool {
    let is_metadata = |ip: Ipv4Addr| ip.is_link_local() || METADATA_V4.contains(&ip);
    match embedded(ip) {
        IpAddr::V4(ip) => is_metadata(ip),
        IpAddr::V6(ip) => {
            let led = translated(ip).into_iter().any(is_metadata);
            led || ip.is_unicast_link_local() || METADATA_V6.contains(&ip)
        }
    }
}

/// The IPv4 addresses that an IPv6 address for the translators of one network may lead to (RFC 8215): which one
/// depends on the length of their prefix, which nobody tells (RFC 6052 §2.2).
fn translated(ip: Ipv6Addr) -> impl IntoIterator<Item = Ipv4Addr> {
    let octets = ip.octets();
    let is_for_them = octets.starts_with(&[0, 0x64, 0xff, 0x9b, 0, 1]);
    let places = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]];
    let at = move |place: [usize; 4]| Ipv4Addr::from(place.map(|at| octets[at]));
    places.into_iter().filter(move |_| is_for_them).map(at)
}

fn reach(ip: IpAddr) -> Reach {
    match embedded(ip) {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

/// The IPv4 address that an IPv6 address leads to, if it is one of those.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] => v4(high, low), // RFC 4291 §2.5.5.2, mapped
        [0x64, 0xff9b, 0, 0, 0, 0] => v4(high, low), // RFC 6052 §2.1, NAT64
        [0x2002, high, low, _, _, _] => v4(high, low), // RFC 3056 §2, 6to4
        [0, 0, 0, 0, 0, 0] if high != 0 => v4(high, low), // RFC 4291 §2.5.5.1, compatible
        _ => ip,
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b); // RFC 6598
    let benchmarking = a == 198 && (18..20).contains(&b); // RFC 2544
    let protocol = [a, b, c] == [192, 0, 0] || [a, b, c] == [192, 88, 99];
    if METADATA_V4.contains(&ip)
        || a == 0
        || a >= 224
        || benchmarking
        || protocol
        || ip.is_link_local()
        || ip.is_documentation()
    {
        Reach::Nowhere
    } else if ip.is_loopback() || ip.is_private() || shared {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let [first, second, ..] = ip.segments();
    let unique_local = first & 0xfe00 == 0xfc00; // RFC 4193
    if METADATA_V6.contains(&ip) {
        Reach::Nowhere
    } else if ip.is_loopback() || unique_local {
        Reach::Private
    } else if first & 0xe000 == 0x2000
        && first != 0x3fff
        && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
    {
        // RFC 4291 §2.5.4 global unicast, without RFC 9637 and RFC 3849 documentation and the
        // protocol assignments of RFC 2928 (Teredo among them)
        Reach::Public
    } else {
        Reach::Nowhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_and_metadata_addresses_are_told_from_all_others() {
        let metadata = [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.170.2",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:fffe::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:1:a9:fea9:fe00:0",
        ];
        let others = [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "169.253.255.255",
            "fd00:ec2::1",
            "fec0::1",
            "8.8.8.8",
            "64:ff9b:1::a00:1",
            "64:ff9b:2::a9fe:a9fe",
        ];
        for (texts, expected) in [(&metadata[..], true), (&others, false)] {
            for text in texts {
                let Ok(ip) = text.parse() else { panic!("{text}") };
                assert_eq!(is_metadata(ip), expected, "{text}");
            }
        }
        assert_eq!(metadata.len() + others.len(), 33);
    }

    #[test]
    fn every_address_is_judged_as_what_it_reaches() {
        let open = Guard { allow_private_addresses: true };
        let closed = Guard { allow_private_addresses: false };
        let mut seen = 0;
        for (texts, by_closed, by_open) in [
            (
                &[
                    "93.184.216.34",
                    "2606:4700::1111",
                    "2001:200::1",
                    "::ffff:8.8.8.8",
                    "8.18.0.1",
                    "100.128.0.1",
                    "172.32.0.1",
                    "198.20.0.1",
                ][..],
                true,
                true,
            ),
            (
                &[
                    "127.0.0.1",
                    "127.9.9.9",
                    "::1",
                    "10.0.0.1",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.1.1",
                    "100.64.0.1",
                    "fc00::1",
                    "fd12::1",
                    "::ffff:10.0.0.1",
                    "::ffff:127.0.0.1",
                    "64:ff9b::10.0.0.1",
                    "2002:a00:1::",
                    "::10.0.0.1",
                ],
                false,
                true,
            ),
            (
                &[
                    "169.254.169.254",
                    "169.254.0.1",
                    "fe80::1",
                    "0.0.0.0",
                    "0.1.2.3",
                    "::",
                    "224.0.0.1",
                    "239.1.1.1",
                    "240.0.0.1",
                    "255.255.255.255",
                    "ff02::1",
                    "100.100.100.200",
                    "168.63.129.16",
                    "192.0.0.192",
                    "192.88.99.1",
                    "fd00:ec2::254",
                    "fd20:ce::254",
                    "fd00:c1::a9fe:a9fe",
                    "64:ff9b:1::8.8.8.8",
                    "::ffff:169.254.169.254",
                    "64:ff9b::169.254.169.254",
                    "2002:a9fe:a9fe::",
                    "192.0.2.1",
                    "198.18.0.1",
                    "198.51.100.7",
                    "203.0.113.7",
                    "2001:db8::1",
                    "2001::1",
                    "3fff::1",
                    "fec0::1",
                    "100::1",
                ],
                false,
                false,
            ),
        ] {
            for text in texts {
                let Ok(ip) = text.parse() else { panic!("{text}") };
                assert_eq!(closed.allows(ip), by_closed, "{text}, closed");
                assert_eq!(open.allows(ip), by_open, "{text}, open");
                seen += 1;
            }
        }
        assert_eq!(seen, 54);
    }
}
