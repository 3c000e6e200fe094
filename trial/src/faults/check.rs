//! Compares what users received with what was sent in their channels. Pure.

use std::collections::BTreeMap;

use super::{
    answers::{Answers, LATER, ROUTES},
    findings::{Findings, Wrong},
    inbox::Inbox,
    numbers::Numbers,
    service::SERVICE,
    user::Published,
};

/// What one sender has sent in one channel.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) by: String,
    /// Every subscriber must have these.
    pub(super) stored: Numbers,
    /// A subscriber may have these: some may be stored although the sender was not told so.
    pub(super) possible: Numbers,
}

/// The senders of each channel.
pub(super) type Senders = BTreeMap<String, Vec<Sender>>;

/// What a user published in its channel.
pub(super) fn publisher(user: &str, published: &Published) -> Sender {
    let mut possible = Numbers::default();
    for n in Numbers::below(published.sent).without(&published.refused) {
        possible.insert(n);
    }
    Sender { by: user.to_owned(), stored: published.stored.clone(), possible }
}

/// What the handlers of a user's requests published in the user's channel: they do so before they answer.
pub(super) fn handlers(user: &str, answers: &Answers) -> impl Iterator<Item = Sender> {
    ROUTES.into_iter().map(move |route| Sender {
        by: format!("{route} of {user}"),
        stored: answered(answers, route),
        possible: Numbers::below(answers.begun(route)),
    })
}

/// What comes on a user's personal channel.
pub(super) fn personal(answers: &Answers, receipts: &Numbers, service: &Numbers) -> [Sender; 2] {
    let mut later = answered(answers, LATER);
    for n in receipts.iter() {
        later.insert(n);
    }
    [
        Sender { by: SERVICE.to_owned(), stored: service.clone(), possible: service.clone() },
        Sender { by: LATER.to_owned(), stored: later, possible: Numbers::below(answers.begun(LATER)) },
    ]
}

fn answered(answers: &Answers, route: &str) -> Numbers {
    let mut answered = Numbers::default();
    for n in (0..answers.begun(route)).filter(|n| answers.run(route, *n).is_some()) {
        answered.insert(n);
    }
    answered
}

/// Finds what a user lacks of a channel, and what nobody has sent.
pub(super) fn compare(user: &str, inbox: &Inbox, channel: &str, senders: &[Sender], findings: &mut Findings) {
    for Sender { by, stored, possible } in senders {
        for n in inbox.missing(channel, by, stored) {
            findings.add(Wrong::Lost, || format!("{user} did not get {n} of {by} in {channel}"));
        }
        for n in inbox.surplus(channel, by, possible) {
            findings.add(Wrong::Misinformed, || {
                format!("{user} got {n} of {by} in {channel}, which was refused or never sent")
            });
        }
    }
    for stranger in inbox.senders(channel).filter(|by| !senders.iter().any(|sender| sender.by == *by)) {
        findings.add(Wrong::Misinformed, || format!("{user} got publications of {stranger} in {channel}"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_shared::protocol::SubscribeResult;

    use super::*;
    use crate::{faults::load::json, job::Stamp};

    fn sender(by: &str, stored: &[u64], sent: u64) -> Sender {
        let mut numbers = Numbers::default();
        for n in stored {
            numbers.insert(*n);
        }
        Sender { by: by.to_owned(), stored: numbers, possible: Numbers::below(sent) }
    }

    fn inbox(numbers: &[u64]) -> Inbox {
        let (mut inbox, mut findings) = (Inbox::new("u1", &["c:1"]), Findings::default());
        inbox.subscribed("c:1", SubscribeResult::default(), &mut findings);
        for (n, offset) in numbers.iter().zip(1..) {
            let stamp = Stamp { to: "c:1".to_owned(), by: "s".to_owned(), n: *n, run: 0 };
            inbox.publication("c:1", offset, &json(&stamp), &mut findings);
        }
        inbox
    }

    proptest! {
        #[test]
        fn exactly_the_stored_numbers_that_did_not_come_are_lost(
            stored in proptest::collection::btree_set(0_u64..100, 0..60), got in proptest::collection::btree_set(0_u64..100, 0..60),
        ) {
            let (stored, got): (Vec<u64>, Vec<u64>) = (stored.into_iter().collect(), got.into_iter().collect());
            let mut findings = Findings::default();
            compare("u1", &inbox(&got), "c:1", &[sender("s", &stored, 100)], &mut findings);
            prop_assert_eq!(findings.count(Wrong::Lost), stored.iter().filter(|n| !got.contains(n)).count());
            prop_assert_eq!(findings.count(Wrong::Misinformed), 0);
        }
    }

    #[test]
    fn what_was_never_sent_what_was_refused_and_unknown_senders_are_found() {
        let mut findings = Findings::default();
        compare("u1", &inbox(&[0, 7]), "c:1", &[sender("s", &[0], 3)], &mut findings);
        assert_eq!((findings.count(Wrong::Misinformed), findings.count(Wrong::Lost)), (1, 0));
        let mut findings = Findings::default();
        compare("u1", &inbox(&[0]), "c:1", &[sender("another", &[], 0)], &mut findings);
        assert_eq!(findings.count(Wrong::Misinformed), 1);
        let mut published = Published { sent: 3, ..Published::default() };
        published.refused.insert(1);
        assert_eq!(publisher("u", &published).possible.iter().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn an_accepted_request_needs_its_answer_on_the_personal_channel_and_its_handlers_publication() {
        let (mut answers, mut findings) = (Answers::new("u1"), Findings::default());
        answers.begin(LATER);
        answers.begin(LATER);
        let answer = Stamp { to: "u1".to_owned(), by: LATER.to_owned(), n: 1, run: 5 };
        answers.take((LATER, 1), &answer, &mut findings);
        let [_, later] = personal(&answers, &Numbers::below(1), &Numbers::default());
        assert_eq!(later.stored.iter().collect::<Vec<_>>(), [0, 1]);
        let handled: Vec<Sender> = handlers("u1", &answers).collect();
        assert_eq!((handled[2].by.as_str(), handled[2].stored.len()), ("later of u1", 1));
    }
}
