//! The stock worker as a process, against a real broker.
#![expect(clippy::unwrap_used, reason = "an unexpected value fails the test")]
#![expect(clippy::indexing_slicing, reason = "an unexpected value fails the test")]
#![expect(clippy::panic, reason = "an unexpected value fails the test")]

mod crash;
mod effects;
mod faults;
mod forward;
mod sql;
mod stock;
mod strict;
#[expect(dead_code, reason = "the library's tests use the rest")]
#[path = "../../../tests/it/support.rs"]
mod support;
mod test_command;
mod webhook;
