//! What is done to the proxy in a soak, how often, and what may come of it: data.

use crate::world::certificates::Who;
use crate::world::client::Protocol::{self, H1, H2};

/// One sort of thing that a client does.
pub struct Kind {
    pub name: &'static str,
    /// How often it is picked, against the others; 0 is left to the weather.
    pub share: u32,
    pub way: Way,
    pub leaves: Leaves,
}

impl Kind {
    /// Whether it asks over HTTP/1.1, where no answer means that the connection has ended.
    pub fn is_http1(&self) -> bool {
        matches!(self.way, Ask(Kept(H1) | Fresh(H1), _))
    }

    /// Whether an answer may end in the middle; over h2 the reset may then overtake the answer's head.
    pub fn may_break_off(&self) -> bool {
        matches!(self.leaves, Leaves::One(outcomes) if outcomes.contains(&"allow upstream_unavailable 200"))
    }
}

/// What a client does.
#[derive(Clone, Copy)]
pub enum Way {
    /// One request, and its answer read to the end.
    Ask(Over, Asked),
    /// Several at once on one h2 connection.
    Burst(usize, Asked),
    /// A unary call with this text.
    Call(&'static str),
    /// A WebSocket with a few messages, closed in order or dropped.
    Socket(Protocol, Ending),
    /// A request whose client goes away.
    Abandon(Protocol, When),
    /// These bytes after the handshake of h1, `@` being the traced, authorized part of a head; answered or not
    /// waited for.
    Bytes(&'static str, Ending),
    /// A handshake that is refused.
    Knock(Who),
    /// Connects and closes.
    Probe,
    /// Connects and says nothing, until it is shown out.
    Silence,
    /// Nothing that a lane does: it comes with the weather.
    Nobody,
}

/// The connection that a request goes over.
#[derive(Clone, Copy)]
pub enum Over {
    Kept(Protocol),
    /// One of its own, closed after the answer; TLS sessions resume.
    Fresh(Protocol),
}

/// Method, target, credentials, and the bytes of a body.
#[derive(Clone, Copy)]
pub struct Asked {
    pub method: &'static str,
    pub target: &'static str,
    pub bearer: Bearer,
    pub body_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    Good,
    Agent,
    Absent,
    Garbage,
    Expired,
    WrongScope,
    WrongClient,
    OtherIssuer,
    UnknownKey,
    Forged,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Closed,
    Dropped,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the upstream has answered.
    Waiting,
    /// In the middle of its own body.
    Uploading,
    /// In the middle of the answer's.
    Downloading,
    /// Right after the head was handed to the client's own connection.
    AtOnce,
}

/// The records that it leaves.
#[derive(Clone, Copy)]
pub enum Leaves {
    /// Exactly one record a request: `verdict reason status` is among these.
    One(&'static [&'static str]),
    /// At most one: its head may never have arrived.
    AtMostOne(&'static [&'static str]),
    /// Exactly one record a head, which says this: hyper could not read it, so nothing else tells whose it is.
    Untraced(&'static str),
    /// Exactly one record of a handshake, with this reason.
    Handshake(&'static str),
    /// None; a probe is counted.
    Nothing,
}

use Bearer::*;
use Leaves::{AtMostOne, Handshake, Nothing, One, Untraced};
use Over::{Fresh, Kept};
use Way::*;

const ALLOWED: Leaves = One(&["allow allowed 200"]);
/// Of a client that went away: its answer's head may have been on its way.
const GONE: Leaves = One(&["allow client_gone null", "allow client_gone 408"]);
/// An upstream that answers early closes its connection under the rest of the body: the reset may overtake the
/// answer, or meet the next request if all of the body was sent. These go to an upstream of their own.
const EARLY: Leaves = One(&["allow allowed 200", "allow upstream_unavailable 502"]);

const fn kind(name: &'static str, share: u32, way: Way, leaves: Leaves) -> Kind {
    Kind { name, share, way, leaves }
}

const fn get(target: &'static str, bearer: Bearer) -> Asked {
    Asked { method: "GET", target, bearer, body_bytes: 0 }
}

const fn post(target: &'static str, body_bytes: usize) -> Asked {
    Asked { method: "POST", target, bearer: Good, body_bytes }
}

const DOWNLOAD: &str = "/orders/7?download=300000";

pub static KINDS: &[Kind] = &[
    kind("read, h1", 40, Ask(Kept(H1), get("/orders/7", Good)), ALLOWED),
    kind("read, h2", 40, Ask(Kept(H2), get("/orders/7", Good)), ALLOWED),
    kind("read, h1, closed", 6, Ask(Fresh(H1), get("/orders/7", Good)), ALLOWED),
    kind("read, h2, closed", 4, Ask(Fresh(H2), get("/orders/7", Good)), ALLOWED),
    kind("read, 20 streams", 2, Burst(20, get("/orders/7", Good)), ALLOWED),
    kind("agent reads", 4, Ask(Fresh(H2), get("/orders/7", Agent)), ALLOWED),
    kind("trailers", 4, Ask(Kept(H2), get("/orders/7?trailers", Good)), ALLOWED),
    kind("call", 4, Call("hello"), ALLOWED),
    kind("call that fails", 2, Call("fail"), ALLOWED),
    kind("socket, h1", 2, Socket(H1, Ending::Closed), One(&["allow allowed 101"])),
    kind("socket, h2", 2, Socket(H2, Ending::Closed), ALLOWED),
    kind(
        "socket, h1, dropped",
        1,
        Socket(H1, Ending::Dropped),
        One(&["allow allowed 101", "allow client_gone 101"]),
    ),
    kind(
        "socket, h2, dropped",
        1,
        Socket(H2, Ending::Dropped),
        One(&["allow allowed 200", "allow client_gone 200"]),
    ),
    kind("upload, h1", 3, Ask(Kept(H1), post("/orders/7", 200_000)), ALLOWED),
    kind("upload, h2", 3, Ask(Kept(H2), post("/orders/7", 200_000)), ALLOWED),
    kind("upload, answered early, h1", 1, Ask(Fresh(H1), post("/hasty/7?early", 200_000)), EARLY),
    kind("upload, answered early, h2", 1, Ask(Fresh(H2), post("/hasty/7?early", 200_000)), EARLY),
    kind(
        "upload, too large, h1",
        1,
        Ask(Fresh(H1), post("/small/7", 4000)),
        One(&["deny limit_exceeded 413"]),
    ),
    kind(
        "upload, too large, h2",
        1,
        Ask(Kept(H2), post("/small/7", 4000)),
        One(&["deny limit_exceeded 413"]),
    ),
    kind("download, h1", 2, Ask(Kept(H1), get(DOWNLOAD, Good)), ALLOWED),
    kind("download, h2", 2, Ask(Kept(H2), get(DOWNLOAD, Good)), ALLOWED),
    kind("gone waiting, h1", 1, Abandon(H1, When::Waiting), GONE),
    kind("gone waiting, h2", 1, Abandon(H2, When::Waiting), GONE),
    kind("gone uploading, h1", 1, Abandon(H1, When::Uploading), GONE),
    kind("gone uploading, h2", 1, Abandon(H2, When::Uploading), GONE),
    kind("gone downloading, h1", 1, Abandon(H1, When::Downloading), One(&["allow client_gone 200"])),
    kind("gone downloading, h2", 1, Abandon(H2, When::Downloading), One(&["allow client_gone 200"])),
    kind(
        "gone at once, h1",
        2,
        Bytes("GET /orders/7 HTTP/1.1\r\n@\r\n", Ending::Dropped),
        AtMostOne(&[
            "allow client_gone null",
            "allow client_gone 200",
            "allow allowed 200",
            "deny client_gone null",
        ]),
    ),
    kind(
        "gone at once, h2",
        2,
        Abandon(H2, When::AtOnce),
        AtMostOne(&[
            "allow client_gone null",
            "allow client_gone 200",
            "allow allowed 200",
            "deny client_gone null",
        ]),
    ),
    kind("no token", 5, Ask(Kept(H1), get("/orders/7", Absent)), One(&["deny token_missing 401"])),
    kind(
        "garbage for a token",
        4,
        Ask(Kept(H2), get("/orders/7", Garbage)),
        One(&["deny token_malformed 401"]),
    ),
    kind("expired token", 4, Ask(Kept(H1), get("/orders/7", Expired)), One(&["deny token_expired 401"])),
    kind("wrong scope", 4, Ask(Kept(H2), get("/orders/7", WrongScope)), One(&["deny scope_missing 403"])),
    kind(
        "token of another service",
        3,
        Ask(Kept(H1), get("/orders/7", WrongClient)),
        One(&["deny token_not_issued_to_service 403"]),
    ),
    kind(
        "token of another issuer",
        3,
        Ask(Kept(H2), get("/orders/7", OtherIssuer)),
        One(&["deny token_issuer_unknown 401"]),
    ),
    kind("unknown key", 3, Ask(Kept(H1), get("/orders/7", UnknownKey)), One(&["deny token_key_unknown 401"])),
    kind("forged token", 3, Ask(Kept(H2), get("/orders/7", Forged)), One(&["deny token_bad_signature 401"])),
    kind(
        "wrong method",
        3,
        Ask(Kept(H1), Asked { method: "DELETE", target: "/orders/7", bearer: Good, body_bytes: 0 }),
        One(&["deny no_rule 403"]),
    ),
    kind(
        "two readings of a path",
        3,
        Ask(Kept(H2), get("/a/../b", Good)),
        One(&["deny request_malformed 400"]),
    ),
    kind(
        "two hosts",
        2,
        Bytes("GET /orders/7 HTTP/1.1\r\nhost: a\r\n@\r\n", Ending::Closed),
        One(&["deny request_malformed 400"]),
    ),
    kind(
        "upstream hangs up",
        2,
        Ask(Kept(H1), get("/shaky/7?hangup", Good)),
        One(&["allow upstream_unavailable 502"]),
    ),
    kind(
        "upstream breaks off",
        2,
        Ask(Fresh(H2), get("/shaky/7?reset", Good)),
        One(&["allow upstream_unavailable 200", "allow upstream_unavailable 502"]),
    ),
    kind(
        "upstream stalls",
        1,
        Ask(Kept(H2), get("/shaky/7?hold", Good)),
        One(&["allow upstream_timeout 504"]),
    ),
    kind(
        "upstream says 500",
        2,
        Ask(Kept(H1), get("/shaky/7?status=500", Good)),
        One(&["allow allowed 500"]),
    ),
    kind("no HTTP", 1, Bytes("nonsense\r\n\r\n", Ending::Closed), Untraced("deny request_malformed 400")),
    kind("no certificate", 1, Knock(Who::NoCertificate), Handshake("peer_missing")),
    kind("foreign CA", 1, Knock(Who::UntrustedCa), Handshake("peer_untrusted")),
    kind("expired certificate", 1, Knock(Who::Expired), Handshake("peer_expired")),
    kind("revoked certificate", 1, Knock(Who::Revoked), Handshake("peer_revoked")),
    kind("two names", 1, Knock(Who::TwoIds), Handshake("peer_malformed")),
    kind("probe", 1, Probe, Nothing),
    kind("partner reads", 0, Nobody, ALLOWED),
    kind("partner without its CA", 0, Nobody, One(&["deny peer_untrusted 403"])),
    kind("partner knocks", 0, Nobody, Handshake("peer_untrusted")),
    kind("slow head", 0, Nobody, Untraced("deny limit_exceeded null")),
    kind("held over the end", 0, Nobody, ALLOWED),
    kind("silence", 1, Silence, Handshake("limit_exceeded")),
];

/// The kind of this name.
pub fn named(name: &str) -> usize {
    KINDS.iter().position(|kind| kind.name == name).unwrap_or_else(|| panic!("no kind `{name}`"))
}
