//! Requests on their way from a client to a worker, and answers on their way back.

pub(crate) mod answers;
pub(crate) mod store;
pub(crate) mod turn;
