//! A client of the Centrifuge protocol: what the commands, the demo, the load generator and the tests speak to a gateway with.
//!
//! An ordinary client with no private door: it sees what any application sees. [`Client`] is one connection and never
//! connects again; [`ReconnectingClient`] is the pattern an application writes around it; [`raw`] is for tests of bad input.

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
