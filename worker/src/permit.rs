//! A request's place among those that its route works on at a time.
//!
//! When the handler has ended, the request moves to a place among those whose answers are on their way, if one is free: the disk of
//! the broker keeps no handler waiting. One that waits for longer gives that up too. Then it counts among the answers that the worker
//! holds, which are bounded in bytes: when there is no room for one more, the request keeps its place, and in the end its route
//! stops pulling.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::places::Place;

/// The most bytes of requests and answers that a worker holds without a place in their routes.
const MOST_BYTES: usize = 64 << 20;
/// What one of them costs beside its payloads.
const OVERHEAD: usize = 4096;
/// The unit of the bound.
const UNIT: usize = 1024;

/// The room for answers that are held.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// The place of one request, until it is dropped. Empty for a request that is not worked on.
#[derive(Debug, Default)]
pub(crate) struct Permit(Mutex<Option<Held>>);

/// What a request occupies. Never read: it ends with the request.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what happens when it is dropped")]
enum Held {
    Place(Place),
    Room(OwnedSemaphorePermit),
}

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST_BYTES / UNIT)))
    }
}

impl Permit {
    /// Keeps this place, and gives back the one before.
    pub(crate) fn hold(&self, place: Place) {
        self.set(Some(Held::Place(place)));
    }

    /// Gives up whatever the request occupies.
    pub(crate) fn release(&self) {
        self.set(None);
    }

    /// Gives the place back if there is room for so many bytes more.
    pub(crate) fn give_back(&self, room: &Room, bytes: usize) {
        let units = u32::try_from((bytes + OVERHEAD).div_ceil(UNIT)).unwrap_or(u32::MAX);
        if let Ok(held) = Arc::clone(&room.0).try_acquire_many_owned(units) {
            // Either permit ends with the request.
            self.set(Some(Held::Room(held)));
        }
    }

    fn set(&self, held: Option<Held>) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), held);
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::Places;

    #[test]
    fn a_place_is_given_back_only_while_there_is_room() {
        let (route, room) = (Places::new(2), Room::new());
        let permit = || {
            let permit = Permit::default();
            permit.hold(route.try_take().unwrap());
            permit
        };
        let (large, small) = (permit(), permit());
        assert_eq!(route.free(), 0);
        large.give_back(&room, MOST_BYTES - OVERHEAD);
        small.give_back(&room, 1);
        assert_eq!(route.free(), 1, "there is no room for the second");
        drop(large);
        small.give_back(&room, 1);
        assert_eq!(route.free(), 2);
        drop(small);
        assert_eq!(room.0.available_permits(), MOST_BYTES / UNIT);
    }
}
