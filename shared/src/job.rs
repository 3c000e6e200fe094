//! What a worker says about a request that it runs.

use serde::{Deserialize, Serialize};

/// A request that a worker runs now: the answer on `tide.running.<id>`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningJob {
    /// The attempt, counted from 0.
    pub attempt: u32,
    /// Since when, in milliseconds since 1970 by the worker's reading of the broker's clock.
    pub since: u64,
    /// The worker's name.
    pub worker: String,
    /// The newest report of its handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Report>,
}

/// What a handler reports about how far it is. Also the value of the header `Tide-Progress`, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// How much is done, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// What is being done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// A text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// When it was made, in UTC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub at: String,
}
