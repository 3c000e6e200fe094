//! A request's place among those that its route works on at a time.
//!
//! When the handler has ended, the request moves to a place among those whose answers are on their way: the disk of the broker keeps
//! no handler waiting. A request that waits for longer gives that place back too. Both count among the answers that the worker
//! holds, which are bounded in bytes: when there is no room for one more, the request keeps its place, and in the end its route
//! stops pulling.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::places::{Place, Places};

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
    Answering(Place, OwnedSemaphorePermit),
    Room(OwnedSemaphorePermit),
}

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST_BYTES / UNIT)))
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from((bytes + OVERHEAD).div_ceil(UNIT)).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(units).ok()
    }
}

impl Permit {
    /// Keeps the request's place.
    pub(crate) fn hold(&self, place: Place) {
        self.set(Some(Held::Place(place)));
    }

    /// Gives up whatever the request occupies.
    pub(crate) fn release(&self) {
        self.set(None);
    }

    /// Takes one of these places instead of its own, if one is free and there is room for so many bytes more.
    pub(crate) fn move_to(&self, answering: &Arc<Places>, room: &Room, bytes: usize) {
        if let Some(place) = answering.try_take()
            && let Some(held) = room.take(bytes)
        {
            self.set(Some(Held::Answering(place, held)));
        }
    }

    /// Gives the place back if there is room for so many bytes more.
    pub(crate) fn give_back(&self, room: &Room, bytes: usize) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let after = match before {
            // It has its room.
            Some(Held::Answering(_, held) | Held::Room(held)) => Some(Held::Room(held)),
            before => room.take(bytes).map(Held::Room).or(before),
        };
        self.set(after);
    }

    fn set(&self, held: Option<Held>) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), held);
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_on_their_way_are_bounded_in_number_and_in_bytes() {
        let (route, answering, room) = (Places::new(4), Places::new(2), Room::new());
        let permit = |bytes| {
            let permit = Permit::default();
            permit.hold(route.try_take().unwrap());
            permit.move_to(&answering, &room, bytes);
            permit
        };
        let large = permit(MOST_BYTES - OVERHEAD);
        assert_eq!((route.free(), answering.free()), (4, 1));
        let no_room = permit(1);
        assert_eq!((route.free(), answering.free()), (3, 1), "there is no room for its bytes");
        // It waits for longer, with the room that it has.
        large.give_back(&room, MOST_BYTES);
        assert_eq!((answering.free(), room.0.available_permits()), (2, 0));
        drop(large);
        let (_second, _third) = (permit(1), permit(1));
        assert_eq!((route.free(), answering.free()), (3, 0));
        let fourth = permit(1);
        assert_eq!(route.free(), 2, "there is no place for it");
        drop((no_room, fourth));
        assert_eq!(route.free(), 4);
    }

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
