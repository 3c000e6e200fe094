//! Joins channels: the reply goes into the outbox exactly at the position it names.
//!
//! `prepare` works without a lock; the join happens under the channel's. Never decides who may join: the session does.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tidegate_shared::protocol::codes;

use super::{Connection, End, in_flight::Done, now, prepare::Ready};
use crate::{
    channels::feed::{FirstFrame, JoinOptions},
    outbox::Outbox,
    session::{Position, ServerSubscription},
};

impl Connection {
    /// Joins a channel. No publication gets between the reply and the position it names.
    pub(super) fn subscribe(&mut self, ticket: u32, ready: Ready) -> Result<(), End> {
        let Ready { held, start, membership, member } = ready;
        let channel = held.feed.channel();
        let Self { shared, session, outbox, one_way, registration, .. } = self;
        let epoch = shared.channels.history.epoch(channel);
        let (client, dialect) = (session.client().clone(), outbox.dialect());
        let mut told = Ok(false);
        let join_leave_as = member.filter(|_| session.join_leave(ticket));
        let asked = JoinOptions { delivery: session.delivery(ticket), join_leave_as };
        let (mut reaction, mut refusal) = (None, None);
        held.feed.join(client, outbox, asked, &start, |joined| {
            let reply = match session.subscribed(ticket, channel, &Position { joined, epoch }) {
                Some(Ok(reply)) => reply,
                Some(Err(error)) => {
                    refusal = Some(error);
                    return FirstFrame::Left;
                }
                None => return FirstFrame::Left,
            };
            if let Some(result) = reply.subscribe.as_ref().filter(|result| result.was_recovering) {
                shared.metrics.resumed(result.recovered);
            }
            if let Some(one_way) = one_way {
                told = Ok(true);
                reaction = Some(one_way.react(reply));
                return FirstFrame::Nothing;
            }
            let frame = dialect.encode(&reply);
            told = frame.as_ref().map(|_| true).map_err(|_| End::Close(codes::SERVER_ERROR));
            frame.ok().into()
        });
        if let Some(refusal) = refusal {
            return self.reply(refusal);
        }
        // If the client unsubscribed meanwhile, the reference is dropped.
        if told? {
            registration.add(held, membership);
        }
        reaction.map_or(Ok(()), |reaction| self.perform_reaction(reaction))
    }

    /// Takes a seat for the client's user, and prepares the channels that the connection begins with. If none needs preparation, joins them at once.
    pub(super) fn begin(&mut self, chosen: Vec<ServerSubscription>) -> Result<(), End> {
        self.take_seat()?;
        let members: Vec<_> = chosen.iter().map(|one| self.session.member(&one.channel)).collect();
        let at_once = chosen.iter().zip(&members).map(|(one, member)| match (&one.resume, member) {
            (None, None) => self.shared.channels.interests.hold_received(&one.channel).map(Ready::from),
            _ => None,
        });
        if let Some(ready) = at_once.collect() {
            return self.welcome(&chosen, ready);
        }
        let shared = Arc::clone(&self.shared);
        let user = chosen.iter().find_map(|one| one.channel.personal_user());
        let arriving = user.map(|user| {
            let client = self.session.client().clone();
            shared.channels.hub.arriving.begin(user, client, Arc::clone(&self.outbox))
        });
        self.in_flight().tasks.push(Box::pin(async move {
            let ready = chosen
                .iter()
                .zip(members)
                .map(|(one, member)| shared.ready(&one.channel, one.resume.as_ref(), false, member));
            let ready = try_join_all(ready).await;
            Done::Prepared { chosen, ready, arriving }
        }));
        Ok(())
    }

    /// Joins the channels that the connection begins with, replies to `connect` with their positions, then handles the
    /// commands that waited.
    pub(super) fn welcome(&mut self, chosen: &[ServerSubscription], ready: Vec<Ready>) -> Result<(), End> {
        let Self { shared, session, outbox, one_way, transport, registration, permit, .. } = self;
        outbox.open();
        let mut positions = Vec::new();
        // Most connections never join another channel.
        registration.reserve(ready.len());
        for (one, Ready { held, start, membership, member }) in chosen.iter().zip(ready) {
            let client = session.client().clone();
            let epoch = shared.channels.history.epoch(&one.channel);
            let join_leave_as = member.filter(|_| session.join_leave_by_default(&one.channel));
            held.feed.join(client, outbox, JoinOptions { delivery: None, join_leave_as }, &start, |joined| {
                positions.push(Position { joined, epoch });
                FirstFrame::Nothing
            });
            registration.add(held, membership);
        }
        let Some(mut reply) = session.welcomed(&positions) else { return Ok(()) };
        tracing::debug!(
            user = session.user_for_log(),
            client.id = %session.client(),
            transport = transport.name(),
            client.address = permit.as_ref().map(|permit| tracing::field::display(permit.client())),
            "connected"
        );
        if let Some(connected) = &mut reply.connect {
            transport.introduce(connected);
            let results = connected.subs.iter().filter_map(|sub| sub.result.as_ref());
            results
                .filter(|result| result.was_recovering)
                .for_each(|result| shared.metrics.resumed(result.recovered));
        }
        // Publications may be queued already: the reply goes before them.
        match one_way {
            Some(one_way) => {
                let reaction = one_way.react(reply);
                self.perform_reaction(reaction)?;
            }
            None => self.send(&reply, Outbox::push_first)?,
        }
        let at = now();
        for command in std::mem::take(&mut self.stash) {
            self.command(command, at)?;
        }
        Ok(())
    }
}
