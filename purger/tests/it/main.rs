//! Integration tests of the purger: every stack has a broker of its own.
#![expect(clippy::unwrap_used, reason = "an unexpected value fails the test")]
#![expect(clippy::indexing_slicing, reason = "an unexpected value fails the test")]

mod floor;
mod purge;
mod support;
mod sweep;
