//! The payloads of the scenario `faults`. Each says whom it is for, so that a client knows what it should not have received.

use serde::{Deserialize, Serialize};

/// The variable that names the file in which workers record every run of a handler.
pub(crate) const RUNS_FILE: &str = "FAULTS_RUNS_FILE";

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
