//! Joins channels: the reply goes into the outbox exactly at the position it names.
//!
//! `prepare` works without a lock; the join happens under the channel's. Never decides who may join: the session does.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tidegate_shared::protocol::codes;

use super::{Connection, End, catch_ups::CatchUp, in_flight::Done, now, prepare::Ready};
use crate::{
    channels::feed::{FirstFrame, JoinOptions},
    outbox::Outbox,
    session::{Granted, Position, ServerSubscription},
};

impl Connection {
    /// Joins a channel. No publication gets between the reply and the position it names. A client whose backlog is longer than the
    /// reply joins when it has the rest.
    pub(super) fn subscribe(&mut self, ticket: u32, ready: Ready) -> Result<(), End> {
        let Ready { held, start, membership, member } = ready;
        let channel = held.feed.channel();
        let Self { shared, session, outbox, one_way, registration, .. } = self;
        let epoch = shared.channels.history.epoch(channel);
        let (client, dialect) = (session.client().clone(), outbox.dialect());
        let mut budget = session.budget();
        let (mut told, mut rest) = (Ok(false), None);
        let join_leave_as = member.filter(|_| session.join_leave(ticket));
        let asked = JoinOptions { delivery: session.delivery(ticket), join_leave_as };
        let (mut reaction, mut refusal, mut first) = (None, None, None);
        let apart = held.feed.join(client, outbox, asked, &start, |joined| {
            let position = Position { joined, epoch: epoch.clone() };
            let budget = one_way.as_mut().map_or(&mut budget, |one_way| &mut one_way.budget);
            let reply = match session.subscribed(ticket, channel, &position, budget) {
                Some(Ok(Granted { told: reply, rest_behind })) => {
                    rest = rest_behind;
                    reply
                }
                Some(Err(error)) => {
                    refusal = Some(error);
                    return FirstFrame::Apart;
                }
                None => return FirstFrame::Apart,
            };
            if let Some(result) = reply.subscribe.as_ref().filter(|result| result.was_recovering) {
                shared.metrics.resumed(result.recovered);
            }
            if let Some(one_way) = one_way {
                told = Ok(true);
                reaction = Some(one_way.react(reply));
                return if rest.is_some() { FirstFrame::Apart } else { FirstFrame::Nothing };
            }
            let frame = dialect.encode(&reply);
            told = frame.as_ref().map(|_| true).map_err(|_| End::Close(codes::SERVER_ERROR));
            if rest.is_some() {
                first = frame.ok();
                return FirstFrame::Apart;
            }
            frame.ok().into()
        });
        if let Some(refusal) = refusal {
            return self.reply(refusal);
        }
        // If the client unsubscribed meanwhile, the reference is dropped.
        if !told? {
            return Ok(());
        }
        let feed = Arc::clone(&held.feed);
        registration.add(held, membership);
        if let Some(frame) = first {
            outbox.push(frame);
        }
        if let Some(reaction) = reaction {
            self.perform_reaction(reaction)?;
        }
        if let Some(behind) = rest {
            self.catch_up(CatchUp::new(feed, epoch.as_deref(), behind, apart));
        }
        Ok(())
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
        let (mut subs, mut behind) = (Vec::new(), Vec::new());
        let mut budget = session.budget();
        // Most connections never join another channel.
        registration.reserve(ready.len());
        for (one, Ready { held, start, membership, member }) in chosen.iter().zip(ready) {
            let client = session.client().clone();
            let epoch = shared.channels.history.epoch(&one.channel);
            let join_leave_as = member.filter(|_| session.join_leave_by_default(&one.channel));
            let options = JoinOptions { delivery: None, join_leave_as };
            let mut rest = None;
            let apart = held.feed.join(client, outbox, options, &start, |joined| {
                let position = Position { joined, epoch: epoch.clone() };
                let budget = one_way.as_mut().map_or(&mut budget, |one_way| &mut one_way.budget);
                let granted = session.begins_with(one, &position, budget);
                subs.push(granted.told);
                rest = granted.rest_behind;
                if rest.is_some() { FirstFrame::Apart } else { FirstFrame::Nothing }
            });
            if let Some(rest) = rest {
                behind.push(CatchUp::new(Arc::clone(&held.feed), epoch.as_deref(), rest, apart));
            }
            registration.add(held, membership);
        }
        let Some(mut reply) = session.welcomed(subs) else { return Ok(()) };
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
        for one in behind {
            self.catch_up(one);
        }
        let at = now();
        for command in std::mem::take(&mut self.stash) {
            self.command(command, at)?;
        }
        Ok(())
    }
}
