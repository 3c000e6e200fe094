//! One message for many connections: each form is encoded for the first connection that needs it, then shared.

use bytes::Bytes;
use tidegate_shared::{
    protocol::{Encoding, Reply},
    sparse::Sparse,
};

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

/// What became of a message for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    Yes,
    /// It is larger than the outbox, so it can never be written, or it cannot be encoded.
    Never,
}

impl<F: Fn(Encoding, Form) -> Reply> Encoded<F> {
    pub(crate) fn new(build: F) -> Self {
        Self { build, forms: Default::default() }
    }

    /// Delivers the message to one connection.
    pub(crate) fn deliver(&mut self, outbox: &Outbox, form: Form) -> Delivered {
        let dialect = outbox.dialect();
        let Some(slot) = self.forms.get_mut(index(dialect, form)) else { return Delivered::Never };
        if slot.is_none() {
            match dialect.encode(&(self.build)(dialect.encoding(), form)) {
                Ok(bytes) => *slot = Some(bytes),
                Err(error) => {
                    tracing::error!(%error, "a message could not be encoded");
                    return Delivered::Never;
                }
            }
            if let Some(bytes) = slot.as_ref().filter(|bytes| bytes.len() > outbox.limit()) {
                static TOO_LARGE: Sparse = Sparse::new();
                let (bytes, limit) = (bytes.len(), outbox.limit());
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
            Some(bytes) if bytes.len() <= outbox.limit() => {
                outbox.deliver(bytes.clone());
                Delivered::Yes
            }
            Some(_) | None => Delivered::Never,
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
