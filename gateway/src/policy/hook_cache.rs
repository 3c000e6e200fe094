//! A cache of decisions, so that a back end is not asked again about a client that comes back. Pure.
//!
//! It holds decisions on subscriptions of authenticated users only: a decision on a publication may depend on its data,
//! and anonymous clients cannot be distinguished. An entry never outlives the decision.

use std::{collections::HashMap, time::Duration};

use tidegate_shared::hook::{Decision, Event, Question};
use tokio::time::Instant;

/// The most cached decisions; further ones are not cached.
const MOST: usize = 10_000;

/// A user and a channel.
pub(super) type Key = (String, String);

/// The cached decisions.
#[derive(Debug)]
pub(super) struct DecisionCache {
    time: Duration,
    decisions: HashMap<Key, (Instant, Decision)>,
    /// Before this time no cached decision expires: a full cache is not searched for expired ones until then.
    full_until: Option<Instant>,
}

/// The cache key of a decision, if it may be cached.
pub(super) fn key(event: Event, question: &Question) -> Option<Key> {
    let plain = question.data.is_empty() && question.b64data.is_empty();
    let user = question.user.as_ref().filter(|user| !user.is_empty())?;
    (event == Event::Subscribe && plain).then(|| (user.clone(), question.channel.clone()))
}

impl DecisionCache {
    pub(super) fn new(time: Duration) -> Self {
        Self { time, decisions: HashMap::new(), full_until: None }
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Decision> {
        let (until, decision) = self.decisions.get(key)?;
        (*until > now).then(|| decision.clone())
    }

    /// Caches a decision for as long as it holds. `unix` is `now` as time since 1970.
    pub(super) fn keep(&mut self, key: Key, decision: &Decision, now: Instant, unix: Duration) {
        let holds_for = match decision {
            Decision::Allowed(grant) => grant
                .ends()
                .map_or(self.time, |at| self.time.min(Duration::from_secs(at).saturating_sub(unix))),
            Decision::Refused(error) if !error.temporary => self.time,
            Decision::Refused(_) | Decision::Disconnect(_) => Duration::ZERO,
        };
        if holds_for.is_zero() {
            return;
        }
        if self.decisions.len() < MOST || self.make_room(now) {
            self.decisions.insert(key, (now + holds_for, decision.clone()));
        }
    }

    /// Removes expired decisions from a full cache. Returns whether there were any.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        self.decisions.retain(|_, (until, _)| *until > now);
        let full = self.decisions.len() >= MOST;
        self.full_until = full.then(|| self.decisions.values().map(|(until, _)| *until).min()).flatten();
        !full
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::{
        hook::Grant,
        protocol::{Encoding, Error},
    };

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const UNIX: Duration = Duration::from_hours(500_000);

    fn question(user: Option<&str>, data: &'static str) -> Question {
        let question = Question::new("g.1", Encoding::Json).with_data(&data.into());
        Question { user: user.map(str::to_owned), channel: "chat:x".into(), ..question }
    }

    fn allowed(expire_at: u64) -> Decision {
        Decision::Allowed(Box::new(Grant { expire_at, ..Grant::default() }))
    }

    fn refused(temporary: bool) -> Decision {
        Decision::Refused(Error { code: 1403, message: String::new(), temporary })
    }

    #[test]
    fn only_decisions_on_subscriptions_of_users_are_cached_each_for_one_user() {
        let of = |user| key(Event::Subscribe, &question(user, ""));
        assert!(of(Some("42")).is_some() && of(Some("42")) != of(Some("43")));
        assert_eq!((of(None), of(Some(""))), (None, None));
        assert_eq!(
            key(Event::Subscribe, &question(Some("42"), "1")),
            None,
            "the decision may depend on the data"
        );
        for event in [Event::Connect, Event::Refresh, Event::SubRefresh, Event::Publish] {
            assert_eq!(key(event, &question(Some("42"), "")), None);
        }
    }

    #[test]
    fn a_decision_is_cached_as_long_as_it_holds_and_no_longer_than_configured() {
        let now = Instant::now();
        let key = || key(Event::Subscribe, &question(Some("42"), "")).unwrap();
        for (decision, seconds) in [
            (allowed(0), 60),
            (allowed(UNIX.as_secs() + 7), 7),
            (allowed(UNIX.as_secs() + 700), 60),
            (allowed(1), 0),
            (refused(false), 60),
            (refused(true), 0),
        ] {
            let mut kept = DecisionCache::new(MINUTE);
            kept.keep(key(), &decision, now, UNIX);
            let at = |seconds| kept.get(&key(), now + Duration::from_secs(seconds));
            assert_eq!(at(seconds), None, "{decision:?}");
            assert_eq!(at(seconds.saturating_sub(1)), (seconds > 0).then(|| decision.clone()));
        }
        let mut none = DecisionCache::new(Duration::ZERO);
        none.keep(key(), &allowed(0), now, UNIX);
        assert_eq!(none.get(&key(), now), None);
    }

    #[test]
    fn the_cache_is_bounded_and_expired_decisions_make_room() {
        let now = Instant::now();
        let mut kept = DecisionCache::new(MINUTE);
        for user in 0..=MOST {
            kept.keep((user.to_string(), "c".into()), &allowed(0), now, UNIX);
        }
        assert_eq!(kept.decisions.len(), MOST);
        kept.keep(("new".into(), "c".into()), &allowed(0), now + MINUTE, UNIX);
        assert_eq!(kept.decisions.len(), 1);
    }

    #[test]
    fn a_full_cache_is_searched_once_until_a_decision_in_it_expires() {
        let now = Instant::now();
        let mut kept = DecisionCache::new(MINUTE);
        for user in 0..MOST {
            kept.keep((user.to_string(), "c".into()), &allowed(0), now, UNIX);
        }
        assert!(!kept.make_room(now), "searched");
        assert_eq!(kept.full_until, Some(now + MINUTE));
        let late = Duration::from_secs(59);
        kept.keep(("new".into(), "c".into()), &allowed(0), now + late, UNIX + late);
        assert_eq!((kept.decisions.len(), kept.full_until), (MOST, Some(now + MINUTE)), "not searched");
        kept.keep(("new".into(), "c".into()), &allowed(0), now + MINUTE, UNIX + MINUTE);
        assert_eq!((kept.decisions.len(), kept.full_until), (1, None));
    }
}
