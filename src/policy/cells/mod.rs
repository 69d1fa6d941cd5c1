//! What conditions come to: conjunctions of positive demands, and the shapes of paths that they meet in.
//!
//! A rule is written out into all the [`Demand`]s that make it hold ([`ways`]); two rules that hold of one
//! request are two demands that [`Demand::join`]. Nothing here judges a request: that is `judge`'s alone, and
//! what is built from a demand is asked there.

mod demand;
mod expand;
mod fresh;
mod shape;
mod unbuilt;

pub use demand::{CallerDemand, Demand, Kinds, PeerDemand, Side, SideDemand, join_globs, join_nets};
pub use expand::{carried, entries, met, peers, product, reach, role, ways};
pub use fresh::{Fresh, numbers};
pub use shape::Shape;
pub use unbuilt::{Built, Gap, Unbuilt};
