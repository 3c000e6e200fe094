//! Workers against a real broker: every promise of delivery, and the faults it has to survive.
#![expect(clippy::unwrap_used, reason = "what is unexpected ends a test")]
#![expect(clippy::indexing_slicing, reason = "what is unexpected ends a test")]
#![expect(clippy::panic, reason = "what is unexpected ends a test")]

mod answer;
mod crash;
mod drain;
mod essential;
mod fail;
mod hook;
mod pace;
mod planted;
mod stock;
mod support;
