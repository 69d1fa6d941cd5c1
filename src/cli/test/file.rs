//! What can be typed into a file of policy tests: every key, with its meaning.
//!
//! Read by the machinery that reads configurations, so what is wrong is told the same way.

use std::net::IpAddr;
use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Number, Value as Json};

use crate::audit::Reason;
use crate::config::definition::{choice, table};
use crate::config::error::suggestion;
use crate::config::read::{Field, Keyed, List, Reader};
use crate::config::source::{At, Span};
use crate::config::tree::{Node, Table, Value};
use crate::config::value::Moment;
use crate::identity::{Name, SpiffeId, TrustDomain};
use crate::trial::Bound;

table! {
    /// A file of policy tests.
    TestFile {
        /// Callers by name, for tests and for each other.
        caller: Keyed<Name, CallerTerm>,
        /// What is asked, and what should become of it.
        test: List<Test> = required,
    }
}

table! {
    /// A test: all of its services, callers and requests with each other, each of its cases, and what should become
    /// of them.
    Test {
        /// What it shows. Each test has one; in a case it is added to that.
        name: String,
        /// The `[service]` that carries the request, by a good certificate; "none" for no certificate, as without
        /// any of these four keys. A list asks for each of them.
        service: List<String>,
        /// The same by SPIFFE ID.
        spiffe_id: List<SpiffeId>,
        /// A PEM file with the client's chain, leaf first, which is verified as in a handshake; from the folder of
        /// this file.
        certificate: List<String>,
        /// The same by DNS name, as certificates of `trust_domain` have it; of one that has several, all of them with
        /// spaces between.
        dns_name: List<String>,
        /// Of `dns_name`.
        trust_domain: TrustDomain,
        /// For whom: `{ issuer = "corp", sub = "alice", … }` with claims as that issuer would put them, the name of
        /// a `[caller]`, or "none". Of an issuer with preset `countersign` it is an assertion, of one with preset `alb`
        /// a log-in at the load balancer that `hop` names. A list asks for each of them. Without: no token.
        caller: List<CallerTerm>,
        /// Method and URL, as "GET https://orders.shop.example/7". A list asks for each of them.
        request: List<String>,
        /// Header fields of the request by name; a list sends the field several times.
        header: Keyed<String, List<String>>,
        /// The `[listener]` it comes to. Without: the first that deals with such a client.
        listener: Name,
        /// How the certificate was learned: "direct", "local" or a `[trusted_hop]`. One that is another Countersign
        /// presents its own.
        hop: Name,
        /// The address at the other end of the connection.
        peer_ip: IpAddr,
        /// The client's address. Without: `peer_ip`.
        client_ip: IpAddr,
        /// When, as 2027-01-31T12:00:00Z. Without: now.
        at: Moment,
        /// What should become of it. A case adds to what its test expects.
        expect: Expect,
        /// Variations: each is the test with some keys of its own.
        case: List<Test>,
    }
}

table! {
    /// What should become of a request; at least one key.
    Expect {
        /// Whether it is passed on: "allow" or "deny". What `shadow_until` alone lets through is neither, unless
        /// `reason = "unenforced"` says so.
        verdict: VerdictTerm,
        /// The allow that permits, or the deny or require that denies; "none" if there is no such rule.
        rule: String,
        /// The reason code.
        reason: Code,
        /// Reason codes that apply too.
        also: List<Code>,
        /// Of the answer to a refused request.
        status: u32,
        /// `WWW-Authenticate` of that answer; "none" if there is none.
        challenge: String,
        /// The rule that came closest; "none" if there is none.
        near_miss: String,
        /// Rules in shadow mode that would allow; "none" for none.
        would_allow: List<String>,
        /// Rules in shadow mode that would deny; "none" for none.
        would_deny: List<String>,
        /// Why it would be denied if `shadow_until` did not let it through.
        unenforced: List<Code>,
        /// The `[route]` it takes.
        route: Name,
        /// The `[upstream]` it goes to.
        upstream: Name,
        /// Header fields that the upstream gets, by name; `false` for one that it does not.
        header: Keyed<String, HeaderTerm>,
    }
}

choice! {
    /// Whether a request is passed on.
    VerdictTerm {
        Allow = "allow",
        Deny = "deny",
    }
}

/// A reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub Reason);

/// A header field's value, or its absence.
#[derive(Clone, Debug)]
pub enum HeaderTerm {
    Value(String),
    Absent,
}

/// A caller as it is typed.
#[derive(Clone, Debug)]
pub enum CallerTerm {
    /// `"none"` or the name of a `[caller]`.
    Named(String),
    Described(Description),
}

/// `{ issuer = "corp", sub = "alice", … }`.
#[derive(Clone, Debug, Default)]
pub struct Description {
    pub issuer: Option<At<Name>>,
    /// The `[caller]` whose claims these are added to.
    pub like: Option<At<String>>,
    pub claims: Map<String, Json>,
    /// Claims that the token does not have.
    pub without: Vec<String>,
    /// Claims that are a time so long before the request, in seconds.
    pub ago: Vec<(String, Duration)>,
    /// What the token is bound to, if it is said.
    pub bound: Option<Bound>,
}

/// Says that there is none, wherever there could be one.
pub const NONE: &str = "none";

/// Keys of a caller that are no claims.
const DESCRIPTION_KEYS: [&str; 7] =
    ["issuer", "like", "without", "ago", "claims", "dpop", "certificate_bound"];

impl Field for CallerTerm {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let table = match &node.value {
            Value::Table(table) => table,
            _ => {
                let text =
                    reader.text(node, "`{ issuer = \"…\", … }`, the name of a `[caller]`, or `\"none\"`");
                return text.map(|text| CallerTerm::Named(text.to_owned()));
            }
        };
        let without: Option<At<List<String>>> = reader.key(table, node.span, "without", false);
        let ago: Option<At<Keyed<String, Duration>>> = reader.key(table, node.span, "ago", false);
        let more: Option<At<Claims>> = reader.key(table, node.span, "claims", false);
        let mut description = Description {
            issuer: reader.key(table, node.span, "issuer", false),
            like: reader.key(table, node.span, "like", false),
            claims: more.map(|claims| claims.value.0).unwrap_or_default(),
            without: without.into_iter().flat_map(|it| it.value).map(|name| name.value).collect(),
            ago: ago.into_iter().flat_map(|it| it.value).map(|(name, by)| (name.value, by.value)).collect(),
            bound: bound(table, node.span, reader),
        };
        for (name, entry) in &table.entries {
            if !DESCRIPTION_KEYS.contains(&name.as_str()) {
                description.claims.insert(name.clone(), claim(&entry.node, reader)?);
            }
        }
        Some(CallerTerm::Described(description))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let text = |description: &str| json_schema!({ "type": "string", "description": description });
        json_schema!({ "anyOf": [
            { "type": "string" },
            {
                "type": "object",
                "properties": {
                    "issuer": text("The `[issuer.NAME]` whose token it is. Without: that of the caller it is `like`."),
                    "like": text("The `[caller.NAME]` whose claims these are added to."),
                    "without": {
                        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
                        "description": "Claims that the token does not have.",
                    },
                    "ago": {
                        "type": "object",
                        "additionalProperties": Duration::schema(generator),
                        "description": "Claims that are a time so long before the request, as `auth_time = \"20m\"`.",
                    },
                    "dpop": {
                        "type": "boolean",
                        "description": "Binds the token to a key, and proves with the request to have it (RFC 9449).",
                    },
                    "certificate_bound": {
                        "type": "boolean",
                        "description": "Binds the token to the certificate of whoever carries it (RFC 8705). Of an assertion the default: true.",
                    },
                    "claims": {
                        "type": "object",
                        "additionalProperties": true,
                        "description": "Claims whose names are keys of a caller.",
                    },
                },
                "additionalProperties": true,
            },
        ] })
    }
}

/// What the keys of a caller bind the token to.
fn bound(table: &Table, span: Span, reader: &mut Reader<'_>) -> Option<Bound> {
    let dpop: Option<At<bool>> = reader.key(table, span, "dpop", false);
    let certificate: Option<At<bool>> = reader.key(table, span, "certificate_bound", false);
    match (dpop.map(|it| it.value), certificate) {
        (Some(true), Some(At { value: true, span })) => {
            let message = "a token is bound to a key or to a certificate".to_owned();
            reader.error("contradiction", span, message, "take `dpop` or `certificate_bound` out");
            None
        }
        (Some(true), _) => Some(Bound::Key),
        (_, Some(At { value: true, .. })) => Some(Bound::Certificate),
        (None, None) => None,
        (Some(false), _) | (_, Some(_)) => Some(Bound::Nothing),
    }
}

/// Claims whose names are keys of a caller.
struct Claims(Map<String, Json>);

impl Field for Claims {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match claim(node, reader)? {
            Json::Object(claims) => Some(Claims(claims)),
            _ => {
                reader.mismatch(node, "a table of claims");
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

/// A claim in JSON; a moment is one in seconds, as tokens have it (RFC 7519 `NumericDate`).
fn claim(node: &Node, reader: &mut Reader<'_>) -> Option<Json> {
    match &node.value {
        Value::Text(text) => Some(text.clone().into()),
        Value::Boolean(value) => Some((*value).into()),
        Value::Integer(Some(number)) => Some(Json::Number(Number::from(*number))),
        Value::Date(_) => Moment::read(node, reader).map(|Moment(at)| at.unix_seconds().into()),
        Value::Array(items) => items.iter().map(|item| claim(item, reader)).collect(),
        Value::Table(table) => table
            .entries
            .iter()
            .map(|(name, entry)| Some((name.clone(), claim(&entry.node, reader)?)))
            .collect(),
        Value::Integer(None) | Value::Float | Value::Invalid => {
            reader.mismatch(node, "a text, a whole number, a boolean, a moment, a list or a table");
            None
        }
    }
}

impl Field for Code {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, "a reason code, as `\"scope_missing\"`")?;
        let found = Reason::ALL.iter().find(|reason| reason.as_str() == text);
        if found.is_none() {
            let remedy = suggestion(text, Reason::ALL.iter().map(|reason| reason.as_str()));
            reader.error("unknown_reason", node.span, format!("no reason is called `{text}`"), remedy);
        }
        found.copied().map(Code)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        json_schema!({ "enum": codes })
    }
}

impl Field for HeaderTerm {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Boolean(false) => Some(HeaderTerm::Absent),
            _ => reader.text(node, "its value, or `false`").map(|text| HeaderTerm::Value(text.to_owned())),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "const": false }] })
    }
}

impl Expect {
    pub fn is_empty(&self) -> bool {
        Self::KEYS.iter().all(|key| !self.gives(key))
    }

    /// All rules that it names.
    pub fn rules(&self) -> impl Iterator<Item = &At<String>> {
        let single = self.rule.iter().chain(&self.near_miss);
        single.chain(self.would_allow.iter().chain(&self.would_deny).flat_map(|rules| &rules.value))
    }
}
