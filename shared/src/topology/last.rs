//! The stream of a namespace's last messages, `TIDE_LAST_<namespace>`: a copy of the newest message of each channel, which stays
//! longer than the message itself. It proves that a quiet channel has had nothing newer.
//!
//! The broker copies by itself: the stream has the namespace's stream as its source. Each copy names the sequence of its
//! original, and the copies are numbered without gaps. So two copies show whether a message between them was never copied: then
//! the distance between the two numbers grows. A mirror would have the sequences of the originals, and would not show that. It
//! would also answer reads that are meant for the namespace's stream (`mirror_direct` cannot be switched off beside
//! `allow_direct`). This module is pure.

use std::collections::HashMap;

use async_nats::jetstream::stream::{Config as Stream, Info, PersistenceMode};

/// The metadata key that names the epoch of the stream whose messages are copied.
const OF: &str = "tidegate-of";

/// Returns the name of the stream that keeps a namespace's last messages.
pub fn last_stream(namespace: &str) -> String {
    format!("TIDE_LAST_{namespace}")
}

/// Returns the epoch of the stream whose messages this one copies. `None` for a stream that copies nothing.
pub fn origin_epoch(config: &Stream) -> Option<&str> {
    config.metadata.get(OF).map(String::as_str)
}

/// The stream whose messages this one copies.
pub(super) fn origin(config: &Stream) -> Option<&str> {
    let sources = config.sources.as_ref()?;
    sources.first().map(|source| source.name.as_str())
}

/// The same stream, with copies of messages of this epoch.
pub(super) fn of_epoch(mut config: Stream, epoch: String) -> Stream {
    config.metadata.insert(OF.to_owned(), epoch);
    config
}

/// Why an existing stream of last messages has to be made anew. `epochs` are those of the namespaces' streams that stay.
pub(super) fn why_anew(
    found: &Info,
    wanted: &Stream,
    epochs: &HashMap<String, String>,
) -> Option<&'static str> {
    let origin = origin(wanted)?;
    if epochs.get(origin).map(String::as_str) != origin_epoch(&found.config) {
        return Some("it has copies of another stream");
    }
    let is_async = |stream: &Stream| stream.persist_mode == Some(PersistenceMode::Async);
    let stays = found.config.storage == wanted.storage && (is_async(wanted) || !is_async(&found.config));
    (!stays).then_some("no update can change how it is stored")
}
