//! The places of a route: how many of its requests one worker works on at a time, and who gets the next free place.
//!
//! Two lanes wait for places. While both do, four places go to the first lane for each that goes to the normal one: the first is
//! faster, and the normal one never stands still.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidegate_shared::route::Priority;
use tokio::sync::{Notify, oneshot};

/// How many places go to the first lane for each that goes to the normal one while both wait.
const FIRST_IN_A_ROW: u32 = 4;

/// The places of one route.
#[derive(Debug)]
pub(crate) struct Places {
    state: Mutex<State>,
    freed: Notify,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<Places>>);

#[derive(Debug)]
struct State {
    /// Nobody waits while there is a free place.
    free: usize,
    first: VecDeque<oneshot::Sender<Place>>,
    normal: VecDeque<oneshot::Sender<Place>>,
    /// Places that went to the first lane since the last one that went to the normal lane.
    in_a_row: u32,
}

impl Places {
    pub(crate) fn new(free: usize) -> Arc<Self> {
        let (first, normal) = (VecDeque::new(), VecDeque::new());
        let state = Mutex::new(State { free, first, normal, in_a_row: 0 });
        Arc::new(Self { state, freed: Notify::new() })
    }

    /// How many places are free.
    pub(crate) fn free(&self) -> usize {
        self.lock().free
    }

    /// Waits until so many places are free.
    pub(crate) async fn gather(&self, wanted: usize) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.free() >= wanted {
                return;
            }
            freed.await;
        }
    }

    /// Takes a place if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Place(Some(Arc::clone(self))))
    }

    /// Waits for a place in this lane. Places of the same lane are given in the order of the calls.
    pub(crate) async fn take(self: &Arc<Self>, lane: Priority) -> Place {
        let waiting = {
            let mut state = self.lock();
            if let Some(rest) = state.free.checked_sub(1) {
                state.free = rest;
                return Place(Some(Arc::clone(self)));
            }
            let (given, waiting) = oneshot::channel();
            match lane {
                Priority::High => state.first.push_back(given),
                Priority::Normal => state.normal.push_back(given),
            }
            waiting
        };
        match waiting.await {
            Ok(place) => place,
            // Who waits is dropped only with the places themselves.
            Err(_) => std::future::pending().await,
        }
    }

    fn give_back(self: Arc<Self>) {
        let mut place = Place(Some(self));
        loop {
            let Some(places) = &place.0 else { return };
            let next = places.lock().next();
            let Some(next) = next else {
                places.freed.notify_waiters();
                place.0 = None;
                return;
            };
            match next.send(place) {
                Ok(()) => return,
                // It does not wait any more.
                Err(unused) => place = unused,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who gets the place that has become free. `None` if nobody waits: then it is counted as free.
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        let both = !self.first.is_empty() && !self.normal.is_empty();
        let first = if both { self.in_a_row < FIRST_IN_A_ROW } else { !self.first.is_empty() };
        if first {
            self.in_a_row = if both { self.in_a_row + 1 } else { 0 };
            return self.first.pop_front();
        }
        self.in_a_row = 0;
        let next = self.normal.pop_front();
        if next.is_none() {
            self.free += 1;
        }
        next
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_place_that_was_given_to_nobody_goes_to_the_next_one() {
        let places = Places::new(1);
        let held = places.try_take().unwrap();
        assert!(places.try_take().is_none());
        let mut gone = Box::pin(places.take(Priority::High));
        assert!((&mut gone).now_or_never().is_none());
        let mut waits = Box::pin(places.take(Priority::Normal));
        assert!((&mut waits).now_or_never().is_none());
        // It has the place, and does not live to see it.
        drop(held);
        drop(gone);
        let place = waits.now_or_never().unwrap();
        assert_eq!(places.free(), 0);
        drop(place);
        assert_eq!(places.free(), 1);
    }

    #[tokio::test]
    async fn the_first_lane_gets_four_of_five_places_and_the_normal_one_the_fifth() {
        let places = Places::new(1);
        let held = places.try_take().unwrap();
        let wait = |lane| {
            let places = Arc::clone(&places);
            let mut waiting = Box::pin(async move { (lane, places.take(lane).await) });
            assert!((&mut waiting).now_or_never().is_none());
            waiting
        };
        let mut waiting: Vec<_> = (0..10).map(|_| wait(Priority::High)).collect();
        waiting.extend((0..10).map(|_| wait(Priority::Normal)));
        let mut given = Vec::new();
        let mut place = held;
        while !waiting.is_empty() {
            drop(place);
            let mut now: Vec<_> =
                waiting.iter_mut().enumerate().filter_map(|(n, w)| Some((n, w.now_or_never()?))).collect();
            assert_eq!(now.len(), 1);
            let (index, (lane, next)) = now.remove(0);
            drop(now);
            drop(waiting.remove(index));
            given.push(lane);
            place = next;
        }
        let letters: String =
            given.iter().map(|lane| if *lane == Priority::High { 'f' } else { 'n' }).collect();
        assert_eq!(letters, "ffffnffffnffnnnnnnnn");
    }
}
