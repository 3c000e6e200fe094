//! What the `tidegate` command is made of, as a library: tests, faults and benches use the same parts.

pub mod client;
pub mod demo;
pub mod output;
pub mod stack;
pub mod token;
