//! Brings what the session replies into the outbox, in the form that the client's dialect has for it.

use tidegate_shared::protocol::{Command, Reply, codes};

use super::{Connection, End, now, one_way::Reaction};
use crate::outbox::{Outbox, frame::Frame};

impl Connection {
    pub(super) fn reply(&mut self, reply: Reply) -> Result<(), End> {
        if self.transport.has_native_pings() && reply == Reply::ping() {
            self.outbox.push(Frame::ping());
            return Ok(());
        }
        let Some(one_way) = &mut self.one_way else { return self.send(&reply, Outbox::push) };
        let reaction = one_way.react(reply);
        self.perform_reaction(reaction)
    }

    /// Carries out the reaction of a one-way client.
    pub(super) fn perform_reaction(&mut self, reaction: Reaction) -> Result<(), End> {
        match reaction {
            Reaction::Send(reply) => self.send(&reply, Outbox::push),
            Reaction::SendFirst(reply) => {
                self.send(&reply, Outbox::push_first)?;
                self.begin_catch_ups();
                Ok(())
            }
            Reaction::Ping(ping) => {
                self.send(&ping, Outbox::push)?;
                self.ask(Command::default())
            }
            Reaction::Commands(commands)
                if commands.len() > self.shared.rules.limits.commands_per_message =>
            {
                self.malformed()
            }
            Reaction::Commands(commands) => commands.into_iter().try_for_each(|command| self.ask(command)),
            Reaction::Close(disconnect) => Err(End::Close(disconnect)),
            Reaction::Nothing => Ok(()),
        }
    }

    /// Hands the session a command on behalf of a one-way client.
    fn ask(&mut self, command: Command) -> Result<(), End> {
        let effects = self.session.handle(command, rand::random(), now());
        self.perform(effects)
    }

    pub(super) fn send(&self, reply: &Reply, push: impl FnOnce(&Outbox, Frame)) -> Result<(), End> {
        if let Some(error) = &reply.error {
            self.shared.metrics.error(error.code);
        }
        let encode =
            |reply: &Reply| self.outbox.dialect().encode(reply).map_err(|_| End::Close(codes::SERVER_ERROR));
        let mut frame = encode(reply)?;
        // Such a reply would end the connection, and the client would come back and ask for the same.
        if frame.len() > self.outbox.limit() && reply.id > 0 {
            if self.one_way.is_some() {
                // It has no form for an error.
                return Err(End::Close(codes::SERVER_ERROR));
            }
            let why =
                format!("a reply of {} bytes; gateway.limits.outbox is {}", frame.len(), self.outbox.limit());
            self.shared.metrics.error(codes::LIMIT_EXCEEDED.code);
            frame = encode(&Reply::error(reply.id, codes::LIMIT_EXCEEDED.because(why)))?;
        }
        push(&self.outbox, frame);
        Ok(())
    }
}
