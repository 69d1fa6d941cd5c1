//! Where requests go: the choice of a route, and of an upstream by identity.

use http::{HeaderName, HeaderValue};

use super::pattern::{HostPattern, PathPattern};
use super::{RoleId, UpstreamId};
use crate::clock::Timestamp;
use crate::identity::Name;

/// `[route.NAME]`, as far as it is judged.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: Name,
    /// Empty: any host.
    pub host: Vec<HostPattern>,
    pub path: PathPattern,
    /// All must be present with exactly this value; chooses only between routes that are judged by
    /// the same rules.
    pub header: Vec<(HeaderName, HeaderValue)>,
    pub upstream: UpstreamId,
    /// Tried in the order given; the first whose role the caller has wins over `upstream`.
    pub variants: Vec<Variant>,
    /// Until then, what no allow permits is forwarded and recorded as `would_deny`.
    pub shadow_until: Option<Timestamp>,
}

/// `[[route.NAME.variant]]`.
#[derive(Clone, Debug)]
pub struct Variant {
    pub role: RoleId,
    pub upstream: UpstreamId,
}
