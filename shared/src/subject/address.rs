//! The address of a request: what its subjects have in common, whichever stage it is in.

use crate::{channel::Channel, id::RequestId, route::Priority, token::Token};

/// The number of parts that ordering keys are distributed over.
pub const PARTS: u32 = 64;

/// The kind of a request, as part of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// An rpc with this method.
    Rpc(&'a str),
    /// A message without a reply.
    Send,
    /// A publication in this channel that a worker decides about.
    Publish(&'a Channel),
}

/// The address of a request in the stages `in`, `first` and `due`: the words after `tide.in`; and which of the first two it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) words: String,
    pub(super) priority: Priority,
}

impl Address {
    /// Returns the address of a request: kind, part of the ordering key, and id.
    pub fn new(kind: Kind<'_>, key: &str, id: &RequestId) -> Self {
        let address = match kind {
            Kind::Rpc(method) => {
                let mut address = "rpc".to_owned();
                for word in method.split('.') {
                    address.push('.');
                    address.push_str(Token::encode(word).as_str());
                }
                address
            }
            Kind::Send => "send".to_owned(),
            // The channel may be one that a foreign program has named, whose namespace is not declared.
            Kind::Publish(channel) => {
                format!("pub.{}.{}", Token::encode(channel.namespace()), channel.token())
            }
        };
        Self { words: format!("{address}.{}.{id}", part(key)), priority: Priority::Normal }
    }

    /// The same address, of a request with this priority.
    #[must_use]
    pub fn with(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }
}

/// Returns the part that an ordering key belongs to, 0 to 63.
pub fn part(key: &str) -> u32 {
    // FNV-1a is stable across versions and languages. A worker's strict order will depend on that.
    key.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) % PARTS
}
