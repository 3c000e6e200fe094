//! Joining channels and leaving them: what a client is told goes into its outbox at the position it is told.
//!
//! Prepared outside any lock, done under the channel's. Never decides who may join; that is the session's.

use std::sync::Arc;

use tidegate_shared::{
    channel::Channel,
    protocol::{self, codes},
};

use super::{Connection, End, Shared, now};
use crate::{
    egress::interest::Held,
    feed::{Feed, Pin, Resume, Told},
    session::{Position, Session},
};

/// A channel that can be joined.
pub(super) struct Ready {
    held: Held,
    /// The offset to resume from, if that is possible.
    resume: Option<Pin>,
}

impl Connection {
    /// Joins a channel. What the client is told goes into its outbox at the position it is told: nothing in between.
    pub(super) fn subscribe(&mut self, ticket: u32, channel: Channel, ready: Ready) -> Result<(), End> {
        let epoch = self.shared.egress.history.epoch(&channel);
        let Self { shared, session, outbox, one_way, .. } = self;
        let (client, dialect) = (session.client().clone(), outbox.dialect());
        let mut told = Ok(false);
        let wish = session.wish(ticket);
        let mut heard = None;
        ready.held.feed.join(client, outbox, wish, ready.resume.as_ref().map(|pin| pin.offset), |joined| {
            let Some(reply) = session.subscribed(ticket, &Position { joined, epoch }) else {
                return Told::Left;
            };
            if let Some(result) = reply.subscribe.as_ref().filter(|result| result.was_recovering) {
                shared.metrics.resumed(result.recovered);
            }
            if let Some(one_way) = one_way {
                told = Ok(true);
                heard = Some(one_way.hear(reply));
                return Told::Nothing;
            }
            let frame = dialect.encode(&reply);
            told = frame.as_ref().map(|_| true).map_err(|_| End::Close(codes::INAPPROPRIATE));
            frame.ok().into()
        });
        // A subscription that was given up meanwhile gives its share back.
        if told? {
            self.held.push((channel, ready.held));
        }
        heard.map_or(Ok(()), |heard| self.heard(heard))
    }

    /// Answers `connect`, at the position in the personal channel that the client is told; then takes what waited for it.
    pub(super) fn welcome(&mut self, personal: Option<&Channel>, resume: Option<&Pin>) -> Result<(), End> {
        let Self { shared, session, outbox, one_way, transport, .. } = self;
        let dialect = outbox.dialect();
        let mut heard = None;
        let mut tell = |session: &mut Session, personal: Option<(&Channel, Position)>| {
            let Some(mut reply) = session.welcomed(personal) else { return Told::Left };
            if let Some(connected) = &mut reply.connect {
                transport.introduce(connected);
                let sub = connected.subs.iter().filter_map(|sub| sub.result.as_ref());
                sub.filter(|result| result.was_recovering)
                    .for_each(|result| shared.metrics.resumed(result.recovered));
            }
            if let Some(one_way) = one_way {
                heard = Some(one_way.hear(reply));
                return Told::Nothing;
            }
            dialect.encode(&reply).ok().into()
        };
        outbox.open();
        match personal {
            None => {
                if let Told::Frame(frame) = tell(session, None) {
                    outbox.push(frame);
                }
            }
            Some(channel) => {
                let epoch = shared.egress.history.epoch(channel);
                let client = session.client().clone();
                shared.with_personal_feed(channel, |feed| {
                    feed.join(client, outbox, None, resume.map(|pin| pin.offset), |joined| {
                        tell(session, Some((channel, Position { joined, epoch })))
                    });
                });
                self.personal = Some(channel.clone());
            }
        }
        if let Some(heard) = heard {
            self.heard(heard)?;
        }
        let at = now();
        for command in std::mem::take(&mut self.stash) {
            self.command(command, at)?;
        }
        Ok(())
    }

    pub(super) fn leave_all(&mut self) {
        let client = self.session.client();
        for channel in self.held.iter().map(|(channel, _)| channel).chain(&self.personal) {
            self.shared.hub.quit(channel, |feed| feed.leave(client));
        }
        self.held.clear();
        self.shared.hub.unregister(client);
    }
}

impl Shared {
    /// Sees to it that a channel can be joined, from where the client left it if that is possible.
    pub(super) async fn ready(
        &self,
        channel: &Channel,
        resume: Option<&Resume>,
        or_refuse: bool,
    ) -> Result<Ready, protocol::Error> {
        let held = self.interests.hold(channel).await.map_err(|error| codes::INTERNAL.because(error))?;
        let Some(resume) = resume else { return Ok(Ready { held, resume: None }) };
        let prepared = self.egress.prepare(channel, &held.feed, resume).await;
        let from = prepared.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        if from.is_none() && or_refuse && self.egress.history.keeps(channel) {
            return Err(codes::UNRECOVERABLE.error());
        }
        Ok(Ready { held, resume: from })
    }

    /// Uses a personal channel, whose publications reach every gateway anyway: its position needs no read.
    fn with_personal_feed<T>(&self, channel: &Channel, use_it: impl FnOnce(&Arc<Feed>) -> T) -> T {
        self.hub.enter(channel, |feed| {
            if let Some(position) = self.egress.history.seen(channel) {
                feed.track(position);
            }
            use_it(feed)
        })
    }

    pub(super) fn personal_feed(&self, channel: &Channel) -> Arc<Feed> {
        self.with_personal_feed(channel, Arc::clone)
    }
}
