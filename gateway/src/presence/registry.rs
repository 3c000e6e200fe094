//! The members this gateway answers for: what is wanted of each, what the broker is known to have, and what to do next.
//!
//! Whatever happens in between, the two are brought together one step at a time. Pure: the writer carries the steps out.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use tidegate_shared::broker::Refusal;
use tokio::sync::oneshot;

/// The members of this gateway, by their subjects.
#[derive(Default)]
pub(super) struct Registry {
    members: HashMap<Arc<str>, Member>,
    /// Members to bring up to date. Each is in it once at most, so it is bounded by them.
    queue: VecDeque<Arc<str>>,
}

struct Member {
    /// How many subscriptions make it one; none means that it is to go. More than one while a client comes and goes quickly.
    holders: usize,
    info: Bytes,
    broker: BrokerSide,
    /// Whether it is in the queue or being brought up to date.
    busy: bool,
    waiting: Vec<oneshot::Sender<Result<(), Refusal>>>,
}

/// What the broker has of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokerSide {
    Nothing,
    /// The member, under this sequence.
    At(u64),
    /// It has to be looked at.
    Unclear,
}

/// What brings a member nearer to what is wanted.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Look at what the broker has.
    Look,
    /// Store it.
    Store(Bytes),
    /// Replace it by the mark that it has left, if it is still the one with this sequence.
    Remove { seq: u64, info: Bytes },
    /// It is as it should be.
    Nothing,
}

impl Registry {
    /// Adds a holder. Returns where to wait until the member is stored, unless it is.
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

    /// Takes a holder away; without any the member is to leave.
    pub(super) fn release(&mut self, subject: &Arc<str>) {
        let Some(member) = self.members.get_mut(subject) else { return };
        member.holders = member.holders.saturating_sub(1);
        if member.holders == 0 {
            self.enqueue(subject);
        }
    }

    /// The next member to bring up to date.
    pub(super) fn take(&mut self) -> Option<Arc<str>> {
        self.queue.pop_front()
    }

    /// What to do for a member next. Until it is told how that went, the broker's side counts as unclear.
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
                    // Whoever waited may have given up.
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

    /// The broker has stored a member.
    pub(super) fn stored(&mut self, subject: &str, seq: u64, info: &Bytes) {
        // What is said of it may have changed meanwhile.
        if let Some(member) = self.members.get_mut(subject).filter(|member| member.info == *info) {
            member.broker = BrokerSide::At(seq);
        }
    }

    /// The broker has nothing of a member any more.
    pub(super) fn removed(&mut self, subject: &str) {
        if let Some(member) = self.members.get_mut(subject) {
            member.broker = BrokerSide::Nothing;
        }
    }

    /// This is what the broker has of a member.
    pub(super) fn looked(&mut self, subject: &str, found: Option<(u64, Bytes)>) {
        let Some(member) = self.members.get_mut(subject) else { return };
        member.broker = match found {
            Some((seq, info)) if info == member.info => BrokerSide::At(seq),
            // Nobody is behind it any more: it leaves as it came.
            Some((seq, info)) if member.holders == 0 => {
                member.info = info;
                BrokerSide::At(seq)
            }
            Some(_) | None => BrokerSide::Nothing,
        };
    }

    /// A step did not succeed: whoever waits is told, the writer goes on.
    pub(super) fn refused(&mut self, subject: &str, refusal: &Refusal) {
        if let Some(member) = self.members.get_mut(subject) {
            for told in member.waiting.drain(..) {
                let _ = told.send(Err(refusal.clone()));
            }
        }
    }

    /// The members that are as they should be, and their sequences.
    pub(super) fn settled(&self) -> HashMap<Arc<str>, u64> {
        let settled = self.members.iter().filter(|(_, member)| !member.busy);
        settled
            .filter_map(|(subject, member)| match member.broker {
                BrokerSide::At(seq) => Some((Arc::clone(subject), seq)),
                BrokerSide::Nothing | BrokerSide::Unclear => None,
            })
            .collect()
    }

    /// The broker does not seem to have a member that was settled under this sequence.
    pub(super) fn doubt(&mut self, subject: &Arc<str>, seq: u64) {
        let settled = |member: &&mut Member| !member.busy && member.broker == BrokerSide::At(seq);
        if let Some(member) = self.members.get_mut(subject).filter(settled) {
            member.broker = BrokerSide::Unclear;
            self.enqueue(subject);
        }
    }

    /// The broker has a member of this gateway. If it is none, it is to leave.
    pub(super) fn found(&mut self, subject: &Arc<str>) {
        if !self.members.contains_key(subject) {
            self.members.insert(Arc::clone(subject), Member::new(BrokerSide::Unclear));
            self.enqueue(subject);
        }
    }

    /// How many members there are, those that are about to leave included.
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

    /// A broker that keeps one message of each subject and does what it is told, or loses the answer.
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
    fn who_comes_back_while_leaving_is_there_again_before_it_is_told_so() {
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
    fn what_the_broker_has_lost_or_should_not_have_is_repaired() {
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
        /// Subscriptions come and go, steps are carried out with or without an answer, in any order.
        #[test]
        fn the_broker_ends_up_with_what_is_wanted(
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
