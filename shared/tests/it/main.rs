//! Golden bytes of the wire formats, and the rules of the source tree.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fossil;
mod tidy;
mod tokens;
mod wire;
