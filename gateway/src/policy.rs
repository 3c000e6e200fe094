//! Permissions: tokens, keys, the rules of the configuration, decisions of back ends, and who has how many connections.

pub(crate) mod address;
pub(crate) mod crowd;
pub(crate) mod delivery;
pub(crate) mod hook_cache;
pub(crate) mod hooks;
pub(crate) mod keys;
pub(crate) mod pace;
pub(crate) mod rules;
pub(crate) mod tokens;

use tidegate_shared::{hook::Decision, protocol::Error};

/// A back end's decision, or the client's error when there is none.
pub(crate) type Verdict = Result<Decision, Error>;
