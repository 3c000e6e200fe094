//! Joining channels and leaving them: what a client is told goes into its outbox at the position it is told.
//!
//! Prepared outside any lock, done under the channel's. Never decides who may join; that is the session's.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{self, ClientInfo, codes},
};

use super::{Connection, End, Outbox, Shared, now, work::Done};
use crate::{
    egress::interest::Held,
    feed::{Asked, Feed, Resume, Start, Told},
    presence::Present,
    session::{Chosen, Position},
};

/// A channel that can be joined.
#[derive(Default)]
pub(super) struct Ready {
    /// Its subscription; nothing for a personal channel, which every gateway receives anyway.
    held: Option<Held>,
    start: Start,
    /// The membership, where it is kept who is in a channel, and what is said of the client there.
    present: Option<Box<Present>>,
    member: Option<Box<ClientInfo>>,
}

impl Connection {
    /// Joins a channel. What the client is told goes into its outbox at the position it is told: nothing in between.
    pub(super) fn subscribe(&mut self, ticket: u32, channel: Channel, ready: Ready) -> Result<(), End> {
        let epoch = self.shared.egress.history.epoch(&channel);
        let Self { shared, session, outbox, one_way, .. } = self;
        let (client, dialect) = (session.client().clone(), outbox.dialect());
        let mut told = Ok(false);
        let hears_as = ready.member.filter(|_| session.hears(ticket));
        let asked = Asked { wish: session.wish(ticket), hears_as };
        let mut heard = None;
        let Some(held) = ready.held else { return Ok(()) };
        held.feed.join(client, outbox, asked, &ready.start, |joined| {
            let Some(reply) = session.subscribed(ticket, &channel, &Position { joined, epoch }) else {
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
            self.held.push((channel, held, ready.present));
        }
        heard.map_or(Ok(()), |heard| self.heard(heard))
    }

    /// Begins with these channels, and with those alone that need no preparation at once.
    pub(super) fn begin(&mut self, chosen: Vec<Chosen>) -> Result<(), End> {
        let members: Vec<_> = chosen.iter().map(|one| self.session.member(&one.channel)).collect();
        let at_once = |one: &Chosen| one.channel.personal_user().is_some() && one.resume.is_none();
        if chosen.iter().all(at_once) && members.iter().all(Option::is_none) {
            let ready = chosen.iter().map(|_| Ready::default()).collect();
            return self.welcome(&chosen, ready);
        }
        let shared = Arc::clone(&self.shared);
        self.work().tasks.push(Box::pin(async move {
            let ready = chosen.iter().zip(members).map(|(one, member)| shared.ready_to_begin(one, member));
            let ready = try_join_all(ready).await;
            Done::Chosen { chosen, ready }
        }));
        Ok(())
    }

    /// Joins the channels that the connection begins with and answers `connect`, at the positions that the client is told;
    /// then takes what waited for it.
    pub(super) fn welcome(&mut self, chosen: &[Chosen], ready: Vec<Ready>) -> Result<(), End> {
        let Self { shared, session, outbox, one_way, transport, .. } = self;
        outbox.open();
        let mut positions = Vec::new();
        for (one, Ready { held, start, present, member }) in chosen.iter().zip(ready) {
            let client = session.client().clone();
            let epoch = shared.egress.history.epoch(&one.channel);
            let hears_as = member.filter(|_| session.hears_unasked(&one.channel));
            let join = |feed: &Arc<Feed>| {
                feed.join(client, outbox, Asked { wish: None, hears_as }, &start, |joined| {
                    positions.push(Position { joined, epoch });
                    Told::Nothing
                });
            };
            if let Some(held) = held {
                join(&held.feed);
                self.held.push((one.channel.clone(), held, present));
            } else {
                shared.with_personal_feed(&one.channel, join);
                self.personal = Some((one.channel.clone(), present));
            }
        }
        let Some(mut reply) = session.welcomed(&positions) else { return Ok(()) };
        if let Some(connected) = &mut reply.connect {
            transport.introduce(connected);
            let results = connected.subs.iter().filter_map(|sub| sub.result.as_ref());
            results
                .filter(|result| result.was_recovering)
                .for_each(|result| shared.metrics.resumed(result.recovered));
        }
        // Publications may wait already: the answer goes before them.
        match one_way {
            Some(one_way) => {
                let heard = one_way.hear(reply);
                self.heard(heard)?;
            }
            None => self.say(&reply, Outbox::push_first)?,
        }
        let at = now();
        for command in std::mem::take(&mut self.stash) {
            self.command(command, at)?;
        }
        Ok(())
    }

    pub(super) fn leave_all(&mut self) {
        let client = self.session.client();
        let personal = self.personal.iter().map(|(channel, _)| channel);
        for channel in self.held.iter().map(|(channel, ..)| channel).chain(personal) {
            self.shared.hub.quit(channel, |feed| feed.leave(client));
        }
        self.held.clear();
        self.personal = None;
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
        member: Option<Box<ClientInfo>>,
    ) -> Result<Ready, protocol::Error> {
        let held = self.interests.hold(channel).await.map_err(|error| codes::INTERNAL.because(error))?;
        let mut start = Start::Fresh;
        if let Some(resume) = resume {
            let prepared = self.egress.prepare(channel, &held.feed, resume).await;
            start = prepared.map_err(|refusal| codes::INTERNAL.because(refusal))?;
            let recovers = match &start {
                Start::Fresh => false,
                Start::Behind(_) => true,
                Start::Newest { seen } => held.feed.has_newest(*seen),
            };
            if !recovers && or_refuse && self.egress.history.keeps(channel) {
                return Err(codes::UNRECOVERABLE.error());
            }
        }
        let present = self.present(channel, member.as_deref()).await?;
        Ok(Ready { held: Some(held), start, present, member })
    }

    /// Sees to it that whoever asks now finds the client in the channel.
    async fn present(
        &self,
        channel: &Channel,
        member: Option<&ClientInfo>,
    ) -> Result<Option<Box<Present>>, protocol::Error> {
        let client = member.and_then(|member| Some((member, ClientId::parse(&member.client)?)));
        let Some((member, client)) = client else { return Ok(None) };
        let present = self.egress.presence.join(channel, &client, member).await;
        present.map(|present| Some(Box::new(present))).map_err(|refusal| codes::INTERNAL.because(refusal))
    }

    /// The same for a channel that a connection begins with.
    async fn ready_to_begin(
        &self,
        one: &Chosen,
        member: Option<Box<ClientInfo>>,
    ) -> Result<Ready, protocol::Error> {
        let (channel, resume) = (&one.channel, one.resume.as_ref());
        if channel.personal_user().is_none() {
            return self.ready(channel, resume, false, member).await;
        }
        let mut start = Start::Fresh;
        if let Some(resume) = resume {
            let feed = self.with_personal_feed(channel, Arc::clone);
            let prepared = self.egress.prepare(channel, &feed, resume).await;
            start = prepared.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        }
        let present = self.present(channel, member.as_deref()).await?;
        Ok(Ready { held: None, start, present, member })
    }

    /// Uses a personal channel, whose publications reach every gateway anyway: its position needs no read.
    fn with_personal_feed<T>(&self, channel: &Channel, use_it: impl FnOnce(&Arc<Feed>) -> T) -> T {
        self.hub.enter(channel, |feed| {
            if let Some(beginning) = self.egress.history.seen(channel) {
                feed.track(beginning.position, beginning.newest);
            }
            use_it(feed)
        })
    }
}
