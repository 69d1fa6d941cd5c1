//! From an action to the rules (or routes) that reach it, without looking at each one.
//!
//! Every dimension of an action has an index whose answer is a set of positions; the rules that
//! reach the action are the intersection. A rule that says nothing about a dimension is in every
//! answer of that dimension, and only a rule that says nothing about it is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use http::Method;

use super::path_pattern::Segment;
use super::pattern::{self, HostPattern, MethodSet, PathPattern};
use super::{Host, RouteId};

/// Sets of positions by path: a tree of segments.
#[derive(Debug)]
pub(super) struct PathIndex {
    unstated: FixedBitSet,
    states_any: bool,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    literal: HashMap<Arc<str>, usize>,
    any: Option<usize>,
    /// Patterns that end here exactly; empty while there are none.
    exact: FixedBitSet,
    /// Patterns that end here in `**`; empty while there are none.
    rest: FixedBitSet,
}

/// Sets of positions by host.
#[derive(Debug)]
pub(super) struct HostIndex {
    unstated: FixedBitSet,
    exact: HashMap<Arc<str>, FixedBitSet>,
    wildcard: HashMap<Arc<str>, FixedBitSet>,
}

/// Sets of positions by method.
#[derive(Debug)]
pub(super) struct MethodIndex {
    unstated: FixedBitSet,
    /// Holds every method that any rule names, with the rules that name none in each set.
    named: HashMap<Method, FixedBitSet>,
}

/// Sets of positions by route.
#[derive(Debug)]
pub(super) struct RouteIndex(Vec<FixedBitSet>);

impl PathIndex {
    /// `patterns` gives, for each position in order, its patterns, or `None` for any path.
    pub(super) fn new(patterns: Vec<Option<Cow<'_, [PathPattern]>>>) -> PathIndex {
        let positions = patterns.len();
        let unstated = FixedBitSet::with_capacity(positions);
        let states_any = patterns.iter().any(Option::is_some);
        let mut index = PathIndex { unstated, states_any, nodes: vec![Node::new()] };
        for (at, patterns) in patterns.into_iter().enumerate() {
            match patterns {
                None => index.unstated.insert(at),
                Some(patterns) => patterns.iter().for_each(|pattern| index.add(at, pattern)),
            }
        }
        index
    }

    fn add(&mut self, at: usize, pattern: &PathPattern) {
        let mut here = 0;
        for segment in &pattern.segments {
            let next = self.nodes.len();
            let node = &mut self.nodes[here];
            here = match segment {
                Segment::Literal(literal) => *node.literal.entry(Arc::clone(literal)).or_insert(next),
                Segment::Named(_) | Segment::Any => *node.any.get_or_insert(next),
            };
            if here == next {
                self.nodes.push(Node::new());
            }
        }
        let node = &mut self.nodes[here];
        let set = if pattern.rest { &mut node.rest } else { &mut node.exact };
        set.grow_and_insert(at);
    }

    /// Leaves those that match.
    pub(super) fn narrow(&self, path: &[Cow<'_, str>], found: &mut FixedBitSet) {
        // Where nothing states any path, every position is in the answer.
        if self.states_any {
            found.intersect_with(&self.matching(path));
        }
    }

    pub(super) fn matching(&self, path: &[Cow<'_, str>]) -> FixedBitSet {
        let mut found = self.unstated.clone();
        self.walk(&self.nodes[0], path, &mut found);
        found
    }

    /// Each step goes one segment deeper, so a node is visited at most once a request.
    fn walk(&self, node: &Node, path: &[Cow<'_, str>], found: &mut FixedBitSet) {
        found.union_with(&node.rest);
        let Some((segment, deeper)) = path.split_first() else {
            found.union_with(&node.exact);
            return;
        };
        let literal = node.literal.get(&**segment);
        for &next in literal.into_iter().chain(node.any.as_ref()) {
            self.walk(&self.nodes[next], deeper, found);
        }
    }
}

impl Node {
    fn new() -> Node {
        Node { literal: HashMap::new(), any: None, exact: FixedBitSet::new(), rest: FixedBitSet::new() }
    }
}

impl HostIndex {
    /// `hosts` gives, for each position in order, its hosts; none stands for any host.
    pub(super) fn new<'a>(hosts: impl ExactSizeIterator<Item = &'a [HostPattern]>) -> HostIndex {
        let positions = hosts.len();
        let mut index = HostIndex {
            unstated: FixedBitSet::with_capacity(positions),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for (at, hosts) in hosts.enumerate() {
            for host in hosts {
                let (map, host) = match host {
                    HostPattern::Exact(host) => (&mut index.exact, host),
                    HostPattern::Wildcard(parent) => (&mut index.wildcard, parent),
                };
                map.entry(host.as_str().into()).or_default().grow_and_insert(at);
            }
            if hosts.is_empty() {
                index.unstated.insert(at);
            }
        }
        index
    }

    /// Leaves those that match.
    pub(super) fn narrow(&self, host: &Host, found: &mut FixedBitSet) {
        // Where nothing states any host, every position is in the answer.
        if !self.exact.is_empty() || !self.wildcard.is_empty() {
            found.intersect_with(&self.matching(host));
        }
    }

    fn matching(&self, host: &Host) -> FixedBitSet {
        let mut found = self.unstated.clone();
        let wildcard = pattern::parent_of(host.as_str()).and_then(|parent| self.wildcard.get(parent));
        for set in self.exact.get(host.as_str()).into_iter().chain(wildcard) {
            found.union_with(set);
        }
        found
    }
}

impl MethodIndex {
    /// `methods` gives, for each position in order, its methods, or `None` for any method.
    pub(super) fn new(methods: &[Option<MethodSet>]) -> MethodIndex {
        let positions = methods.len();
        let set_of = |wanted: &dyn Fn(&MethodSet) -> bool| -> FixedBitSet {
            let holds = |set: &Option<MethodSet>| set.as_ref().is_none_or(wanted);
            let mut found = FixedBitSet::with_capacity(positions);
            methods.iter().enumerate().filter(|(_, set)| holds(set)).for_each(|(at, _)| found.insert(at));
            found
        };
        let mut named = HashMap::new();
        for method in methods.iter().flatten().flat_map(|set| &set.0).chain([&Method::HEAD]) {
            named.entry(method.clone()).or_insert_with(|| set_of(&|set: &MethodSet| set.contains(method)));
        }
        MethodIndex { unstated: set_of(&|_| false), named }
    }

    /// No rule reaches `CONNECT` or `TRACE`, whatever it says.
    pub(super) fn narrow(&self, method: &Method, found: &mut FixedBitSet) {
        if pattern::never_served(method) {
            found.clear();
        } else {
            found.intersect_with(self.named.get(method).unwrap_or(&self.unstated));
        }
    }
}

impl RouteIndex {
    /// `routes` gives, for each position in order, the routes it names, or `None` for any.
    pub(super) fn new(route_count: usize, routes: &[Option<&[RouteId]>]) -> RouteIndex {
        let set_of = |route: usize| {
            let mut found = FixedBitSet::with_capacity(routes.len());
            for (at, named) in routes.iter().enumerate() {
                if named.is_none_or(|named| named.iter().any(|id| id.index() == route)) {
                    found.insert(at);
                }
            }
            found
        };
        RouteIndex((0..route_count).map(set_of).collect())
    }

    pub(super) fn narrow(&self, route: RouteId, found: &mut FixedBitSet) {
        match self.0.get(route.index()) {
            Some(set) => found.intersect_with(set),
            None => found.clear(),
        }
    }
}
