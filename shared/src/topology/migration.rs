//! From the stream of a namespace that is there to the one that is wanted: what an update can change, and what it cannot.
//!
//! Seen with nats-server 2.15.1: limits, ages and windows change by an update, which keeps the messages that still fit (a
//! smaller history lets go of the oldest, a larger one begins with what is there). "stream configuration update can not change
//! persist mode" (10052) either way, and neither storage type; a stream that is written behind the acknowledgement can be
//! neither in memory nor have replicas. Pure.

use async_nats::jetstream::stream::{Config as Stream, PersistenceMode, StorageType};

/// How a stream becomes the one that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// By an update, with this persist mode: its messages stay.
    Update(Option<PersistenceMode>),
    /// Only anew, for this reason, and nothing that was promised to anybody is lost.
    Anew(&'static str),
    /// Only anew, for this reason, and all that it keeps is lost.
    AnewWithLoss(&'static str),
}

impl Way {
    pub(super) fn from(found: &Stream, wanted: &Stream) -> Self {
        let behind = |stream: &Stream| stream.persist_mode == Some(PersistenceMode::Async);
        match (behind(found), behind(wanted)) {
            // Only a namespace without history has such a stream: nobody was promised what it keeps.
            (true, false) => {
                Self::Anew("it is written behind the acknowledgement, which no update can change")
            }
            _ if found.storage != wanted.storage => Self::AnewWithLoss(match wanted.storage {
                StorageType::File => "no update can move it from memory to files",
                StorageType::Memory => "no update can move it from files to memory",
            }),
            // Written before the acknowledgement it is slower than it has to be, and as good.
            _ => Self::Update(found.persist_mode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(storage: StorageType, persist_mode: Option<PersistenceMode>) -> Stream {
        Stream { storage, persist_mode, ..Stream::default() }
    }

    #[test]
    fn a_stream_is_updated_where_that_is_possible_and_made_anew_where_it_is_not() {
        let (file, memory) = (stream(StorageType::File, None), stream(StorageType::Memory, None));
        let behind = stream(StorageType::File, Some(PersistenceMode::Async));
        assert_eq!(Way::from(&file, &file), Way::Update(None));
        assert_eq!(Way::from(&behind, &behind), Way::Update(behind.persist_mode));
        assert_eq!(Way::from(&file, &behind), Way::Update(None), "a history that is given up");
        assert!(matches!(Way::from(&behind, &file), Way::Anew(_)), "a history that begins");
        assert!(matches!(Way::from(&file, &memory), Way::AnewWithLoss(_)));
        assert!(matches!(Way::from(&memory, &file), Way::AnewWithLoss(_)));
        assert!(matches!(Way::from(&memory, &behind), Way::AnewWithLoss(_)));
    }
}
