//! The purger: removes acknowledged requests from the streams of the routes, and makes dead letters of those that a worker in another
//! language gave up.
//!
//! A worker's acknowledgement removes nothing, because the server would sync one write for each. It moves the acknowledgement
//! floor of the route's consumer: every request up to the floor is acknowledged. The purger looks at the floor of each route
//! every `purger.interval` and removes what is not above it, many requests with one write. Until then a request's subject is
//! taken, and its answer is in TIDE_REPLY.
//!
//! A message that a worker terminates counts as acknowledged. The sweeper reads it and makes a dead letter of it; the purger removes
//! nothing of a route while the sweeper has something of it to read.
//!
//! It is a program of its own because the right to purge a stream is the right to empty it: neither gateways nor workers have
//! it. Several purgers beside each other do no harm: a purge that another one has done removes nothing.

mod floor;
mod floors;
mod grace;
mod health;
mod metrics;
mod program;
mod purger;
mod schedule;
mod sweeper;

pub use self::{metrics::Metrics, program::program, purger::Purger};
