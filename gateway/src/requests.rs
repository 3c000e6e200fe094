//! Requests on their way from a client to a worker, and answers on their way back.

pub(crate) mod answers;
pub(crate) mod cache;
pub(crate) mod calls;
mod earlier;
pub(crate) mod firings;
pub(crate) mod jobs;
pub(crate) mod letters;
pub(crate) mod missed;
pub(crate) mod quota;
pub(crate) mod records;
pub(crate) mod schedules;
pub(crate) mod store;
pub(crate) mod turn;
pub(crate) mod waiting;
mod words;

use bytes::Bytes;
use tidegate_shared::{envelope::Answer, protocol};

/// How a call ended for its caller.
#[derive(Debug, PartialEq)]
pub(crate) enum CallEnd {
    /// A worker answered.
    Answered(Answer),
    /// The request is stored under this id. With its answer, if it was answered before.
    Accepted { id: String, seq: Option<u64>, duplicate: bool, answer: Option<Answer> },
    /// The gateway itself has answered, with this JSON.
    Told(Bytes),
    /// The request was not stored, or not answered in time.
    Failed(protocol::Error),
}
