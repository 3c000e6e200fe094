//! Divides a client's backlog into parts that fit its outbox: the first comes in the reply, the others as pushes. Pure.

use std::sync::Arc;

use tidegate_shared::protocol::{Encoding, Publication};

use super::budget::Budget;
use crate::{channels::feed::patch, policy::delivery::DeliveryOptions};

/// What a client has missed, as far as it is at hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Missed<'a> {
    /// The client has everything up to this offset.
    pub(crate) after: u64,
    pub(crate) publications: &'a [Arc<Publication>],
    /// More follows behind this offset. `None` if this is all.
    pub(crate) until: Option<u64>,
}

/// The part of a backlog that comes next.
#[derive(Debug, PartialEq)]
pub(crate) enum NextPart {
    Sent {
        publications: Vec<Publication>,
        /// The rest is behind this offset. `None` if nothing is left.
        rest_behind: Option<u64>,
    },
    /// No outbox of this size can ever hold the first publication.
    TooLarge,
}

/// Takes as much from the beginning of a backlog as the budget allows.
pub(crate) fn next_part(
    missed: Missed<'_>,
    delivery: Option<&DeliveryOptions>,
    encoding: Encoding,
    budget: &mut Budget,
) -> NextPart {
    let untouched = budget.is_untouched();
    let mut publications = brought(missed.publications, delivery, encoding);
    let taken = budget.take_some(&publications);
    if taken == publications.len() {
        return NextPart::Sent { publications, rest_behind: missed.until };
    }
    if taken == 0 && untouched {
        return NextPart::TooLarge;
    }
    publications.truncate(taken);
    let rest_behind = publications.last().map_or(missed.after, |last| last.offset);
    NextPart::Sent { publications, rest_behind: Some(rest_behind) }
}

/// Missed publications as a client gets them: filtered, and each as a patch of the one before it where patches were granted.
pub(super) fn brought(
    publications: &[Arc<Publication>],
    delivery: Option<&DeliveryOptions>,
    encoding: Encoding,
) -> Vec<Publication> {
    let wanted = publications.iter().filter(|p| delivery.is_none_or(|delivery| delivery.wants(p)));
    if delivery.is_some_and(|delivery| delivery.delta) {
        patch::chain(wanted.map(AsRef::as_ref), encoding)
    } else {
        wanted.map(|p| Publication::clone(p).suited_to(encoding)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(len: usize) -> Arc<Publication> {
        Arc::new(Publication { offset: 5, data: vec![b'1'; len].into(), ..Publication::default() })
    }

    fn all(publications: &[Arc<Publication>]) -> Missed<'_> {
        Missed { after: 4, publications, until: None }
    }

    proptest! {
        #[test]
        fn the_parts_of_a_backlog_are_all_of_it_once_and_in_order(
            sizes in proptest::collection::vec(0..30_000_usize, 1..40),
            outbox in 65_536_u64..200_000,
            read in 1..10_usize,
        ) {
            let of = |(n, size): (usize, &usize)| {
                Arc::new(Publication { offset: n as u64 + 1, data: vec![b'1'; *size].into(), ..Publication::default() })
            };
            let all: Vec<_> = sizes.iter().enumerate().map(of).collect();
            let (mut received, mut at) = (Vec::new(), 0);
            loop {
                let behind = all.get(at..).unwrap_or_default();
                let publications = behind.get(..read).unwrap_or(behind);
                let until = (publications.len() < behind.len()).then(|| (at + publications.len()) as u64);
                let missed = Missed { after: at as u64, publications, until };
                let part = next_part(missed, None, Encoding::Protobuf, &mut Budget::of(outbox));
                let NextPart::Sent { publications, rest_behind } = part else { panic!("each fits an outbox") };
                prop_assert!(!publications.is_empty(), "every part brings the client further");
                received.extend(publications.iter().map(|publication| publication.offset));
                let Some(rest) = rest_behind else { break };
                at = usize::try_from(rest).unwrap();
            }
            prop_assert_eq!(received, (1..=sizes.len() as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_part_without_a_wanted_publication_still_brings_the_client_further() {
        let delivery = DeliveryOptions {
            delta: false,
            filter: Some(serde_json::from_str(r#"{"op":"","key":"a","cmp":"eq","val":"1"}"#).unwrap()),
        };
        let publications = [Arc::new(Publication { offset: 5, ..Publication::default() })];
        let missed = Missed { after: 4, publications: &publications, until: Some(7) };
        let part = next_part(missed, Some(&delivery), Encoding::Json, &mut Budget::of(100_000));
        assert_eq!(part, NextPart::Sent { publications: Vec::new(), rest_behind: Some(7) });
    }

    #[test]
    fn a_publication_that_no_outbox_can_hold_is_never_begun() {
        let part = next_part(all(&[of(99_000)]), None, Encoding::Json, &mut Budget::of(100_000));
        assert_eq!(part, NextPart::TooLarge);
    }

    #[test]
    fn what_other_channels_left_of_a_reply_may_be_too_little_for_now() {
        let mut budget = Budget::of(100_000);
        let _ = next_part(all(&[of(90_000)]), None, Encoding::Json, &mut budget);
        let part = next_part(all(&[of(90_000)]), None, Encoding::Json, &mut budget);
        assert_eq!(part, NextPart::Sent { publications: Vec::new(), rest_behind: Some(4) });
    }
}
