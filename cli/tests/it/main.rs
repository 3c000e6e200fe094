//! The local stack, run as a whole.

mod stack;
