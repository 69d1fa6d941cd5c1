//! The cells of one demand.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

use super::cells::{CallerCell, Cell, Domains, PeerCell};
use crate::clock::Timestamp;

/// The cells of a demand: each of one axis with each of every other.
pub struct Grid<'d> {
    /// With all that are judged alike.
    pub(super) methods: Vec<(Method, Vec<Method>)>,
    pub(super) lengths: Vec<usize>,
    pub(super) peers: Vec<PeerCell>,
    pub callers: Vec<CallerCell>,
    pub(super) hops: Vec<Arc<str>>,
    pub(super) addresses: Vec<[Option<IpAddr>; 2]>,
    pub(super) times: Vec<Timestamp>,
    pub(super) domains: &'d Domains,
}

/// All that a token can depend on, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'g> {
    length: usize,
    peer: &'g PeerCell,
    /// By this one alone; `None` where one is let in like the other.
    hop: Option<&'g Arc<str>>,
    at: Timestamp,
}

impl Grid<'_> {
    pub fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let by_hop =
            move |length, peer, hop| self.times.iter().map(move |at| Place { length, peer, hop, at: *at });
        let each = if self.domains.tells_hops_apart { &self.hops[..] } else { &[] };
        let all = (!self.domains.tells_hops_apart).then_some(None);
        let at_peer = move |length, peer| {
            all.into_iter().chain(each.iter().map(Some)).flat_map(move |hop| by_hop(length, peer, hop))
        };
        let of_length = move |length| self.peers.iter().flat_map(move |peer| at_peer(length, peer));
        self.lengths.iter().flat_map(move |length| of_length(*length))
    }

    pub fn cells_at(&self, place: Place<'_>, caller: CallerCell) -> impl Iterator<Item = Cell> {
        let Place { length, peer, hop: by, at } = place;
        let cell = move |(method, alike): &(Method, Vec<Method>),
                         hop: &Arc<str>,
                         [peer_ip, client_ip]: [Option<IpAddr>; 2]| {
            let (peer, method, alike, hop) = (peer.clone(), method.clone(), alike.clone(), Arc::clone(hop));
            Cell { peer, caller, method, alike, length, hop, peer_ip, client_ip, at }
        };
        let over_hop =
            move |method, hop| self.addresses.iter().map(move |address| cell(method, hop, *address));
        let is_by = move |hop: &&Arc<str>| by.is_none_or(|by| by == *hop) && self.domains.brings(hop, peer);
        let of_method =
            move |method| self.hops.iter().filter(is_by).flat_map(move |hop| over_hop(method, hop));
        self.methods.iter().flat_map(of_method)
    }

    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        let at = move |place| self.callers.iter().flat_map(move |caller| self.cells_at(place, *caller));
        self.places().flat_map(at)
    }
}
