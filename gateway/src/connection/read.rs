//! Reading: from the inputs of a transport to commands for the session. Never drops an input that it has read.

use std::iter;

use bytes::Bytes;
use futures_util::FutureExt;
use tidegate_shared::protocol::{CodecError, Command, Encoding, codes, json, protobuf};

use super::{Connection, End, depth, now, transport::Input};
use crate::{outbox::frame::Frame, session::Now};

/// Messages read before the replies to them are written.
const READ_BUDGET: usize = 64;

impl Connection {
    /// Handles an input and what else is ready to read, so that the replies are written together. An input that was read is
    /// handled: the budget is checked before the next one is read.
    /// Returns whether nothing more was ready to read.
    pub(super) async fn received(&mut self, mut input: Input) -> Result<bool, End> {
        let mut empty = false;
        for left in (0..READ_BUDGET).rev() {
            match input {
                Input::Frame(frame) => self.frame(frame)?,
                Input::Ping(content) => {
                    self.charge(1)?;
                    self.outbox.push(Frame::pong(&content));
                }
                Input::Part => self.charge(1)?,
                Input::Pong => {
                    self.charge(1)?;
                    self.session.ponged();
                }
                Input::Left(content) => return Err(End::Left(content)),
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
            let Some(next) = self.transport.next(&self.outbox).now_or_never() else {
                empty = true;
                break;
            };
            input = next;
        }
        Ok(empty)
    }

    fn frame(&mut self, frame: Bytes) -> Result<(), End> {
        if frame.len() as u64 > self.shared.rules.limits.message {
            return Err(End::Close(codes::MESSAGE_TOO_BIG));
        }
        let encoding = self.outbox.dialect().encoding();
        if encoding == Encoding::Json && depth::exceeds(&frame, self.shared.rules.limits.json_depth) {
            return self.malformed();
        }
        if let Some(one_way) = &mut self.one_way {
            let Some(command) = one_way.read(&frame) else { return self.charge(1) };
            let command = command.map_err(|error| CodecError::Malformed(error.to_string()));
            return self.commands(iter::once(command));
        }
        match encoding {
            Encoding::Json => match std::str::from_utf8(&frame) {
                Ok(text) => self.commands(json::decode(text)),
                Err(_) => self.malformed(),
            },
            Encoding::Protobuf => self.commands(protobuf::decode(frame)),
        }
    }

    fn commands(&mut self, commands: impl Iterator<Item = Result<Command, CodecError>>) -> Result<(), End> {
        let (now, mut count) = (now(), 0);
        for (index, command) in commands.enumerate() {
            let Ok(command) = command else { return self.malformed() };
            if index >= self.shared.rules.limits.commands_per_message {
                return self.malformed();
            }
            self.shared.metrics.command();
            self.command(command, now)?;
            count = index + 1;
        }
        self.charge(count)
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
