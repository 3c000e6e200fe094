//! How an existing stream of a namespace becomes the configured one: by an update, or only by recreating it.
//!
//! Observed with nats-server 2.15.1: an update changes limits, ages and windows and keeps the messages that still fit (a smaller
//! history drops the oldest messages, a larger one starts with the existing ones). An update cannot change the persist mode in
//! either direction ("stream configuration update can not change persist mode", 10052), nor the storage type. A stream that is
//! written after its acknowledgement can neither be in memory nor have replicas. This module is pure.

use async_nats::jetstream::stream::{Config as Stream, PersistenceMode, StorageType};

/// How a stream becomes the configured one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// By an update with this persist mode. Its messages stay.
    Update(Option<PersistenceMode>),
    /// By recreating it, for this reason. Only messages without a promise of history are lost.
    Anew(&'static str),
    /// By recreating it, for this reason. All its messages are lost.
    AnewWithLoss(&'static str),
}

impl Way {
    pub(super) fn from(found: &Stream, wanted: &Stream) -> Self {
        let behind = |stream: &Stream| stream.persist_mode == Some(PersistenceMode::Async);
        match (behind(found), behind(wanted)) {
            // Only namespaces without history have such a stream: its messages were not promised to any client.
            (true, false) => {
                Self::Anew("it is written behind the acknowledgement, which no update can change")
            }
            _ if found.storage != wanted.storage => Self::AnewWithLoss(match wanted.storage {
                StorageType::File => "no update can move it from memory to files",
                StorageType::Memory => "no update can move it from files to memory",
            }),
            // A stream that is written before its acknowledgement is slower than necessary, and otherwise equivalent.
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
    fn a_stream_is_updated_if_possible_and_recreated_otherwise() {
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
