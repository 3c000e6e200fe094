//! `tidegate-trial bench`: the scenarios, against Tidegate and beside peers in the same invocation.
//!
//! Sides take turns, and what counts are medians: the machine's speed drifts by more than the difference that is looked for.

pub(crate) mod crew;
pub(crate) mod results;
pub(crate) mod runner;
mod scenario;
pub(crate) mod server;

pub(crate) use self::scenario::Scenario;
