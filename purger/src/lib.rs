//! The purger: removes acknowledged requests from the streams of the routes.
//!
//! A worker's acknowledgement removes nothing, because the server would sync one write for each. It moves the acknowledgement
//! floor of the route's consumer: every request up to the floor is acknowledged. The purger looks at the floor of each route
//! every `purger.interval` and removes what is not above it, many requests with one write. Until then a request's subject is
//! taken, and its answer is in TIDE_REPLY.
//!
//! It is a program of its own because the right to purge a stream is the right to empty it: neither gateways nor workers have
//! it. Several purgers beside each other do no harm: a purge that another one has done removes nothing.

mod floor;
mod health;
mod metrics;
mod program;
mod purger;
mod schedule;

pub use self::{metrics::Metrics, program::program, purger::Purger};
