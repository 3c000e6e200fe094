//! Reading: from the inputs of a transport to commands for the session. Never drops an input that it has read.

use std::iter;

use bytes::Bytes;
use futures_util::FutureExt;
use tidegate_shared::protocol::{CodecError, Command, Encoding, codes, json, protobuf};

use super::{Connection, End, now, transport::Input};
use crate::session::Now;

/// Messages read before the replies to them are written.
const READ_BUDGET: usize = 64;

impl Connection {
    /// Handles an input and what else is ready to read, so that the replies are written together. An input that was read is
    /// handled: the budget is checked before the next one is read.
    /// Returns whether nothing more was ready to read.
    pub(super) async fn received(&mut self, mut input: Input) -> Result<bool, End> {
        let (mut pinged, mut empty) = (false, false);
        for left in (0..READ_BUDGET).rev() {
            match input {
                Input::Frame(frame) => self.frame(frame)?,
                Input::Ping => pinged = true,
                Input::Pong => self.session.ponged(),
                Input::Left => return Err(End::Left),
                Input::Gone => return Err(End::Gone),
                Input::Broken(disconnect) => return Err(End::Close(disconnect)),
            }
            if !self.is_reading() {
                break;
            }
            if left == 0 {
                // Gives other connections their turn.
                tokio::task::yield_now().await;
                break;
            }
            let Some(next) = self.transport.next().now_or_never() else {
                empty = true;
                break;
            };
            input = next;
        }
        if pinged {
            let Self { outbox, transport, .. } = self;
            Box::pin(transport.flush(outbox)).await?;
        }
        Ok(empty)
    }

    fn frame(&mut self, frame: Bytes) -> Result<(), End> {
        if frame.len() as u64 > self.shared.rules.limits.message {
            return Err(End::Close(codes::MESSAGE_TOO_BIG));
        }
        if let Some(one_way) = &mut self.one_way {
            let command = one_way.read(&frame);
            return command.map_or(Ok(()), |command| {
                self.commands(iter::once(command.map_err(|error| CodecError::Malformed(error.to_string()))))
            });
        }
        match self.outbox.dialect().encoding() {
            Encoding::Json => match std::str::from_utf8(&frame) {
                Ok(text) => self.commands(json::decode(text)),
                Err(_) => self.malformed(),
            },
            Encoding::Protobuf => self.commands(protobuf::decode(frame)),
        }
    }

    fn commands(&mut self, commands: impl Iterator<Item = Result<Command, CodecError>>) -> Result<(), End> {
        let now = now();
        for (index, command) in commands.enumerate() {
            let Ok(command) = command else { return self.malformed() };
            if index >= self.shared.rules.limits.commands_per_message {
                return self.malformed();
            }
            self.shared.metrics.command();
            self.command(command, now)?;
        }
        Ok(())
    }

    pub(super) fn command(&mut self, command: Command, now: Now) -> Result<(), End> {
        if self.session.is_connecting() {
            self.stash.push(command);
            return Ok(());
        }
        let effects = self.session.handle(command, rand::random(), now);
        self.perform(effects)
    }

    pub(super) fn malformed(&mut self) -> Result<(), End> {
        let effects = self.session.malformed();
        self.perform(effects)
    }
}
