//! Ranges of addresses, as they were meant.

use ipnet::IpNet;

use super::error::Diagnostics;
use super::source::At;

/// An IPv4-mapped range would never match, and bits behind the prefix are a slip of the pen in one or
/// the other.
pub fn range(typed: &At<IpNet>, found: &mut Diagnostics) -> Option<IpNet> {
    let remedy = match typed.value {
        IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some() => {
            "write the IPv4 range: mapped addresses are IPv4 here".to_owned()
        }
        net if net.trunc() != net => format!("write `{}`", net.trunc()),
        net => return Some(net),
    };
    found.error("bad_value", typed.span, format!("`{}` is no range of addresses", typed.value), remedy);
    None
}
