//! Channels and their publications: from NATS to subscribers, in order and without gaps.

pub(crate) mod feed;
pub(crate) mod history;
pub(crate) mod hub;
pub(crate) mod interest;
pub(crate) mod receive;
pub(crate) mod resume;
