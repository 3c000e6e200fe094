//! The acknowledgement floor of a route with several consumers: up to where all of them have acknowledged. Pure.
//!
//! A consumer that takes a part of the stream moves its floor only with messages of that part. One that has nothing to do would
//! hold the purger up for ever. So the broker is asked whether the stream has any message of that part: if there is none, nothing
//! up to the newest sequence at that time belongs to this consumer, and never will.

use tidegate_shared::broker::Progress;

/// The consumers of a route's stream.
#[derive(Debug)]
pub(crate) struct Floors {
    consumers: Vec<Consumer>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Consumer {
    progress: Option<Progress>,
    /// No message up to this sequence is left for this consumer.
    nothing_until: u64,
}

impl Floors {
    /// For so many consumers.
    pub(crate) fn new(consumers: usize) -> Self {
        Self { consumers: vec![Consumer::default(); consumers] }
    }

    /// How far a consumer is now. One that was created anew takes other messages: what was known about it is forgotten.
    pub(crate) fn look(&mut self, index: usize, progress: Progress) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        if consumer.progress.is_some_and(|before| before.created != progress.created) {
            consumer.nothing_until = 0;
        }
        consumer.progress = Some(progress);
    }

    /// The consumers that have nothing to do and stand behind others.
    pub(crate) fn behind(&self) -> Vec<usize> {
        let furthest = self.consumers.iter().map(Consumer::floor).max().unwrap_or(0);
        let idle =
            |consumer: &Consumer| consumer.progress.is_some_and(|p| p.unacknowledged == 0 && p.waiting == 0);
        let behind = self.consumers.iter().enumerate();
        let behind = behind.filter(|(_, consumer)| idle(consumer) && consumer.floor() < furthest);
        behind.map(|(index, _)| index).collect()
    }

    /// The stream has no message for this consumer up to this sequence.
    pub(crate) fn nothing_until(&mut self, index: usize, sequence: u64) {
        if let Some(consumer) = self.consumers.get_mut(index) {
            consumer.nothing_until = consumer.nothing_until.max(sequence);
        }
    }

    /// Nothing is known any more: the broker may have lost what it had.
    pub(crate) fn forget(&mut self) {
        self.consumers.fill(Consumer::default());
    }

    /// How far all of them are together, as if they were one.
    pub(crate) fn together(&self) -> Option<Progress> {
        let mut all = self.consumers.iter().filter_map(|c| Some((c.floor(), c.progress?)));
        let (floor, first) = all.next()?;
        let mut together = Progress { floor, ..first };
        for (floor, progress) in all {
            together.floor = together.floor.min(floor);
            together.delivered = together.delivered.max(progress.delivered);
            together.unacknowledged += progress.unacknowledged;
            together.waiting += progress.waiting;
        }
        Some(together)
    }
}

impl Consumer {
    fn floor(&self) -> u64 {
        self.progress.map_or(0, |progress| progress.floor.max(self.nothing_until))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const CONSUMERS: usize = 3;

    #[derive(Debug, Clone)]
    enum Step {
        /// A message for this consumer.
        Arrive(usize),
        /// This consumer acknowledges one of its messages.
        Acknowledge(usize, usize),
        /// The purger looks. Meanwhile messages for these consumers arrive, one behind each question.
        Look(Vec<usize>),
        /// The broker restarts and has all purged messages again.
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..CONSUMERS).prop_map(Step::Arrive),
            4 => (0..CONSUMERS, 0..10_usize).prop_map(|(c, n)| Step::Acknowledge(c, n)),
            3 => proptest::collection::vec(0..CONSUMERS, 0..6).prop_map(Step::Look),
            1 => Just(Step::Restart),
        ]
    }

    /// The stream: each message's consumer, and whether it is acknowledged.
    #[derive(Default)]
    struct Stream {
        all: BTreeMap<u64, (usize, bool)>,
        first: u64,
    }

    impl Stream {
        fn arrive(&mut self, consumer: usize) {
            self.all.insert(self.all.len() as u64 + 1, (consumer, false));
        }

        /// What the broker says: a floor that moves only with the consumer's own messages.
        fn progress(&self, consumer: usize) -> Progress {
            let own: Vec<_> = self.all.iter().filter(|(_, (c, _))| *c == consumer).collect();
            let floor = own.iter().take_while(|(_, (_, done))| *done).last().map_or(0, |(seq, _)| **seq);
            let waiting = own.iter().filter(|(_, (_, done))| !done).count() as u64;
            let delivered = own.iter().rfind(|(_, (_, done))| *done).map_or(0, |(seq, _)| **seq);
            let (created, paused_until) = (1, None);
            Progress { floor, delivered, unacknowledged: 0, waiting, created, paused_until }
        }

        fn any(&self, consumer: usize) -> bool {
            self.all.range(self.first..).any(|(_, (c, _))| *c == consumer)
        }
    }

    /// One look of the purger, as `purger` does it.
    fn look(floors: &mut Floors, stream: &mut Stream, mut arriving: impl Iterator<Item = usize>) {
        for consumer in 0..CONSUMERS {
            floors.look(consumer, stream.progress(consumer));
            arriving.next().into_iter().for_each(|c| stream.arrive(c));
        }
        for consumer in floors.behind() {
            let last = stream.all.len() as u64;
            arriving.next().into_iter().for_each(|c| stream.arrive(c));
            if !stream.any(consumer) {
                floors.nothing_until(consumer, last);
            }
        }
        let floor = floors.together().unwrap().floor;
        stream.first = stream.first.max(floor + 1);
    }

    proptest! {
        #[test]
        fn only_acknowledged_messages_are_below_the_floor_and_in_the_end_all_of_them(
            steps in proptest::collection::vec(step(), 1..150)
        ) {
            let (mut stream, mut floors) = (Stream { first: 1, ..Stream::default() }, Floors::new(CONSUMERS));
            for step in steps {
                match step {
                    Step::Arrive(consumer) => stream.arrive(consumer),
                    Step::Acknowledge(consumer, which) => {
                        let mut open: Vec<_> =
                            stream.all.values_mut().filter(|(c, done)| *c == consumer && !*done).collect();
                        let len = open.len().max(1);
                        if let Some(message) = open.get_mut(which % len) {
                            message.1 = true;
                        }
                    }
                    Step::Look(arriving) => look(&mut floors, &mut stream, arriving.into_iter()),
                    Step::Restart => {
                        stream.first = 1;
                        floors.forget();
                    }
                }
                let purged = stream.all.range(..stream.first);
                prop_assert!(purged.into_iter().all(|(_, (_, done))| *done));
            }
            for (_, done) in stream.all.values_mut() {
                *done = true;
            }
            // A consumer's last message leaves with one look, and that it has none shows at the next one.
            for _ in 0..=CONSUMERS {
                look(&mut floors, &mut stream, std::iter::empty());
            }
            prop_assert!(stream.first > stream.all.len() as u64, "{} of {}", stream.first, stream.all.len());
        }
    }
}
