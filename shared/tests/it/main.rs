//! The wire, pinned by bytes, and the rules of the tree.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fossil;
mod tidy;
mod tokens;
mod wire;
