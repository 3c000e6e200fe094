//! How many connections an address, or a user, has at a time, and how fast their commands come.
//!
//! A seat is given back when it is dropped, so a panic or an aborted task is counted as an end too. Whoever has no seat and no use
//! of its rate that still matters is forgotten. Never ends a connection.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;

use super::pace::{Moment, Pace, Pacing, Rates};

/// How many locks the map is spread over.
const SHARDS: usize = 16;
/// A shard with fewer entries is not swept.
const SMALL: usize = 64;

/// The seats of everybody that `K` names.
#[derive(Debug)]
pub(crate) struct Crowd<K> {
    most: usize,
    rates: Rates,
    hasher: RandomState,
    shards: [Mutex<Shard<K>>; SHARDS],
}

/// A part of the map, and at how many entries those are looked for that can be forgotten.
#[derive(Debug)]
struct Shard<K> {
    all: HashMap<K, Member>,
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Member {
    seats: usize,
    pace: Pace,
}

/// One connection of an address or a user. Dropping it gives the seat back.
#[derive(Debug)]
pub(crate) struct Seat<K: Hash + Eq + Copy> {
    crowd: Arc<Crowd<K>>,
    key: K,
}

impl<K: Hash + Eq + Copy> Crowd<K> {
    /// A crowd in which everybody may have `most` seats.
    pub(crate) fn new(most: usize, rates: Rates) -> Arc<Self> {
        let shard = || Mutex::new(Shard { all: HashMap::new(), sweep_at: SMALL });
        Arc::new(Self { most, rates, hasher: RandomState::new(), shards: std::array::from_fn(|_| shard()) })
    }

    /// Takes a seat, unless all of them are taken.
    pub(crate) fn enter(self: &Arc<Self>, key: K) -> Option<Seat<K>> {
        let mut shard = self.shard(&key).lock();
        if shard.all.len() >= shard.sweep_at {
            let now = self.rates.now();
            shard.all.retain(|_, member| member.seats > 0 || !member.pace.is_idle(now));
            shard.sweep_at = SMALL.max(shard.all.len() * 2);
        }
        let member = shard.all.entry(key).or_default();
        if member.seats >= self.most {
            return None;
        }
        member.seats += 1;
        drop(shard);
        Some(Seat { crowd: Arc::clone(self), key })
    }

    fn leave(&self, key: &K) {
        let mut shard = self.shard(key).lock();
        let Some(member) = shard.all.get_mut(key) else { return };
        member.seats = member.seats.saturating_sub(1);
        if member.seats == 0 && member.pace.is_idle(self.rates.now()) {
            shard.all.remove(key);
            if shard.all.capacity() > SMALL.max(shard.all.len() * 4) {
                let keep = shard.all.len() * 2;
                shard.all.shrink_to(keep);
            }
        }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K>> {
        let [first, ..] = &self.shards;
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards.get(index).unwrap_or(first)
    }
}

impl Crowd<u64> {
    /// Takes a seat for a user. A user is known by a hash, so that a name takes no memory; its key is random, so that nobody can
    /// choose a name to share another user's seats.
    pub(crate) fn enter_as(self: &Arc<Self>, user: &str) -> Option<Seat<u64>> {
        self.enter(self.hasher.hash_one(user))
    }
}

impl Seat<u64> {
    /// Counts commands for all connections of the user.
    pub(crate) fn charge(&self, commands: usize, now: Moment) -> Pacing {
        let mut shard = self.crowd.shard(&self.key).lock();
        let rate = self.crowd.rates.user;
        let member = shard.all.get_mut(&self.key);
        member.map_or(Pacing::Within, |member| member.pace.charge_shared(rate, commands, now))
    }
}

impl<K: Hash + Eq + Copy> Drop for Seat<K> {
    fn drop(&mut self) {
        self.crowd.leave(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    fn crowd(most: usize) -> Arc<Crowd<u64>> {
        Crowd::new(most, Rates::of(1000, 2))
    }

    fn known<K>(crowd: &Crowd<K>) -> usize {
        crowd.shards.iter().map(|shard| shard.lock().all.len()).sum()
    }

    #[test]
    fn as_many_seats_as_the_limit_and_one_more_when_one_is_given_back() {
        let crowd = crowd(3);
        let mut seats: Vec<_> = (0..3).map(|_| crowd.enter_as("42").unwrap()).collect();
        assert!(crowd.enter_as("42").is_none());
        assert!(crowd.enter_as("43").is_some(), "others have their own");
        seats.pop();
        seats.push(crowd.enter_as("42").unwrap());
        assert!(crowd.enter_as("42").is_none());
        drop(seats);
        assert_eq!(known(&crowd), 0, "nobody is remembered");
    }

    #[tokio::test]
    async fn a_panic_and_an_aborted_task_give_their_seats_back() {
        let crowd = crowd(2);
        let (first, second) = (crowd.enter_as("42").unwrap(), crowd.enter_as("42").unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _first = first;
            panic!("planted");
        });
        tasks.spawn(async move {
            let _second = second;
            std::future::pending::<()>().await;
        });
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
        tasks.shutdown().await;
        assert_eq!(known(&crowd), 0);
        assert!(crowd.enter_as("42").is_some() && crowd.enter_as("42").is_some());
    }

    #[test]
    fn the_connections_of_a_user_share_its_rate_also_over_a_reconnect() {
        let crowd = crowd(2);
        let now = || crowd.rates.now();
        let (first, second) = (crowd.enter_as("42").unwrap(), crowd.enter_as("42").unwrap());
        let at = now();
        assert_eq!(first.charge(1, at), Pacing::Within);
        assert_eq!(second.charge(1, at), Pacing::Within);
        assert!(matches!(second.charge(1, at), Pacing::Hold(_)));
        drop((first, second));
        let again = crowd.enter_as("42").unwrap();
        assert!(matches!(again.charge(4, now()), Pacing::Hold(_)), "its rate is still used up");
        assert_eq!(crowd.enter_as("43").unwrap().charge(2, now()), Pacing::Within);
    }

    #[test]
    fn users_that_are_gone_are_forgotten_though_they_have_used_their_rate() {
        // Each of them has used its rate for a tenth of a millisecond when it goes.
        let crowd: Arc<Crowd<u64>> = Crowd::new(2, Rates::of(1000, 10_000));
        for user in 0..50_000 {
            let seat = crowd.enter_as(&user.to_string()).unwrap();
            assert_eq!(seat.charge(1, crowd.rates.now()), Pacing::Within);
        }
        assert!(known(&crowd) < 10_000, "{}", known(&crowd));
    }
}
