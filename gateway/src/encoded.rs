//! One message for many: encoded when the first client of an encoding needs it, then shared.

use bytes::Bytes;
use tidegate_shared::protocol::{Encoding, Reply, encode_reply};

use crate::connection::outbox::Outbox;

/// A message and its encoded forms.
pub(crate) struct Encoded<F> {
    build: F,
    json: Option<Bytes>,
    protobuf: Option<Bytes>,
}

impl<F: Fn(Encoding) -> Reply> Encoded<F> {
    pub(crate) fn new(build: F) -> Self {
        Self { build, json: None, protobuf: None }
    }

    /// Hands the message to one connection; returns how many it went to, so that callers can add up.
    pub(crate) fn deliver(&mut self, outbox: &Outbox) -> usize {
        let encoding = outbox.encoding();
        let slot = match encoding {
            Encoding::Json => &mut self.json,
            Encoding::Protobuf => &mut self.protobuf,
        };
        if slot.is_none() {
            match encode_reply(encoding, &(self.build)(encoding)) {
                Ok(bytes) => *slot = Some(bytes),
                Err(error) => {
                    tracing::error!(%error, "a message could not be encoded");
                    return 0;
                }
            }
        }
        if let Some(bytes) = slot {
            outbox.deliver(bytes.clone());
        }
        1
    }
}
