//! The data path: from an accepted socket to an answer and its record.
//!
//! [`exchange`](exchange::exchange) shows the path of a request from top to bottom. Everything else here
//! is a step of it, or carries it: one [`worker`] per core, with sockets, connections and pools of its own.

mod accept;
pub mod admission;
pub mod assertion;
pub mod basis;
pub mod body;
pub mod connection;
pub mod exchange;
pub mod forward;
pub mod frame;
pub mod frames;
pub mod generation;
pub mod headers;
pub mod hop;
pub mod http1;
pub mod http2;
pub mod http2_error;
pub mod in_flight;
pub mod judgement;
pub mod known_by;
pub mod leaves;
pub mod limits;
pub mod listener;
pub mod normalize;
pub mod proxy_protocol;
pub mod refusal;
pub mod route;
pub mod seldom;
pub mod serving;
pub mod stall;
pub mod underway;
pub mod watched;
pub mod worker;

#[cfg(test)]
mod tests_headers;
#[cfg(test)]
mod tests_normalize;
#[cfg(test)]
mod tests_stall;

pub use generation::{Generation, ListenerState, Shared};
pub use limits::Limits;
pub use route::{Cors, RouteSettings};
