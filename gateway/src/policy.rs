//! Who may do what: tokens, keys, the rules of the configuration, and decisions asked from back ends.

pub(crate) mod delivery;
pub(crate) mod hook_cache;
pub(crate) mod hooks;
pub(crate) mod keys;
pub(crate) mod rules;
pub(crate) mod tokens;

use tidegate_shared::{hook::Decision, protocol::Error};

/// What a back end decided, or the error for the client when there is no decision.
pub(crate) type Verdict = Result<Decision, Error>;
