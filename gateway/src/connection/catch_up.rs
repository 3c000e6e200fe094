//! Brings a client the rest of a backlog that is longer than one reply: part after part as ordinary publications, as fast as it
//! reads them. Then it joins the channel.
//!
//! The next part is read when the last one is in the outbox, and sent when the outbox has room: a client holds one part in memory
//! for each channel, and of a few channels at a time. Never tells a client that nothing is missing unless the stream proves it.

use std::sync::Arc;

use tidegate_shared::{
    channel::Channel,
    protocol::{self, Publication, Reply, codes},
};

use super::{Connection, catch_ups::CatchUp, in_flight::Done};
use crate::{
    channels::feed::{FirstFrame, Joined, Resume, Start},
    policy::delivery::DeliveryOptions,
    session::{Effects, Missed, NextPart, next_part},
};

/// How a catch-up goes on.
enum Onward {
    /// The client has all, and joins the channel.
    Joined,
    /// The client has everything up to this offset.
    Behind(u64),
    /// The next publication cannot be proven to be the next, or cannot be sent.
    Lost,
}

impl Connection {
    /// Reads the next part of a backlog. It comes behind the reply to `connect`.
    pub(super) fn catch_up(&mut self, one: CatchUp) {
        if self.is_holding() {
            return self.in_flight().catch_ups.waiting.push(one);
        }
        let recovery = Arc::clone(&self.shared.channels.recovery);
        let (feed, has) = (Arc::clone(&one.feed), one.has.clone());
        let in_flight = self.in_flight();
        let number = in_flight.catch_ups.begin(one);
        let part = async move {
            let part = recovery.prepare(feed.channel(), &feed, &has).await;
            part.map_err(|refusal| codes::INTERNAL.because(refusal))
        };
        in_flight.run_apart(part, move |part| Done::NextPart { number, part });
    }

    /// The client leaves a channel.
    pub(super) fn forget_catch_up(&mut self, channel: &Channel) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.catch_ups.forget(channel);
        }
    }

    /// The reply to `connect` is sent.
    pub(super) fn begin_catch_ups(&mut self) {
        let waiting =
            self.in_flight.as_mut().map(|in_flight| std::mem::take(&mut in_flight.catch_ups.waiting));
        for one in waiting.unwrap_or_default() {
            self.catch_up(one);
        }
    }

    /// Sends the part that was read, and reads the next one. Returns what follows if there can be none.
    pub(super) fn send_part(&mut self, number: u32, part: Result<Start, protocol::Error>) -> Effects {
        let taken = self.in_flight.as_mut().and_then(|in_flight| in_flight.catch_ups.take(number));
        // Without one, the client has left the channel.
        let Some(CatchUp { feed, has, options }) = taken else { return Vec::new() };
        let delivery = options.delivery.clone();
        let push = |publications: &[Arc<Publication>], until| {
            let missed = Missed { after: has.offset, publications, until };
            self.push_part(feed.name(), missed, delivery.as_deref())
        };
        let (onward, options) = match part {
            Ok(Start::Part(part)) => (push(part.behind(has.offset), Some(part.until)), Some(options)),
            Ok(start @ Start::Behind(_)) => {
                let mut onward = Onward::Behind(has.offset);
                let client = self.session.client().clone();
                let apart = feed.join(client, &self.outbox, options, &start, |joined| {
                    // Else the channel went on while the rest waited for room in the outbox: the next read brings a longer one.
                    if let Joined::Resumed { missed } = &joined {
                        onward = push(missed, None);
                    }
                    if matches!(onward, Onward::Joined) { FirstFrame::Nothing } else { FirstFrame::Apart }
                });
                (onward, apart)
            }
            Ok(Start::Fresh | Start::Newest { .. }) | Err(_) => (Onward::Lost, None),
        };
        match onward {
            Onward::Joined => Vec::new(),
            Onward::Behind(offset) => {
                let has = Resume { offset, ..has };
                self.catch_up(CatchUp { feed, has, options: options.unwrap_or_default() });
                Vec::new()
            }
            // The client subscribes again, and is told.
            Onward::Lost => self.session.lost(feed.channel()),
        }
    }

    fn push_part(&self, channel: &str, missed: Missed<'_>, delivery: Option<&DeliveryOptions>) -> Onward {
        let dialect = self.outbox.dialect();
        let part = next_part(missed, delivery, dialect.encoding(), &mut self.session.budget());
        let NextPart::Sent { publications, rest_behind } = part else { return Onward::Lost };
        for publication in publications {
            let Ok(frame) = dialect.encode(&Reply::publication(channel, publication)) else {
                return Onward::Lost;
            };
            self.outbox.push(frame);
        }
        rest_behind.map_or(Onward::Joined, Onward::Behind)
    }
}
