//! The payloads of the scenarios with workers of their own. In `faults` each says whom it is for, so that a client knows what it
//! should not have received.

use serde::{Deserialize, Serialize};

/// The variable that names the file in which workers record every run of a handler.
pub(crate) const RUNS_FILE: &str = "FAULTS_RUNS_FILE";
/// The route of the scenario `worker`, whose handler does nothing.
pub(crate) const EMPTY_ROUTE: &str = "empty";
/// The route of the scenario `order`.
pub(crate) const ORDER_ROUTE: &str = "order";
/// The route of the scenario `deploys`.
pub(crate) const LONG_ROUTE: &str = "long";
/// The route of the scenario `failing`.
pub(crate) const MIXED_ROUTE: &str = "mixed";

/// The body of a request. The same for every repetition of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The user who sends it.
    pub(crate) to: String,
    /// The route.
    pub(crate) by: String,
    /// Counts the user's requests on this route.
    pub(crate) n: u64,
    /// The channel in which its handler publishes.
    pub(crate) channel: String,
    /// How long its handler works.
    pub(crate) work_ms: u64,
    /// How many of its attempts fail.
    pub(crate) failures: u32,
}

/// Any other payload: an answer, a publication, a message for one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// The user or the channel it is for.
    pub(crate) to: String,
    /// Who sends it: a route for an answer.
    pub(crate) by: String,
    /// Counts what this sender sends to this receiver.
    pub(crate) n: u64,
    /// On what a handler made: its run. Two runs of one request have different numbers.
    #[serde(default)]
    pub(crate) run: u64,
}

/// The body of a request in a strict order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InOrder {
    /// The ordering key.
    pub(crate) key: String,
    /// Counts the requests of the key.
    pub(crate) n: u64,
    /// How long its handler works.
    pub(crate) work_ms: u64,
}

/// The body of a request that takes long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Long {
    pub(crate) work_ms: u64,
}

/// The body of a request that fails for ever.
pub(crate) const FAILS: &[u8] = br#"{"fails":true}"#;
