//! A client of the Centrifuge protocol, used by the commands, the demo, the load generator and the tests.
//!
//! It uses the public protocol only and sees what any application sees. [`Client`] is one connection and never
//! reconnects; [`ReconnectingClient`] reconnects as an application would; [`raw`] is for tests of bad input.

pub use self::{
    connection::Client,
    error::{CallError, Closed, ConnectError},
    event::{Event, Events},
    keyed::{KeyedAnswer, KeyedError},
    options::Options,
    reconnecting::{ReconnectOptions, ReconnectingClient},
};

mod codec;
mod connection;
mod error;
mod event;
mod handshake;
mod keyed;
mod options;
pub mod raw;
mod reconnecting;
mod socket;

#[cfg(test)]
mod tests;
