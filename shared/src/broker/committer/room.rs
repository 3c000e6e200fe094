//! What one process may have on its way to all streams together: messages, and bytes that wait for their round. One for all
//! committers of a connection.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::broker::Refusal;

/// The most bytes that may wait for their round.
const WAITING_BYTES: usize = 64 << 20;

/// The room of a process.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Room {
    places: Arc<Semaphore>,
    bytes: Arc<AtomicUsize>,
    /// Whether a message waits for its place, or is refused.
    waits: bool,
}

/// The place of one message, or of several. It is free again when this is dropped.
#[derive(Debug)]
pub(in crate::broker) struct Place(OwnedSemaphorePermit);

/// Bytes that wait.
#[derive(Debug)]
pub(super) struct Bytes {
    count: usize,
    all: Arc<AtomicUsize>,
}

impl Room {
    pub(in crate::broker) fn new(places: usize, waits: bool) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), bytes: Arc::default(), waits }
    }

    pub(in crate::broker) async fn place(&self) -> Result<Place, Refusal> {
        let places = Arc::clone(&self.places);
        let place = if self.waits {
            places.acquire_owned().await.map_err(|_| Refusal::Busy)
        } else {
            places.try_acquire_owned().map_err(|_| Refusal::Busy)
        };
        place.map(Place)
    }

    /// `None` if so many bytes more may not wait.
    pub(super) fn bytes(&self, count: usize) -> Option<Bytes> {
        let before = self.bytes.fetch_add(count, Ordering::AcqRel);
        let bytes = Bytes { count, all: Arc::clone(&self.bytes) };
        (before + count <= WAITING_BYTES).then_some(bytes)
    }
}

impl Place {
    /// Makes one of two of the same room.
    pub(in crate::broker) fn join(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

impl Bytes {
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.all.fetch_sub(self.count, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_messages_and_bytes_of_all_streams_together_are_bounded() {
        let room = Room::new(2, false);
        let others = room.clone();
        let (first, _second) = (room.place().await.unwrap(), others.place().await.unwrap());
        assert_eq!(room.place().await.unwrap_err(), Refusal::Busy);
        drop(first);
        others.place().await.unwrap();
        let half = room.bytes(WAITING_BYTES / 2).unwrap();
        let other = others.bytes(WAITING_BYTES / 2).unwrap();
        assert!(room.bytes(1).is_none() && others.bytes(1).is_none());
        drop(half);
        assert!(others.bytes(WAITING_BYTES / 2 + 1).is_none(), "what was refused holds no room");
        assert!(others.bytes(WAITING_BYTES / 2).is_some());
        drop(other);
    }
}
