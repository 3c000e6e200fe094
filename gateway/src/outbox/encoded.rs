//! One message for many connections: each form is encoded for the first connection that needs it, as a whole frame, then
//! shared.

use std::{mem, sync::Arc};

use tidegate_shared::{
    protocol::{Encoding, Reply},
    sparse::Sparse,
};

use super::{Outbox, Wanted, dialect::Dialect, frame::Frame};

/// The forms a message can take in one dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it was published.
    Plain,
    /// Whole, for a subscriber that receives patches next.
    Whole,
    /// As a patch of the message before it, if that is shorter.
    Patch,
}

/// A message and its encoded forms.
pub(crate) struct Encoded<F> {
    build: F,
    forms: [Option<Frame>; 9],
    /// The outboxes that are handed to the flusher when all have the message.
    filled: Vec<Arc<Outbox>>,
}

/// What became of a message for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    Yes,
    /// It is larger than the outbox, so it can never be written, or it cannot be encoded.
    Never,
}

impl<F: Fn(Encoding, Form) -> Reply> Encoded<F> {
    pub(crate) fn new(build: F) -> Self {
        Self { build, forms: Default::default(), filled: Vec::new() }
    }

    /// Delivers the message to one connection.
    pub(crate) fn deliver(&mut self, outbox: &Arc<Outbox>, form: Form) -> Delivered {
        let dialect = outbox.dialect();
        let Some(slot) = self.forms.get_mut(index(dialect, form)) else { return Delivered::Never };
        if slot.is_none() {
            match dialect.encode(&(self.build)(dialect.encoding(), form)) {
                Ok(frame) => *slot = Some(frame),
                Err(error) => {
                    tracing::error!(%error, "a message could not be encoded");
                    return Delivered::Never;
                }
            }
            if let Some(bytes) = slot.as_ref().map(Frame::len).filter(|bytes| *bytes > outbox.limit()) {
                static TOO_LARGE: Sparse = Sparse::new();
                let limit = outbox.limit();
                if let Some(skipped) = TOO_LARGE.due() {
                    tracing::warn!(
                        bytes,
                        limit,
                        skipped,
                        "a message is larger than gateway.limits.outbox: no client receives it"
                    );
                }
            }
        }
        match slot {
            Some(frame) if frame.len() <= outbox.limit() => {
                if outbox.deliver(frame.clone()) == Wanted::Flush {
                    self.filled.push(Arc::clone(outbox));
                }
                Delivered::Yes
            }
            Some(_) | None => Delivered::Never,
        }
    }
}

impl<F> Drop for Encoded<F> {
    fn drop(&mut self) {
        // All of them belong to one gateway.
        let wire = self.filled.first().map(Arc::clone);
        if let Some(wire) = wire.as_ref().and_then(|outbox| outbox.wire()) {
            wire.flusher().add(mem::take(&mut self.filled));
        }
    }
}

impl Delivered {
    /// 1 for a delivered message, so that callers can add up.
    pub(crate) fn count(self) -> usize {
        usize::from(self == Self::Yes)
    }
}

fn index(dialect: Dialect, form: Form) -> usize {
    let form = match form {
        Form::Plain => 0,
        Form::Whole => 1,
        Form::Patch => 2,
    };
    match dialect {
        Dialect::Json => form,
        Dialect::Protobuf => 3 + form,
        Dialect::OneWay => 6 + form,
    }
}
