//! What can be typed: every table and key, with its meaning, its type and its default. Private to
//! `config/`; the rest of the program sees domain types only.
//!
//! Names, rules and routes are in `file_policy.rs`, our own identity in `file_identity.rs`.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::definition::{choice, table};
use super::elsewhere::{AuditOutput, FilePath, Pem, Secret};
use super::file_credential::Credential;
use super::file_identity::Identity;
use super::file_policy::{Issuer, Role, Route, Rule, Service};
use super::read::{Keyed, List};
use super::value::{Bytes, Timeout, Version};
use crate::identity::{Direction, Name, SpiffePattern, TrustDomain};

table! {
    /// A configuration of Countersign. Several files add up to one.
    File {
        /// The version of this format: 1.
        version: Version = required,
        /// This instance.
        proxy: Proxy,
        /// Health, metrics and status, apart from the data ports.
        admin: Admin,
        /// Our own certificate, presented to clients and to upstreams.
        identity: Identity,
        /// Which CAs vouch for which workloads.
        trust_domain: Keyed<TrustDomain, TrustDomainTable>,
        /// Where requests come in.
        listener: Keyed<Name, Listener>,
        /// Who may say on whose behalf a connection comes.
        trusted_hop: Keyed<Name, TrustedHop>,
        /// What upstreams are told of who asks, signed by this proxy.
        assertion: Assertion,
        /// Who vouches for callers.
        issuer: Keyed<Name, Issuer>,
        /// Names for workloads.
        service: Keyed<Name, Service>,
        /// Names for callers.
        role: Keyed<Name, Role>,
        /// Where requests may go.
        upstream: Keyed<Name, Upstream>,
        /// Which requests go where.
        route: Keyed<Name, Route>,
        /// What is allowed.
        allow: List<Rule>,
        /// What is denied, whatever allows it.
        deny: List<Rule>,
        /// What is demanded, whatever allows it.
        require: List<Rule>,
        /// Findings of `check` that are meant to be so.
        lint: Lint,
        /// Who is revoked before credentials end by themselves.
        revocation: Revocation,
        /// The record of every decision.
        audit: Audit,
        /// What is too much.
        limit: Limit,
        /// How much is remembered.
        cache: Cache,
        /// The process's own log.
        log: Log,
    }
    later { session }
}

choice! {
    /// What becomes of header names with a character other than letters, digits and `-`.
    OddHeaderNames {
        /// Their request is refused.
        Refuse = "refuse",
        /// They are left out.
        Drop = "drop",
    }
}

table! {
    /// This instance.
    Proxy {
        /// Its name in audit records and traces. Default: `countersign`.
        name: Name,
        /// Threads that serve. Default: one for each core.
        workers: u32,
        /// Whether a request with a header name that has a character other than letters, digits and `-` is
        /// refused, or loses that header: some servers read `x_user` as `x-user`. Default: `refuse`.
        odd_header_names: OddHeaderNames,
    }
}

table! {
    /// Health, metrics and status, apart from the data ports.
    Admin {
        /// Health, metrics and status, over plain HTTP. Keep it on loopback. Default: none.
        address: SocketAddr,
        /// `/livez` and `/readyz` alone, over plain HTTP, for load balancers that reach neither
        /// loopback nor mTLS. Default: none.
        health_address: SocketAddr,
    }
}

table! {
    /// Which CAs vouch for which workloads; a CA speaks for its own trust domain only.
    TrustDomainTable {
        /// Its CA certificates as PEM; none may stand in two trust domains. Watched. Default: those that the
        /// source of `[identity]` gives; mandatory with `files`.
        ca: Pem,
        /// Certificate revocation lists as PEM, one for each CA, the root too; an expired or missing one refuses.
        /// Watched. Default: revocation is not checked.
        crl: Pem,
    }
}

choice! {
    /// Whether clients present a certificate.
    ClientCertificate {
        /// A handshake without one fails.
        Required = "required",
        /// Without one the caller alone is judged, by rules that waive the service.
        Optional = "optional",
        /// None is asked for.
        None = "none",
    }
}

choice! {
    for Direction {
        Inbound = "inbound",
        Outbound = "outbound",
    }
}

choice! {
    /// The version of the PROXY protocol that every connection starts with.
    ProxyProtocol { V2 = "v2", }
}

table! {
    /// Where requests come in.
    Listener {
        /// Where it listens.
        address: SocketAddr = required,
        /// Whether clients present a certificate; with `optional`, who presents none is judged by rules that
        /// waive the service. Default: `required`.
        client_certificate: ClientCertificate,
        /// Whose requests come in there: `inbound`, those of clients, or `outbound`, those that the local application
        /// sends over plain HTTP on loopback, as this very workload. Default: `inbound`.
        mode: Direction,
        /// Another certificate than `[identity]`'s, as PEM. Default: that one.
        certificate: Pem,
        /// Its private key, as PEM. Default: that of `[identity]`.
        private_key: Pem,
        /// The passphrase of that private key, where it is encrypted (PKCS #8).
        passphrase: Secret,
        /// Serves HTTP without TLS. Default: false.
        allow_plaintext: bool,
        /// Demands the PROXY protocol, from the `[trusted_hop]`s of kind `proxy` alone. Default: not spoken.
        proxy_protocol: ProxyProtocol,
    }
}

choice! {
    /// How a hop tells of whom it speaks for.
    HopKind {
        /// By a PROXY protocol header before the first byte, as network load balancers do.
        Proxy = "proxy",
        /// By an assertion, as another Countersign does.
        Countersign = "countersign",
        /// By the client's certificate in AWS's headers, as an Application Load Balancer does.
        Alb = "alb",
        /// By the client's certificate in `x-forwarded-client-cert`, as Envoy does.
        Envoy = "envoy",
        /// By the client's certificate in `Client-Cert` and `Client-Cert-Chain` (RFC 9440).
        Rfc9440 = "rfc9440",
    }
}

choice! {
    /// What an ALB does with a client's certificate.
    MutualAuthentication {
        /// It passes the chain on.
        Passthrough = "passthrough",
        /// It verifies it, and passes the leaf on.
        Verify = "verify",
        /// It asks for none.
        Off = "off",
    }
}

table! {
    /// Who may say on whose behalf a connection comes.
    TrustedHop {
        /// How it tells: `proxy`, by the PROXY protocol; `countersign`, by an assertion in `x-auth-assertion`; `alb`,
        /// `envoy` and `rfc9440`, by the certificate of its own client in a header, which is verified here; `alb` by
        /// `x-amzn-oidc-data` too, where an issuer has the preset `alb`.
        kind: HopKind = required,
        /// The addresses it comes from, as ranges, as `10.0.0.0/16`; mandatory with `proxy` and `alb`. Of a hop that
        /// tells certificates, it is seen at the other end of the TCP connection itself, and counts only where that
        /// end shows no certificate of its own.
        address: List<IpNet>,
        /// Who it is, by its own certificate; mandatory with `countersign`. With `envoy` and `rfc9440` it is this or
        /// `address`.
        spiffe_id: List<SpiffePattern>,
        /// With `alb`: `passthrough`, the chain in `x-amzn-mtls-clientcert` is read; `verify`, the leaf in
        /// `x-amzn-mtls-clientcert-leaf`; `off`, neither. Default: `passthrough`.
        mutual_authentication: MutualAuthentication,
    }
}

table! {
    /// Where requests may go.
    Upstream {
        /// `http://host:port`, `h2c://host:port` or `https://host:port`; several are balanced.
        server: List<String> = required,
        /// One for each server, in order. Default: 1 each.
        weight: List<u32>,
        /// Who the server must be, for https with mTLS: our own certificate is presented then. Default: any
        /// server of the name dialled.
        server_spiffe_id: List<SpiffePattern>,
        /// CA certificates that vouch for the server, as PEM; our own certificate is presented then. Default: those
        /// of the trust domain of `server_spiffe_id`, else those of the system.
        ca: Pem,
        /// Tells it who asks, and from where, in `x-auth-…`, `x-forwarded-…` and `forwarded`. `false` is for third
        /// parties, who get `x-request-id` and `traceparent` alone. Default: true.
        identity_headers: bool,
        /// The `aud` of assertions for it. Default: its name here.
        assertion_audience: String,
        /// To get a connection, TLS included; for each attempt. Default: 5s.
        connect_timeout: Timeout,
        /// From the end of the request until the response's head. Default: 30s.
        first_byte_timeout: Timeout,
        /// Without a byte of a body in either direction. Default: 60s.
        idle_timeout: Timeout,
        /// Failures in a row after which a server is left out for a while. Default: 5.
        eject_after_failures: u32,
        /// What it is shown in `Authorization`. Default: what the route's `forward_authorization` says.
        credential: Credential,
    }
    later { health_path }
}

table! {
    /// What upstreams are told of who asks, signed by this proxy: a JWT in `x-auth-assertion`, ES256, for at most 60
    /// seconds. Its keys are made at the start, replaced every 12 hours, and published at
    /// `/.well-known/countersign/jwks.json` on every listener.
    Assertion {
        /// Its `iss`, as `https://orders.shop.example`: whoever verifies it expects this very text.
        issuer: String = required,
        /// Claims of the caller's token, by top-level name, that are passed on as they are. Default: none.
        claims: List<String>,
    }
}

table! {
    /// Findings of `check` that are meant to be so.
    Lint {
        /// One finding each.
        allow: List<LintAllow>,
    }
}

table! {
    /// A finding that is meant to be so. Without a place, it is allowed everywhere.
    LintAllow {
        /// Its code, as `check` prints it.
        code: String = required,
        /// The rule it is about.
        rule: String,
        /// The role it is about.
        role: Name,
        /// The service it is about.
        service: Name,
        /// The issuer it is about.
        issuer: Name,
        /// The route it is about.
        route: Name,
        /// The upstream it is about.
        upstream: Name,
        /// The trust domain it is about.
        trust_domain: TrustDomain,
        /// The listener it is about.
        listener: Name,
        /// The hop it is about.
        trusted_hop: Name,
    }
}

table! {
    /// Who is revoked before credentials end by themselves.
    Revocation {
        /// The list: a TOML file of its own, whose format `countersign schema --revocation` tells. Watched by itself: a change takes
        /// effect within a second whatever the configuration's files say meanwhile; a bad list keeps the last good.
        file: FilePath = required,
    }
}

table! {
    /// The record of every decision.
    Audit {
        /// `stdout` or the path of a file. Default: `stdout`.
        output: AuditOutput,
        /// Refuse what cannot be recorded. Default: false, and lost records are counted.
        required: bool,
        /// Claims, by top-level name, of whose values records hold the SHA-256 alone: also as subject, client, group
        /// or token role, where the issuer's `claims` read those from them. Default: none.
        redact: List<String>,
    }
    later { chain }
}

table! {
    /// What is too much. Over a limit is refused with `limit_exceeded` and counted.
    Limit {
        /// Open client connections. Default: 10000.
        connections_max: u32,
        /// Open connections of one address. Default: 1000.
        connections_per_peer_max: u32,
        /// TLS handshakes in flight. Default: 1000.
        handshakes_max: u32,
        /// TLS handshakes in flight of one address. Default: 250.
        handshakes_per_peer_max: u32,
        /// From accept to the end of the handshake. Default: 10s.
        handshake_timeout: Timeout,
        /// All header fields of a request together. Default: 64KiB.
        header_bytes_max: Bytes,
        /// Header fields of a request; over HTTP/2 all its cookies are one. Default: 100.
        header_count_max: u32,
        /// From a request's first byte to the end of its head. Default: 10s.
        header_timeout: Timeout,
        /// A request's body, where its route does not say. Default: 10MiB.
        body_bytes_max: Bytes,
        /// An access token. Default: 16KiB.
        token_bytes_max: Bytes,
        /// Nesting of JSON in a token. Default: 32.
        json_depth_max: u32,
        /// Values in a token's JSON, of all depths. Default: 4096.
        json_values_max: u32,
        /// Scopes of a token. Default: 256.
        scope_count_max: u32,
        /// Groups, and roles, of a token. Default: 1024.
        group_count_max: u32,
        /// Actors in a token's `act` chain. Default: 4.
        delegation_depth_max: u32,
        /// DPoP proofs that are remembered so that none is used twice, of which one subject, else client, may have a
        /// part; each takes about 40 bytes. Default: 1000000.
        dpop_proofs_max: u32,
        /// Opaque tokens that were not believed before and that their issuer is asked about, or that wait for it; one
        /// client, by its certificate or else its address, may have a part. Default: 1000.
        introspection_pending_max: u32,
        /// A key set or discovery document of an issuer. Default: 256KiB.
        key_document_bytes_max: Bytes,
        /// Requests in flight of one client address, as a trusted hop tells it, else that of the other end; for each
        /// worker. Who goes out is not counted, nor of whom a hop tells nothing. Default: 512.
        requests_per_client_max: u32,
        /// Requests in flight to one server, for each worker. Default: 1024.
        upstream_in_flight_max: u32,
        /// Requests that wait for one of these, for each worker. Default: 1024.
        upstream_pending_max: u32,
        /// Concurrent HTTP/2 streams of a connection. Default: 100.
        streams_per_connection_max: u32,
        /// HTTP/2 streams that a client may reset before they are answered, and that it may make the proxy reset:
        /// so many at once, and of the former as many again in 10s. Default: 100.
        resets_per_connection_max: u32,
        /// HTTP/2 frames without a request or body (PING, SETTINGS, WINDOW_UPDATE, empty DATA and the like), beyond what
        /// requests and bodies account for: so many at once, and as many again in 10s. Default: 1000.
        control_frames_per_connection_max: u32,
        /// A client that asks for nothing, or takes nothing of its answer. One that waits for it over HTTP/2 is asked by PING, and has `handshake_timeout` to answer. Default: 60s.
        idle_timeout: Timeout,
        /// A whole request, where its route does not say. Default: 5m.
        total_timeout: Timeout,
        /// The age at which a connection is asked to close. Default: 1h.
        connection_age_max: Timeout,
        /// Audit records waiting to be written: of refusals, and as many again of requests that were forwarded;
        /// with `[audit] required`, those in flight are counted in. Default: 8192.
        audit_queue_max: u32,
        /// With `[audit] required`, how long a refusal waits until its record finds a place. Default: 1s.
        audit_wait_timeout: Timeout,
        /// From SIGTERM until what is still open is cut. Default: 30s.
        drain_timeout: Timeout,
    }
}

table! {
    /// How much is remembered.
    Cache {
        /// Verified tokens, by the memory that they take. Default: 64MiB.
        token_bytes_max: Bytes,
        /// A verified token that nobody presents for this long is forgotten. Default: 15m.
        token_idle_time: Timeout,
        /// Tokens that failed. Default: 10000.
        failed_token_entries_max: u32,
        /// How long a failed token is refused from memory. Default: 10s.
        failed_token_time: Timeout,
        /// Standings of a peer and a caller, each with what is told of the two. Default: 20000.
        decision_entries_max: u32,
        /// The age at which a standing is made anew. Default: 5m.
        decision_time_max: Timeout,
    }
}

choice! {
    /// From which severity on.
    LogLevel {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

choice! {
    /// For whom.
    LogFormat { Pretty = "pretty", Json = "json", }
}

table! {
    /// The process's own log, on standard error.
    Log {
        /// From which severity on. Default: `info`.
        level: LogLevel,
        /// For people, or one JSON object a line. Default: `pretty` on a terminal, else `json`.
        format: LogFormat,
    }
}
