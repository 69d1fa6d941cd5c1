//! Countersign: an identity-aware reverse proxy. Every request needs two signatures, the *service*
//! that carries it (mTLS) and the *caller* behind it (a token); one policy decides on both at once,
//! and one audit line says why.
//!
//! The path of a request, each step with the module that owns it:
//!
//! ```text
//! accept → TLS handshake → Peer         tls        once per connection
//!   normalise → Action                  proxy      one normal form, judged and forwarded
//!   → credential → Caller               token      absent ≠ failed
//!   → decide(peer, caller, action)      policy     → Permit | Denial
//!   → forward(Permit)                   upstream   stream both ways; identity headers stripped, then set
//!   → one audit record, always          audit      takes the same Decision that was acted upon
//! ```
//!
//! Invariants, each held by a type or by a test:
//! - Only `policy::decide` makes a [`policy::Permit`], and nothing is forwarded without one.
//! - In the whole tree there is one token verifier, one policy evaluator, one path normaliser.
//! - A module imports only from lower ranks or its own folder (`tests/suite/tidy.rs`), in this order:
#![forbid(unsafe_code)]

// rank 0: words and time
pub mod clock;
pub mod identity;
pub mod metrics;
// rank 1: the decision, who is revoked, and the one guarded HTTP client
pub mod fetch;
pub mod policy;
pub mod revocation;
// rank 2: bytes ↔ verified peer
pub mod tls;
// rank 3: a credential becomes a caller; where requests may go
pub mod token;
pub mod upstream;
// rank 4: the record, the cache of standings, and a policy read backwards
pub mod access;
pub mod audit;
pub mod decisions;
// rank 5: the data path
pub mod proxy;
// rank 6: what was typed becomes what runs
pub mod config;
// rank 7: composition, what operators ask, and a configuration that only answers questions
pub mod admin;
pub mod replay;
pub mod server;
pub mod trial;
// rank 8: one file a command
pub mod cli;
