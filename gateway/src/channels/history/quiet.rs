//! Whether a channel has been quiet since a position, by the stream of its namespace's last messages. Pure.
//!
//! That stream has a copy of the newest message of each channel. Copies are numbered one after the other, and each names the
//! sequence of its original. A message that was never copied, because it had expired before (after the broker was away, for
//! example) leaves its trace: from then on the distance between the two numbers is larger. So between two copies with the same
//! distance no message is missing.

/// A copy of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    /// Its number among the copies.
    pub(super) seq: u64,
    /// The sequence of the original.
    pub(super) origin: u64,
}

impl Copied {
    /// How many messages before the original have no copy. `None` for numbers that cannot be.
    fn skipped(self) -> Option<u64> {
        self.origin.checked_sub(self.seq)
    }
}

/// Whether a channel has had no message between the position `since` and the original of `newest`, the newest copy of all.
/// `last` is the newest copy of the channel. `milestone` is a copy of another message that was there at the same time.
pub(super) fn is_quiet(since: u64, newest: Copied, last: Option<Copied>, milestone: Option<Copied>) -> bool {
    if last.is_some_and(|last| last.origin > since) {
        return false;
    }
    // A copy from before the position, since which every message was copied. It is still there, so no later copy is gone, except
    // that a channel's next one replaces it.
    [last, milestone].into_iter().flatten().any(|copy| proves(copy, since, newest))
}

/// The name of a milestone that can prove that a channel without a copy has had no message since a position.
pub(super) fn best<T>(
    since: u64,
    newest: Copied,
    milestones: impl Iterator<Item = (T, Copied)>,
) -> Option<T> {
    let able = milestones.filter(|(_, copy)| proves(*copy, since, newest));
    able.max_by_key(|(_, copy)| copy.seq).map(|(name, _)| name)
}

/// Whether every message behind `since` was copied.
fn proves(copy: Copied, since: u64, newest: Copied) -> bool {
    let whole = copy.skipped().is_some() && copy.skipped() == newest.skipped();
    whole && copy.origin <= since.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// How long a message and a copy are kept.
    const KEPT: u64 = 20;
    const COPY_KEPT: u64 = 100;
    /// The channel that the milestones have.
    const MILESTONES: usize = 0;

    #[derive(Debug, Clone, Copy)]
    struct Message {
        seq: u64,
        channel: usize,
        at: u64,
        bytes: u64,
    }

    /// A namespace's stream, the broker's copying, and the stream of last messages.
    #[derive(Debug)]
    struct World {
        now: u64,
        /// How many messages of each channel are kept, and how many bytes of copies.
        most: usize,
        most_bytes: u64,
        published: Vec<Message>,
        stream: Vec<Message>,
        /// What the broker has read to copy it, and not stored yet. Lost when it is killed.
        under_way: VecDeque<Message>,
        /// The next sequence to copy.
        next: u64,
        copied: u64,
        copies: Vec<(u64, Message)>,
    }

    #[derive(Debug, Clone)]
    enum Event {
        Publish { channel: usize, bytes: u64 },
        Pass { time: u64 },
        Read { most: usize },
        Store { most: usize },
        Kill { away: u64 },
    }

    impl World {
        fn new(most: usize, most_bytes: u64) -> Self {
            Self {
                now: 0,
                most,
                most_bytes,
                published: Vec::new(),
                stream: Vec::new(),
                under_way: VecDeque::new(),
                next: 1,
                copied: 0,
                copies: Vec::new(),
            }
        }

        fn end(&self) -> u64 {
            self.published.len() as u64
        }

        fn publish(&mut self, channel: usize, bytes: u64) {
            let message = Message { seq: self.end() + 1, channel, at: self.now, bytes };
            self.published.push(message);
            self.stream.push(message);
            let of_channel = |m: &Message| m.channel == channel;
            if self.stream.iter().filter(|m| of_channel(m)).count() > self.most
                && let Some(oldest) = self.stream.iter().position(of_channel)
            {
                self.stream.remove(oldest);
            }
        }

        fn happen(&mut self, event: &Event) {
            match *event {
                Event::Publish { channel, bytes } => self.publish(channel, bytes),
                Event::Pass { time } => self.now += time,
                Event::Read { most } => {
                    let next = self.next;
                    let read: Vec<_> =
                        self.stream.iter().filter(|m| m.seq >= next).take(most).copied().collect();
                    self.next = read.last().map_or(next, |last| last.seq + 1);
                    self.under_way.extend(read);
                }
                Event::Store { most } => {
                    for _ in 0..most {
                        let Some(message) = self.under_way.pop_front() else { break };
                        self.copied += 1;
                        self.copies.retain(|(_, m)| m.channel != message.channel);
                        self.copies.push((self.copied, Message { at: self.now, ..message }));
                    }
                }
                Event::Kill { away } => {
                    self.now += away;
                    self.under_way.clear();
                    self.next = self.copies.last().map_or(1, |(_, last)| last.seq + 1);
                }
            }
            let now = self.now;
            self.stream.retain(|m| m.at + KEPT > now);
            self.copies.retain(|(_, m)| m.at + COPY_KEPT > now);
            while self.copies.iter().map(|(_, m)| m.bytes).sum::<u64>() > self.most_bytes {
                self.copies.remove(0);
            }
        }

        /// What a gateway says. It asks only when the copies have reached the end.
        fn says_quiet(&self, channel: usize, since: u64) -> bool {
            let copied = |(seq, message): &(u64, Message)| Copied { seq: *seq, origin: message.seq };
            let Some(newest) = self.copies.last().map(copied).filter(|c| c.origin >= self.end()) else {
                return false;
            };
            let last = self.copies.iter().find(|(_, m)| m.channel == channel).map(copied);
            let milestones = self.copies.iter().filter(|(_, m)| m.channel == MILESTONES).map(copied);
            let milestone = best(since, newest, milestones.map(|copy| (copy, copy)));
            is_quiet(since, newest, last, milestone)
        }

        fn is_quiet(&self, channel: usize, since: u64) -> bool {
            !self.published.iter().any(|m| m.channel == channel && m.seq > since)
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            8 => (0..6_usize, 1..20_u64).prop_map(|(channel, bytes)| Event::Publish { channel, bytes }),
            3 => (0..40_u64).prop_map(|time| Event::Pass { time }),
            6 => (0..6_usize).prop_map(|most| Event::Read { most }),
            6 => (0..6_usize).prop_map(|most| Event::Store { most }),
            1 => (0..60_u64).prop_map(|away| Event::Kill { away }),
        ];
        proptest::collection::vec(event, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        /// Whatever expires, is replaced, is cut off by the byte limit or is never copied.
        #[test]
        fn a_channel_is_never_called_quiet_that_has_had_a_message(
            events in events(), most in 1..5_usize, most_bytes in 10..200_u64,
        ) {
            let mut world = World::new(most, most_bytes);
            for event in events {
                world.happen(&event);
                for (channel, since) in (0..7).flat_map(|c| (0..=world.end()).map(move |s| (c, s))) {
                    if world.says_quiet(channel, since) {
                        prop_assert!(world.is_quiet(channel, since), "{} since {}: {:?}", channel, since, world);
                    }
                }
            }
        }

        /// While the copies keep up: as long as the channel's last message is known, and behind a milestone.
        #[test]
        fn a_quiet_channel_is_called_quiet_while_copies_are_kept(events in events(), most in 1..5_usize) {
            let mut world = World::new(most, u64::MAX);
            for event in events {
                if !matches!(event, Event::Publish { .. } | Event::Pass { .. }) {
                    continue;
                }
                for event in [event, Event::Read { most: 1 }, Event::Store { most: 1 }] {
                    world.happen(&event);
                }
                if world.published.last().is_none_or(|last| last.at + COPY_KEPT <= world.now) {
                    continue;
                }
                for channel in 0..7 {
                    let last = world.published.iter().rfind(|m| m.channel == channel);
                    let kept = last.filter(|last| last.at + COPY_KEPT > world.now);
                    let milestone = world.copies.iter().find(|(_, m)| m.channel == MILESTONES);
                    let Some(reach) = milestone.map(|(_, m)| m.seq - 1) else { continue };
                    let since = kept.map_or(reach.max(last.map_or(0, |last| last.seq)), |last| last.seq);
                    prop_assert!(world.says_quiet(channel, since), "{} since {}: {:?}", channel, since, world);
                }
            }
        }
    }
}
