//! Publications that arrive before their channel's position is known: they wait, and are applied in their order when it is.
//! Pure.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_nats::Message;
use parking_lot::Mutex;

use super::weight;

/// Publications of one channel that may wait, and their bytes. A channel with more is not received: its subscriber is told.
const MOST: usize = 16_384;
const MOST_BYTES: usize = 8 << 20;
/// What the publications of all channels that wait may need.
const MOST_TOGETHER: usize = 64 << 20;

/// The channels whose position is being read.
#[derive(Default)]
pub(in super::super) struct Early {
    /// How many there are: most of the time none.
    count: AtomicUsize,
    channels: Mutex<Channels>,
}

#[derive(Default)]
struct Channels {
    waiting: HashMap<Box<str>, Waiting>,
    /// What all that waits needs, in bytes.
    weight: usize,
}

#[derive(Default)]
struct Waiting {
    messages: Vec<Message>,
    bytes: usize,
    weight: usize,
    /// Some did not fit.
    overflown: bool,
}

/// Ends the wait of a channel, however it ends.
pub(in super::super) struct Opening<'a> {
    early: &'a Early,
    key: &'a str,
}

impl Early {
    /// Whether no channel waits.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// From now on the publications of a channel wait. `key` has the two words of its subject.
    pub(in super::super) fn open<'a>(&'a self, key: &'a str) -> Opening<'a> {
        let mut channels = self.channels.lock();
        channels.remove(key, &self.count);
        channels.waiting.insert(key.into(), Waiting::default());
        self.count.fetch_add(1, Ordering::AcqRel);
        Opening { early: self, key }
    }

    /// Keeps a publication of a channel that waits. Returns any other.
    pub(in super::super) fn keep(&self, key: &str, message: Message) -> Option<Message> {
        let mut channels = self.channels.lock();
        let Channels { waiting, weight: together } = &mut *channels;
        let Some(waiting) = waiting.get_mut(key) else { return Some(message) };
        let (bytes, weight) = (waiting.bytes + message.length, weight(&message));
        let fits =
            waiting.messages.len() < MOST && bytes <= MOST_BYTES && *together + weight <= MOST_TOGETHER;
        // Behind one that did not fit, none is of use.
        if fits && !waiting.overflown {
            waiting.bytes = bytes;
            waiting.weight += weight;
            *together += weight;
            waiting.messages.push(message);
        } else {
            waiting.overflown = true;
        }
        None
    }
}

impl Channels {
    fn remove(&mut self, key: &str, count: &AtomicUsize) {
        if let Some(waiting) = self.waiting.remove(key) {
            self.weight -= waiting.weight;
            count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Opening<'_> {
    /// Applies what has waited. `false` if not all of it could wait. What arrives later comes behind: until all is applied, the
    /// channel counts as one that waits, so that nothing passes without a look at the lock.
    pub(in super::super) fn apply(self, apply: impl FnMut(&Message)) -> bool {
        let mut channels = self.early.channels.lock();
        let Some(waiting) = channels.waiting.get_mut(self.key) else { return true };
        let overflown = waiting.overflown;
        std::mem::take(&mut waiting.messages).iter().for_each(apply);
        channels.remove(self.key, &self.early.count);
        !overflown
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.early.channels.lock().remove(self.key, &self.early.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str) -> Message {
        Message {
            subject: "tide.live.chat.a".into(),
            reply: None,
            payload: text.into(),
            headers: None,
            status: None,
            description: None,
            length: text.len(),
        }
    }

    #[test]
    fn publications_wait_in_their_order_until_they_are_applied() {
        let early = Early::default();
        assert!(early.keep("chat.a", message("before")).is_some());
        let opening = early.open("chat.a");
        assert!(early.keep("chat.b", message("of another channel")).is_some());
        for text in ["1", "2"] {
            assert!(early.keep("chat.a", message(text)).is_none());
        }
        let mut applied = Vec::new();
        assert!(opening.apply(|message| {
            assert!(!early.is_empty(), "a later one would overtake those that are not applied yet");
            applied.push(message.payload.clone());
        }));
        assert!(early.is_empty());
        assert_eq!(applied, ["1", "2"]);
        assert!(early.keep("chat.a", message("after")).is_some());
    }

    #[test]
    fn a_wait_that_is_given_up_keeps_nothing() {
        let early = Early::default();
        let opening = early.open("chat.a");
        assert!(early.keep("chat.a", message("1")).is_none());
        drop(opening);
        assert!(early.keep("chat.a", message("2")).is_some());
        assert!(early.is_empty());
    }

    #[test]
    fn more_than_may_wait_is_reported() {
        let early = Early::default();
        let opening = early.open("chat.a");
        for _ in 0..=MOST {
            early.keep("chat.a", message("1"));
        }
        let mut applied = 0;
        assert!(!opening.apply(|_| applied += 1));
        assert_eq!(applied, MOST);
    }
    #[test]
    fn what_waits_is_bounded_over_all_channels() {
        let early = Early::default();
        let text: &'static str = "x".repeat(1 << 20).leak();
        let keys: Vec<String> = (0..20).map(|n| format!("chat.{n}")).collect();
        let openings: Vec<_> = keys.iter().map(|key| early.open(key)).collect();
        for _ in 0..7 {
            for key in &keys {
                early.keep(key, message(text));
            }
        }
        let held = || early.channels.lock().weight;
        assert!(held() <= MOST_TOGETHER && held() > MOST_TOGETHER - (2 << 20), "{}", held());
        let whole = openings.into_iter().filter_map(|opening| opening.apply(|_| {}).then_some(())).count();
        assert_eq!(whole, 0, "each lacks some, and says so");
        assert_eq!(held(), 0);
    }
}
