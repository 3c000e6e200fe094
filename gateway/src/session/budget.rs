//! How many bytes of publications one reply may have, so that it fits the outbox. Pure.
//!
//! A reply that overflowed the outbox would end the connection, and the client would come back and ask for the same.

use tidegate_shared::protocol::Publication;

/// Bytes of a reply beside its publications.
const ENVELOPE: u64 = 4 * 1024;
/// Bytes of a publication in a reply beside its data, tags and info: field names, numbers and punctuation.
const FIELDS: u64 = 160;

/// The bytes that are left for publications in one reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Half of the outbox: the rest is for what is delivered meanwhile.
    left: u64,
    /// What a single publication may take: a reply that fits an empty outbox is written.
    alone: u64,
    /// Nothing was taken.
    untouched: bool,
}

impl Budget {
    /// The budget of a reply into an outbox of this many bytes.
    pub(crate) fn of(outbox: u64) -> Self {
        Self { left: outbox / 2, alone: outbox.saturating_sub(ENVELOPE), untouched: true }
    }

    /// Whether nothing was taken: what does not fit now never fits.
    pub(super) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// Takes as many publications as fit from the beginning of a list. Returns how many.
    pub(super) fn take_some(&mut self, publications: &[Publication]) -> usize {
        let mut taken = 0;
        for publication in publications {
            let needed = encoded_len(publication);
            if needed > self.left && !(taken == 0 && needed <= self.alone) {
                break;
            }
            self.use_up(needed);
            taken += 1;
        }
        taken
    }

    fn use_up(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.alone = self.alone.saturating_sub(bytes);
        self.untouched = false;
    }
}

/// An upper bound of the encoded bytes of a publication whose data suits the encoding already.
fn encoded_len(publication: &Publication) -> u64 {
    let info = publication.info.as_ref().map_or(0, |info| {
        // User and client ids are strings, whose quotes and control characters are escaped.
        (info.user.len() + info.client.len()) * 6 + info.conn_info.len() + info.chan_info.len() + 80
    });
    let tags: usize = publication.tags.iter().map(|(name, value)| (name.len() + value.len()) * 6 + 8).sum();
    FIELDS + (publication.data.len() + info + tags) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_shared::protocol::{ClientInfo, Encoding, HistoryResult, Reply, encode_reply};

    use super::*;

    fn publication() -> impl Strategy<Value = Publication> {
        let text = || "\\PC{0,40}|[\"\\\\]{0,40}";
        (any::<Vec<u8>>(), text(), proptest::collection::btree_map(text(), text(), 0..3), any::<u64>())
            .prop_map(|(data, user, tags, offset)| Publication {
                data: data.into(),
                info: Some(ClientInfo { user, client: "g.1".into(), ..ClientInfo::default() }),
                tags,
                offset,
                ..Publication::default()
            })
    }

    proptest! {
        #[test]
        fn a_reply_within_the_budget_fits_the_outbox(
            publications in proptest::collection::vec(publication(), 0..40),
            outbox in 5_000_u64..60_000,
            json: bool,
        ) {
            let encoding = if json { Encoding::Json } else { Encoding::Protobuf };
            let publications: Vec<_> = publications.into_iter().map(|p| p.suited_to(encoding)).collect();
            let mut budget = Budget::of(outbox);
            let some = publications[..budget.take_some(&publications)].to_vec();
            let history = Some(HistoryResult { publications: some, ..HistoryResult::default() });
            let reply = Reply { id: 1, history, ..Reply::default() };
            prop_assert!(encode_reply(encoding, &reply).unwrap().len() as u64 <= outbox);
        }
    }

    #[test]
    fn a_single_publication_may_fill_the_outbox_and_several_half_of_it() {
        let of = |len: usize| Publication { data: vec![b'1'; len].into(), ..Publication::default() };
        assert_eq!(Budget::of(100_000).take_some(&[of(90_000)]), 1);
        assert_eq!(Budget::of(100_000).take_some(&[of(99_000)]), 0);
        assert_eq!(Budget::of(100_000).take_some(&[of(30_000), of(30_000)]), 1);
    }
}
