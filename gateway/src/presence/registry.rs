//! The members this gateway answers for: the wanted state of each, the state known of the broker, and the next step
//! from one to the other.
//!
//! Pure: the writer carries the steps out.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use tidegate_shared::broker::Refusal;
use tokio::sync::oneshot;

/// The members of this gateway, by subject.
#[derive(Default)]
pub(super) struct Registry {
    members: HashMap<Arc<str>, Member>,
    /// Members that differ from the broker. Each is queued at most once, so the queue is bounded.
    queue: VecDeque<Arc<str>>,
}

struct Member {
    /// How many subscriptions hold the member. With none it has to leave. More than one while a client leaves and joins
    /// quickly.
    holders: usize,
    info: Bytes,
    broker: BrokerSide,
    /// Whether it is queued or being written.
    busy: bool,
    waiting: Vec<oneshot::Sender<Result<(), Refusal>>>,
}

/// What the broker is known to store for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokerSide {
    Nothing,
    /// The member, with this sequence.
    At(u64),
    /// Unknown: it has to be read.
    Unclear,
}

/// The next step for a member.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Read what the broker stores.
    Look,
    /// Store the member.
    Store(Bytes),
    /// Replace it with the mark of a leave, if the broker still has this sequence.
    Remove { seq: u64, info: Bytes },
    /// The broker matches the registry.
    Nothing,
}

impl Registry {
    /// Adds a holder. Returns a receiver that completes when the member is stored, or `None` if it is stored already.
    pub(super) fn hold(
        &mut self,
        subject: &Arc<str>,
        info: Bytes,
    ) -> Option<oneshot::Receiver<Result<(), Refusal>>> {
        let member =
            self.members.entry(Arc::clone(subject)).or_insert_with(|| Member::new(BrokerSide::Nothing));
        member.holders += 1;
        if member.info != info {
            member.info = info;
            if member.broker != BrokerSide::Nothing {
                member.broker = BrokerSide::Unclear;
            }
        }
        if matches!(member.broker, BrokerSide::At(_)) {
            return None;
        }
        let (told, wait) = oneshot::channel();
        member.waiting.push(told);
        self.enqueue(subject);
        Some(wait)
    }

    /// Removes a holder. Without any the member leaves.
    pub(super) fn release(&mut self, subject: &Arc<str>) {
        let Some(member) = self.members.get_mut(subject) else { return };
        member.holders = member.holders.saturating_sub(1);
        if member.holders == 0 {
            self.enqueue(subject);
        }
    }

    /// Takes the next member to write.
    pub(super) fn take(&mut self) -> Option<Arc<str>> {
        self.queue.pop_front()
    }

    /// The next step for a member. Until its result is reported, the broker's state counts as unclear.
    pub(super) fn step(&mut self, subject: &str) -> Step {
        let Some(member) = self.members.get_mut(subject) else { return Step::Nothing };
        match (member.holders > 0, member.broker) {
            (_, BrokerSide::Unclear) => Step::Look,
            (true, BrokerSide::Nothing) => {
                member.broker = BrokerSide::Unclear;
                Step::Store(member.info.clone())
            }
            (false, BrokerSide::At(seq)) => {
                member.broker = BrokerSide::Unclear;
                Step::Remove { seq, info: member.info.clone() }
            }
            (true, BrokerSide::At(_)) => {
                member.busy = false;
                for told in member.waiting.drain(..) {
                    // The waiting join may have timed out.
                    let _ = told.send(Ok(()));
                }
                Step::Nothing
            }
            (false, BrokerSide::Nothing) => {
                self.members.remove(subject);
                Step::Nothing
            }
        }
    }

    /// Reports that the broker stored a member.
    pub(super) fn stored(&mut self, subject: &str, seq: u64, info: &Bytes) {
        // The member's info may have changed meanwhile.
        if let Some(member) = self.members.get_mut(subject).filter(|member| member.info == *info) {
            member.broker = BrokerSide::At(seq);
        }
    }

    /// Reports that the broker has no such member any more.
    pub(super) fn removed(&mut self, subject: &str) {
        if let Some(member) = self.members.get_mut(subject) {
            member.broker = BrokerSide::Nothing;
        }
    }

    /// Reports what the broker stores for a member.
    pub(super) fn looked(&mut self, subject: &str, found: Option<(u64, Bytes)>) {
        let Some(member) = self.members.get_mut(subject) else { return };
        member.broker = match found {
            Some((seq, info)) if info == member.info => BrokerSide::At(seq),
            // It has no holder: it leaves with the info it joined with.
            Some((seq, info)) if member.holders == 0 => {
                member.info = info;
                BrokerSide::At(seq)
            }
            Some(_) | None => BrokerSide::Nothing,
        };
    }

    /// Reports a failed step: fails the waiting joins. The writer tries again.
    pub(super) fn refused(&mut self, subject: &str, refusal: &Refusal) {
        if let Some(member) = self.members.get_mut(subject) {
            for told in member.waiting.drain(..) {
                let _ = told.send(Err(refusal.clone()));
            }
        }
    }

    /// The members that match the broker, with their sequences.
    pub(super) fn settled(&self) -> HashMap<Arc<str>, u64> {
        let settled = self.members.iter().filter(|(_, member)| !member.busy);
        settled
            .filter_map(|(subject, member)| match member.broker {
                BrokerSide::At(seq) => Some((Arc::clone(subject), seq)),
                BrokerSide::Nothing | BrokerSide::Unclear => None,
            })
            .collect()
    }

    /// Marks a settled member as unclear: the broker does not seem to have it.
    pub(super) fn doubt(&mut self, subject: &Arc<str>, seq: u64) {
        let settled = |member: &&mut Member| !member.busy && member.broker == BrokerSide::At(seq);
        if let Some(member) = self.members.get_mut(subject).filter(settled) {
            member.broker = BrokerSide::Unclear;
            self.enqueue(subject);
        }
    }

    /// Adds a stored member that the registry does not have, so that it leaves.
    pub(super) fn found(&mut self, subject: &Arc<str>) {
        if !self.members.contains_key(subject) {
            self.members.insert(Arc::clone(subject), Member::new(BrokerSide::Unclear));
            self.enqueue(subject);
        }
    }

    /// How many members there are, leaving ones included.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    fn enqueue(&mut self, subject: &Arc<str>) {
        if let Some(member) = self.members.get_mut(subject).filter(|member| !member.busy) {
            member.busy = true;
            self.queue.push_back(Arc::clone(subject));
        }
    }
}

impl Member {
    fn new(broker: BrokerSide) -> Self {
        Self { holders: 0, info: Bytes::new(), broker, busy: false, waiting: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A broker that keeps one message per subject and may lose its answers.
    #[derive(Default)]
    struct Broker {
        seq: u64,
        kept: Option<(u64, Bytes)>,
        joins: usize,
        leaves: usize,
    }

    impl Broker {
        fn carry_out(&mut self, registry: &mut Registry, subject: &str, step: &Step, answered: bool) {
            match step {
                Step::Look if answered => registry.looked(subject, self.kept.clone()),
                Step::Store(info) => {
                    self.seq += 1;
                    self.joins += 1;
                    self.kept = Some((self.seq, info.clone()));
                    if answered {
                        registry.stored(subject, self.seq, info);
                    }
                }
                Step::Remove { seq, .. } if self.kept.as_ref().is_some_and(|(kept, _)| kept == seq) => {
                    self.kept = None;
                    self.leaves += 1;
                    if answered {
                        registry.removed(subject);
                    }
                }
                Step::Remove { .. } | Step::Look | Step::Nothing => {}
            }
            if !answered {
                registry.refused(subject, &Refusal::Unknown);
            }
        }

        fn settle(&mut self, registry: &mut Registry) {
            while let Some(subject) = registry.take() {
                loop {
                    let step = registry.step(&subject);
                    if step == Step::Nothing {
                        break;
                    }
                    self.carry_out(registry, &subject, &step, true);
                }
            }
        }
    }

    fn subject() -> Arc<str> {
        "member".into()
    }

    #[test]
    fn a_member_is_stored_once_and_leaves_once() {
        let (mut registry, mut broker) = (Registry::default(), Broker::default());
        let mut wait = registry.hold(&subject(), "1".into()).unwrap();
        broker.settle(&mut registry);
        assert_eq!(wait.try_recv(), Ok(Ok(())));
        assert!(registry.hold(&subject(), "1".into()).is_none(), "it is there already");
        registry.release(&subject());
        broker.settle(&mut registry);
        assert!(broker.kept.is_some(), "one subscription is left");
        registry.release(&subject());
        broker.settle(&mut registry);
        assert_eq!((broker.joins, broker.leaves, registry.len()), (1, 1, 0));
    }

    #[test]
    fn a_client_that_joins_while_it_leaves_is_stored_again_before_its_join_completes() {
        let (mut registry, mut broker) = (Registry::default(), Broker::default());
        registry.hold(&subject(), "1".into());
        broker.settle(&mut registry);
        registry.release(&subject());
        let leaving = registry.take().unwrap();
        let step = registry.step(&leaving);
        let mut wait = registry.hold(&subject(), "1".into()).unwrap();
        broker.carry_out(&mut registry, &leaving, &step, true);
        assert!(wait.try_recv().is_err());
        while !matches!(registry.step(&leaving), Step::Nothing) {
            let info = Bytes::from("1");
            broker.seq += 1;
            broker.kept = Some((broker.seq, info.clone()));
            registry.stored(&leaving, broker.seq, &info);
        }
        assert_eq!(wait.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn members_that_the_broker_lost_or_should_not_have_are_repaired() {
        let (mut registry, mut broker) = (Registry::default(), Broker::default());
        registry.hold(&subject(), "1".into());
        broker.settle(&mut registry);
        broker.kept = None;
        for (subject, seq) in registry.settled() {
            registry.doubt(&subject, seq);
        }
        broker.settle(&mut registry);
        assert_eq!((broker.joins, broker.kept.is_some()), (2, true));
        let mut stranger = Broker { seq: 7, kept: Some((7, "2".into())), ..Broker::default() };
        registry.found(&"stranger".into());
        stranger.settle(&mut registry);
        assert_eq!((stranger.kept, stranger.leaves, registry.len()), (None, 1, 1));
    }

    proptest! {
        /// Subscriptions come and go, and steps are carried out with or without an answer, in any order.
        #[test]
        fn the_broker_ends_up_with_the_wanted_members(
            script in proptest::collection::vec((0u8..4, any::<bool>(), 0u8..2), 0..60),
        ) {
            let (mut registry, mut broker) = (Registry::default(), Broker::default());
            let (mut holders, mut info) = (0_usize, Bytes::new());
            let mut busy: Option<(Arc<str>, Step)> = None;
            for (what, answered, which) in script {
                match what {
                    0 => {
                        info = Bytes::from(which.to_string());
                        registry.hold(&subject(), info.clone());
                        holders += 1;
                    }
                    1 if holders > 0 => {
                        registry.release(&subject());
                        holders -= 1;
                    }
                    _ => match busy.take() {
                        Some((subject, step)) => {
                            broker.carry_out(&mut registry, &subject, &step, answered);
                            let step = registry.step(&subject);
                            busy = (step != Step::Nothing).then_some((subject, step));
                        }
                        None => {
                            if let Some(subject) = registry.take() {
                                let step = registry.step(&subject);
                                busy = (step != Step::Nothing).then_some((subject, step));
                            }
                        }
                    },
                }
            }
            if let Some((subject, mut step)) = busy {
                while step != Step::Nothing {
                    broker.carry_out(&mut registry, &subject, &step, true);
                    step = registry.step(&subject);
                }
            }
            broker.settle(&mut registry);
            let kept = broker.kept.as_ref().map(|(_, info)| info.clone());
            prop_assert_eq!(kept, (holders > 0).then_some(info));
            prop_assert_eq!(registry.len(), usize::from(holders > 0));
            prop_assert!(broker.leaves <= broker.joins);
        }
    }
}
