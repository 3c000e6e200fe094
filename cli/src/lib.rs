//! The parts of the `tidegate` command as a library, shared with the tests, the fault runs and the benches.

pub mod asyncapi;
pub mod client;
pub mod codes;
pub mod conformance;
pub mod demo;
pub mod doctor;
pub mod output;
pub mod postgres;
pub mod progress;
pub mod stack;
pub mod token;
