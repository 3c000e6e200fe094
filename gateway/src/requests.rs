//! Requests on their way from a client to a worker, and answers on their way back.

pub(crate) mod answers;
pub(crate) mod cache;
pub(crate) mod calls;
pub(crate) mod quota;
pub(crate) mod store;
mod trace;
pub(crate) mod turn;
pub(crate) mod waiting;

use tidegate_shared::{envelope::Answer, protocol};

/// How a call ended for its caller.
#[derive(Debug, PartialEq)]
pub(crate) enum CallEnd {
    /// A worker answered.
    Answered(Answer),
    /// The request is stored under this id. With its answer, if it was answered before.
    Accepted { id: String, seq: Option<u64>, duplicate: bool, answer: Option<Answer> },
    /// The request was not stored, or not answered in time.
    Failed(protocol::Error),
}
