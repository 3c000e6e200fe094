//! The beginning of a backlog that is too long for one reply. The rest is read when the client has it.

use std::sync::Arc;

use tidegate_shared::protocol::Publication;

/// All that a channel has had behind one offset, up to another. More follows.
#[derive(Debug, PartialEq)]
pub(crate) struct Part {
    /// The stream that the offsets belong to.
    pub(crate) epoch: Arc<str>,
    /// It is complete behind this offset.
    pub(crate) after: u64,
    /// It is complete up to this offset.
    pub(crate) until: u64,
    /// Ordered by offset.
    pub(crate) publications: Vec<Arc<Publication>>,
}

impl Part {
    /// Whether it brings a client at this offset further.
    pub(crate) fn continues(&self, epoch: &str, offset: u64) -> bool {
        *self.epoch == *epoch && (self.after..self.until).contains(&offset)
    }

    /// What a client at this offset has missed of it.
    pub(crate) fn behind(&self, offset: u64) -> &[Arc<Publication>] {
        let have = self.publications.partition_point(|publication| publication.offset <= offset);
        self.publications.get(have..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_serves_the_clients_whose_offset_it_covers() {
        let of = |offset| Arc::new(Publication { offset, ..Publication::default() });
        let publications = [5, 7, 9].map(of).to_vec();
        let part = Part { epoch: "e".into(), after: 3, until: 9, publications };
        let served = |offset: u64| -> Vec<u64> { part.behind(offset).iter().map(|p| p.offset).collect() };
        assert!(!part.continues("e", 2) && !part.continues("other", 3), "something would be missing");
        for (offset, rest) in [(3, vec![5, 7, 9]), (5, vec![7, 9]), (8, vec![9])] {
            assert!(part.continues("e", offset));
            assert_eq!(served(offset), rest);
        }
        assert!(!part.continues("e", 9) && served(9).is_empty(), "it brings nothing new");
    }
}
