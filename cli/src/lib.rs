//! The parts of the `tidegate` command as a library, shared with the tests, the fault runs and the benches.

pub mod client;
pub mod demo;
pub mod output;
pub mod stack;
pub mod token;
