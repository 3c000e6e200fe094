//! The local stack, run as a whole.

// `cfg(test)` always holds here; it tells clippy that helpers may unwrap, too.
#[cfg(test)]
mod asyncapi;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod call;
#[cfg(test)]
mod command;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod dead;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod leftover;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod mistyped;
#[cfg(test)]
mod permission;
#[cfg(test)]
mod port;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod stack;
#[cfg(test)]
mod support;
