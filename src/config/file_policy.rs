//! What can be typed, continued: issuers, and the policy's services, roles, routes and rules.

use std::time::Duration;

use ipnet::IpNet;

use super::definition::{choice, table};
use super::elsewhere::{Pem, Secret};
use super::read::{Field, Keyed, List, Reader};
use super::tree::{Node, Value};
use super::value::{Bytes, Day, Timeout};
use crate::identity::{ActorKind, Direction, Name, SpiffePattern, TrustDomain};
use crate::policy::claim::{ClaimPath, ClaimValue};
use crate::policy::condition::GrpcPattern;
use crate::policy::pattern::{Glob, HostPattern, PathPattern};
use crate::token::{Algorithm, Preset};

choice! {
    for Algorithm {
        Rs256 = "RS256",
        Rs384 = "RS384",
        Rs512 = "RS512",
        Ps256 = "PS256",
        Ps384 = "PS384",
        Ps512 = "PS512",
        Es256 = "ES256",
        Es384 = "ES384",
        EdDsa = "EdDSA",
    }
    refused {
        "none": "no signature at all",
        "HS256": "a shared secret, and whoever can check such a token can make one",
        "HS384": "a shared secret, and whoever can check such a token can make one",
        "HS512": "a shared secret, and whoever can check such a token can make one",
    }
}

choice! {
    for Preset {
        Okta = "okta",
        Auth0 = "auth0",
        Entra = "entra",
        Cognito = "cognito",
        Keycloak = "keycloak",
        Google = "google",
        Kubernetes = "kubernetes",
        Github = "github",
        Spiffe = "spiffe",
        Countersign = "countersign",
        Alb = "alb",
        Generic = "generic",
    }
}

choice! {
    /// Of what type tokens are.
    TokenType {
        /// RFC 9068: with that `typ` in the header, and all claims of its §2.2.
        AccessToken = "at+jwt",
        /// As most providers do it: with the `typ` `JWT` or `at+jwt`, or without any.
        Plain = "jwt",
    }
}

/// `claim = { name = value }`.
pub type Claims = Keyed<String, List<ClaimValue>>;

table! {
    /// Who vouches for callers.
    Issuer {
        /// The exact `iss`, found by discovery unless `jwks` is given. Where a preset has several
        /// tenants, a list, or a template with `{tid}`.
        url: List<String>,
        /// The file or URL of the key set, instead of discovery. With the preset `alb` the address of each key, as
        /// `https://…/{kid}`; default: AWS's, in the region of `signer`.
        jwks: String,
        /// With the preset `alb`, and mandatory there: the ARN of the load balancer whose word is taken.
        signer: List<String>,
        /// Who the tokens must be for; for tokens without `aud`, the client ids.
        audience: List<String> = required,
        /// What its tokens may be signed with; never HMAC, never `none`. Default: RS256, PS256, ES256, EdDSA.
        algorithms: List<Algorithm>,
        /// Claims that every token must have: all that a deny, or an agent entry, may rely on.
        requires: List<String>,
        /// The provider. Default: `generic`.
        preset: Preset,
        /// Which claims say what; a key given here wins over the preset's.
        claims: ClaimNames,
        /// Kinds of actors, added to the preset's. No match, or two kinds but `agent`, is `unknown`.
        actor: List<ActorEntry>,
        /// How far the provider's clock may be off; at most 5m. Default: 1m.
        leeway: Duration,
        /// CA certificates that vouch for the provider's servers, as PEM. Default: the system's.
        ca: Pem,
        /// Who the provider's server must be, instead of any server of the name dialled: our own certificate is presented
        /// then, as another Countersign asks for it. `ca` vouches for it, else its trust domain.
        server_spiffe_id: List<SpiffePattern>,
        /// How long the last keys serve when the provider is down. Default: 24h.
        max_stale: Timeout,
        /// `at+jwt` for tokens as in RFC 9068, else `jwt`. Default: the preset's, `jwt` with nearly all.
        token_type: TokenType,
        /// The bearer token that the key set is fetched with.
        jwks_credential: Secret,
        /// Fetch from private addresses too. Default: false.
        allow_private_addresses: bool,
        /// Fetch over plain HTTP, from loopback only. Default: false.
        allow_http: bool,
        /// Whose tokens are taken at all; needed where the world can get one.
        only: Claims,
        /// How long after a client's certificate was replaced a token is taken that is bound to the one before (RFC 8705):
        /// at most 1h, `0s` for not at all. Default: 5m.
        rotation_grace: Duration,
        /// How old a DPoP proof (RFC 9449) may be, and how far its client's clock ahead: at most 5m. Default: 1m.
        dpop_proof_age_max: Timeout,
        /// Demands a nonce in DPoP proofs. Only the process that made one knows it: not for several behind a balancer that
        /// spreads a client's requests. Default: false.
        dpop_nonce: bool,
        /// What the provider knows this proxy as, to ask about opaque tokens.
        client_id: String,
        /// Its secret.
        client_secret: Secret,
        /// Takes opaque tokens, which the provider is asked about (RFC 7662); one issuer may.
        introspection: Introspection,
    }
}

table! {
    /// How the provider is asked about opaque tokens (RFC 7662), as the issuer's `client_id`.
    Introspection {
        /// Where. Default: what discovery names, on the host of the provider's `url`.
        endpoint: String,
        /// For how long an answer is believed, and a revoked token may still be taken: at most 1m. Default: 30s.
        time_max: Timeout,
    }
}

table! {
    /// Which claims say what. A string is one top-level name, whatever dots or slashes it holds; a
    /// list is a path.
    ClaimNames {
        /// Who the token is about. Default: `sub`.
        subject: ClaimPath,
        /// The OAuth client. Default: the preset's.
        client: ClaimPath,
        /// Scopes: a list, or one string with spaces. Default: the preset's.
        scopes: ClaimPath,
        /// Groups: a list, a string, or an object whose names count. Default: the preset's.
        groups: ClaimPath,
        /// The token's own roles: likewise. Default: the preset's.
        roles: ClaimPath,
    }
}

choice! {
    /// A kind that can be declared; `unknown` is what is left.
    DeclaredKind { Human = "human", Service = "service", Agent = "agent", }
}

table! {
    /// A kind of actor and the claims that show it.
    ActorEntry {
        /// `human`, `service` or `agent`; `agent` beats every other.
        kind: DeclaredKind = required,
        /// All must hold. An entry has this, or `same`, or both.
        claim: Claims,
        /// Two claims that must be there and equal, as `["sub", "client_id"]`: the subject of a machine's
        /// token is its client (RFC 9068 §2.2).
        same: List<String>,
    }
}

table! {
    /// A name for workloads.
    Service {
        /// Any of these; trust domain literal, `*` one whole segment, `**` only last.
        spiffe_id: List<SpiffePattern>,
        /// A DNS name in the certificate, for CAs that issue no SPIFFE IDs.
        dns_name: List<HostPattern>,
        /// Whose CA vouches for `dns_name`.
        trust_domain: TrustDomain,
        /// The OAuth clients whose tokens this service may carry; `"any"` to say so aloud.
        client_id: List<ClientId>,
    }
}

table! {
    /// A client and the issuer that gave it its name.
    IssuedClient {
        /// The `[issuer.NAME]`.
        issuer: Name = required,
        /// Its client id, or the start of one and `*`.
        client: Glob = required,
    }
}

/// A client id, with its issuer unless there is one only.
#[derive(Debug)]
pub enum ClientId {
    Bare(Glob),
    Issued(IssuedClient),
}

table! {
    /// A name for callers.
    Role {
        /// One of these entries holds.
        any_of: List<RoleEntry>,
        /// All of these entries hold.
        all_of: List<RoleEntry>,
    }
}

table! {
    /// All that is stated must hold, for a token of this issuer; a list means any of its members.
    RoleEntry {
        /// The `[issuer.NAME]`.
        issuer: Name = required,
        /// Subjects, as the issuer's `claims` map them; one `*` at the end stands for any end.
        subject: List<Glob>,
        /// OAuth clients, likewise.
        client: List<Glob>,
        /// Scopes, as the issuer's `claims` map them; one is enough.
        scope: List<String>,
        /// Groups, likewise.
        group: List<String>,
        /// Members of the token's own roles claim, likewise.
        role: List<String>,
        /// Claims as issued, with the value each must have, or hold.
        claim: Claims,
        /// The `sub` of the outermost `act`, where its `iss` is absent or the token's own.
        actor_subject: List<Glob>,
    }
}

choice! {
    /// A protocol that a route switches to.
    Upgrade { WebSocket = "websocket", }
}

choice! {
    /// What a route speaks.
    Protocol { Http = "http", }
    later { "mcp" }
}

table! {
    /// Which requests go where, and how they are judged and treated.
    Route {
        /// Which requests it takes: `inbound`, those of clients, or `outbound`, those that the local application
        /// sends through an outbound listener. Default: `inbound`.
        mode: Direction,
        /// Hosts, exact or `*.` and the rest. Default: any.
        host: List<HostPattern>,
        /// The pattern of its paths. Default: `/**`.
        path: PathPattern,
        /// Header fields that must be there with exactly this value.
        header: Keyed<String, String>,
        /// The `[upstream.NAME]`.
        upstream: Name = required,
        /// Other upstreams by role; the first whose role the caller has.
        variant: List<Variant>,
        /// Whole segments taken off the path before it is forwarded, after it was judged.
        strip_prefix: String,
        /// A whole request. Default: `[limit]`'s.
        total_timeout: Timeout,
        /// A request's body. Default: `[limit]`'s.
        body_bytes_max: Bytes,
        /// Forwards the caller's token. Default: false.
        forward_authorization: bool,
        /// Protocols that it may switch to. Default: none.
        upgrade: List<Upgrade>,
        /// Whose pages may read its answers, and act upon a log-in that browsers add. Default: its own origin's alone.
        cors: Cors,
        /// What the route speaks. Default: `http`.
        protocol: Protocol,
        /// Until the end of this day, UTC, what no allow permits is forwarded and recorded.
        shadow_until: Day,
    }
    later { login }
}

table! {
    /// Another upstream for a role.
    Variant {
        /// The `[role.NAME]`.
        role: Name = required,
        /// The `[upstream.NAME]`.
        upstream: Name = required,
    }
}

table! {
    /// Answers to CORS preflights.
    Cors {
        /// Origins, as `https://shop.example`.
        origins: List<String> = required,
    }
}

choice! {
    /// Whether a rule has effect.
    RuleMode {
        Enforce = "enforce",
        /// Evaluated, counted and recorded, without effect.
        Shadow = "shadow",
    }
}

/// `role = "a"`, `["a", "b"]` for any of them, `{ all = ["a", "b"] }` for all.
#[derive(Debug)]
pub enum RoleNames {
    Any(List<Name>),
    All(List<Name>),
}

table! {
    /// All of these roles.
    AllRoles {
        /// `[role.NAME]`s.
        all: List<Name> = required,
    }
}

table! {
    /// A rule: an `[[allow]]`, which states both signatures, `service` and `role`; a `[[deny]]`,
    /// whatever is allowed; or a `[[require]]` of all that its `route host method path grpc` reach.
    Rule {
        /// What it is for, in a few words. Unique: records and denials cite it.
        name: String = required,
        /// Who carries the request: `[service.NAME]`s, `"any"` of them, or `"none"`, which in an allow waives the
        /// certificate. An allow must state it.
        service: List<Name>,
        /// On whose behalf it comes: `[role.NAME]`s, of which one is enough, or `{ all = […] }`; `"any"` verified caller;
        /// or `"none"`, which in an allow waives the token. An allow must state it.
        role: RoleNames,
        /// Whose token it is: `[issuer.NAME]`s.
        issuer: List<Name>,
        /// Who acts: `human`, `service`, `agent` or `unknown`. Left out of an allow: never an agent.
        actor: List<ActorKind>,
        /// For whom who acts does so: of what kind the token's subject is. An allow for tokens with `act` needs it.
        on_behalf_of: List<ActorKind>,
        /// Claims as issued, with the value each must have, or hold; one `*` at the end stands for any end.
        claim: Claims,
        /// How the caller logged in: the token's `acr` is one of these.
        acr: List<String>,
        /// How long ago the caller logged in (`auth_time`), at most.
        max_age: Timeout,
        /// `[route.NAME]`s, or `"any"`. Where there are several routes, a rule has this or `host`.
        route: List<Name>,
        /// Hosts, exact, or `*.` for one label and the rest.
        host: List<HostPattern>,
        /// Methods, in upper case; `GET` includes `HEAD`. Left out: any.
        method: List<String>,
        /// Patterns of paths: each segment a literal, `{name}` or `*`, and `**`, only last, for any number. Left out: any.
        path: List<PathPattern>,
        /// Segments `{name}` of every `path`, and the claim of the caller that each must equal.
        match_claim: Keyed<String, ClaimPath>,
        /// Methods of gRPC, as `pkg.Service/Method`, or `pkg.Service/*` for all of a service.
        grpc: List<GrpcPattern>,
        /// How the request came: by the name of a `[trusted_hop]` that tells certificates, whether or not it told one, `local`,
        /// from the local application, or `direct`.
        hop: List<String>,
        /// Addresses or ranges of the other end of the connection. No identity: `check` finds rules with nothing else.
        peer_ip: List<IpNet>,
        /// Addresses or ranges of the client, as trusted hops tell it.
        client_ip: List<IpNet>,
        /// `true`: the token is bound to a key that its holder has proven to have, by this connection's certificate (RFC
        /// 8705) or by a proof for this request (DPoP, RFC 9449). A bound token without proof is refused by itself.
        sender_constrained: bool,
        /// `shadow` to try it without effect. Default: `enforce`.
        mode: RuleMode,
        /// Who answers for the rule. Copied to the record.
        owner: String,
        /// Where it was decided. Copied to the record.
        ticket: String,
        /// Of an allow: the first day on which it holds, in UTC.
        not_before: Day,
        /// Of an allow: the last day on which it holds, in UTC.
        expires: Day,
    }
    later { tool }
}

impl DeclaredKind {
    pub fn actor(self) -> ActorKind {
        match self {
            DeclaredKind::Human => ActorKind::Human,
            DeclaredKind::Service => ActorKind::Service,
            DeclaredKind::Agent => ActorKind::Agent,
        }
    }
}

impl Field for ClientId {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Table(_) => IssuedClient::read(node, reader).map(ClientId::Issued),
            _ => Glob::read(node, reader).map(ClientId::Bare),
        }
    }

    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (bare, issued) = (Glob::schema(generator), IssuedClient::schema(generator));
        schemars::json_schema!({ "anyOf": [bare, issued] })
    }
}

impl Field for RoleNames {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Table(_) => AllRoles::read(node, reader)?.all.map(|names| RoleNames::All(names.value)),
            _ => <List<Name>>::read(node, reader).map(RoleNames::Any),
        }
    }

    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (any, all) = (<List<Name>>::schema(generator), AllRoles::schema(generator));
        schemars::json_schema!({ "anyOf": [any, all] })
    }
}
