//! Who may do what: tokens, keys, the rules of the configuration, and decisions asked from back ends.

pub(crate) mod hook_cache;
pub(crate) mod hooks;
pub(crate) mod keys;
pub(crate) mod rules;
pub(crate) mod tokens;
