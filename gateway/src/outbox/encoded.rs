//! One message for many connections: each form is encoded for the first connection that needs it, then shared.

use bytes::Bytes;
use tidegate_shared::protocol::{Encoding, Reply};

use super::{Outbox, dialect::Dialect};

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
    forms: [Option<Bytes>; 9],
}

impl<F: Fn(Encoding, Form) -> Reply> Encoded<F> {
    pub(crate) fn new(build: F) -> Self {
        Self { build, forms: Default::default() }
    }

    /// Delivers the message to one connection. Returns 1, or 0 if it could not be encoded.
    pub(crate) fn deliver(&mut self, outbox: &Outbox, form: Form) -> usize {
        let dialect = outbox.dialect();
        let Some(slot) = self.forms.get_mut(index(dialect, form)) else { return 0 };
        if slot.is_none() {
            match dialect.encode(&(self.build)(dialect.encoding(), form)) {
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
