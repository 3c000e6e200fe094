//! The readers of channels' NATS subscriptions. Many subscriptions share one: a queue, bounded in bytes, and a task that handles what
//! is in it, in order. All messages of a channel go through the same reader. Never waits for a client.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use async_nats::{Message, MessageSink};
use parking_lot::Mutex;
use tidegate_shared::lifecycle::Lifecycle;
use tokio::{sync::Notify, task::yield_now};

pub(super) mod early;

/// What may wait to be handled, over all readers. Messages beyond it are dropped, and reported as those of a subscription that is
/// not read fast enough.
const MOST_WAITING: usize = 64 << 20;
/// The most readers. One handles a few hundred thousand deliveries a second.
const MOST_READERS: usize = 8;
/// Roughly what a message needs beside its bytes: itself, and the map of its headers.
const OVERHEAD: usize = 1024;
/// After so many messages and deliveries other tasks have their turn; before, all that has come since the reader's last turn is handled.
/// With fewer, the connections that publish would have more turns than the reader that delivers, and what waits would grow.
const AT_ONCE: usize = 4096;
/// After so many bytes of messages too. What a socket has taken shows only in a turn of others: with more, a client that reads would
/// look like one that does not.
const BYTES_AT_ONCE: usize = 256 * 1024;
/// A queue that was longer than this gives its memory back.
const KEPT_LONG: usize = 1024;

/// All readers.
pub(super) struct Readers {
    hasher: RandomState,
    readers: Vec<Arc<Reader>>,
}

/// One queue.
pub(super) struct Reader {
    queue: Mutex<VecDeque<Message>>,
    /// What is in the queue or being handled, in bytes.
    held: AtomicUsize,
    most: usize,
    news: Notify,
}

/// What is done with messages.
pub(super) trait Handle: Send + Sync + 'static {
    /// Handles a message. Must not block. Returns to how many clients it was delivered.
    fn handle(&self, message: Message) -> usize;

    /// Handling a message on this subject has panicked.
    fn failed(&self, subject: &str);
}

impl Readers {
    /// As many readers as this process has cores.
    pub(super) fn start(handle: &Arc<impl Handle>, lifecycle: &Lifecycle) -> Self {
        let count = available_parallelism().map_or(1, usize::from).min(MOST_READERS);
        let readers = (0..count).map(|_| Reader::new(MOST_WAITING / count)).collect::<Vec<_>>();
        for reader in &readers {
            let (reader, handle, lifecycle2) = (Arc::clone(reader), Arc::clone(handle), lifecycle.clone());
            lifecycle.spawn_essential("receiving channels", async move {
                tokio::select! {
                    () = reader.run(&*handle) => {}
                    () = lifecycle2.finishing() => {}
                }
            });
        }
        Self { hasher: RandomState::new(), readers }
    }

    /// The reader of a channel.
    pub(super) fn of(&self, channel: &str) -> Option<Arc<Reader>> {
        let readers = u64::try_from(self.readers.len()).ok().filter(|readers| *readers > 0)?;
        let index = usize::try_from(self.hasher.hash_one(channel) % readers).ok()?;
        self.readers.get(index).map(Arc::clone)
    }
}

impl Reader {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), held: AtomicUsize::new(0), most, news: Notify::new() })
    }

    /// Handles what comes, for ever.
    async fn run(&self, handle: &impl Handle) {
        let (mut batch, mut handled, mut read) = (VecDeque::new(), 0, 0);
        loop {
            std::mem::swap(&mut batch, &mut *self.queue.lock());
            if batch.is_empty() {
                self.news.notified().await;
                continue;
            }
            while let Some(message) = batch.pop_front() {
                let (bytes, subject) = (weight(&message), message.subject.clone());
                read += message.length;
                match catch_unwind(AssertUnwindSafe(|| handle.handle(message))) {
                    Ok(deliveries) => handled += 1 + deliveries,
                    Err(_) => handle.failed(&subject),
                }
                self.held.fetch_sub(bytes, Ordering::AcqRel);
                if handled >= AT_ONCE || read >= BYTES_AT_ONCE {
                    (handled, read) = (0, 0);
                    yield_now().await;
                }
            }
            (handled, read) = (0, 0);
            yield_now().await;
            if batch.capacity() > KEPT_LONG {
                batch = VecDeque::new();
            }
        }
    }
}

impl MessageSink for Reader {
    fn take(&self, message: Message) -> bool {
        let bytes = weight(&message);
        let before = self.held.fetch_add(bytes, Ordering::AcqRel);
        if before > 0 && before + bytes > self.most {
            self.held.fetch_sub(bytes, Ordering::AcqRel);
            return false;
        }
        let first = {
            let mut queue = self.queue.lock();
            queue.push_back(message);
            queue.len() == 1
        };
        if first {
            self.news.notify_one();
        }
        true
    }
}

fn weight(message: &Message) -> usize {
    message.length + OVERHEAD
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    fn message(subject: &str, bytes: usize) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: bytes::Bytes::from(vec![b'x'; bytes]),
            headers: None,
            status: None,
            description: None,
            length: bytes,
        }
    }

    #[derive(Default)]
    struct Seen {
        handled: Mutex<Vec<String>>,
        failed: Mutex<Vec<String>>,
        news: Notify,
    }

    impl Handle for Seen {
        fn handle(&self, message: Message) -> usize {
            assert!(!message.subject.contains("planted"));
            self.handled.lock().push(message.subject.to_string());
            self.news.notify_one();
            1
        }

        fn failed(&self, subject: &str) {
            self.failed.lock().push(subject.to_owned());
        }
    }

    impl Seen {
        async fn has(&self, subjects: &[&str]) {
            let all = async {
                while *self.handled.lock() != subjects {
                    self.news.notified().await;
                }
            };
            timeout(Duration::from_secs(10), all).await.expect("all are handled");
        }
    }

    #[tokio::test]
    async fn a_panic_in_one_message_is_reported_and_the_others_are_handled_in_order() {
        let (seen, lifecycle) = (Arc::new(Seen::default()), Lifecycle::new());
        let readers = Readers::start(&seen, &lifecycle);
        let reader = readers.of("chat.lobby").unwrap();
        for subject in ["a", "planted", "b", "c"] {
            assert!(reader.take(message(subject, 1)));
        }
        seen.has(&["a", "b", "c"]).await;
        assert_eq!(*seen.failed.lock(), ["planted"]);
        assert_eq!(reader.held.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn others_have_their_turn_after_a_bounded_number_of_bytes() {
        let (seen, reader) = (Seen::default(), Reader::new(1 << 20));
        assert!((0..400).all(|_| reader.take(message("chat.lobby", 1024))));
        let turn = async { seen.handled.lock().len() };
        let handled = tokio::select! {
            biased;
            () = reader.run(&seen) => 0,
            handled = turn => handled,
        };
        assert_eq!(handled, 256);
    }

    #[test]
    fn a_channel_has_always_the_same_reader() {
        let readers = (0..4).map(|_| Reader::new(1)).collect();
        let readers = Readers { hasher: RandomState::new(), readers };
        let [first, again] = [(), ()].map(|()| readers.of("chat.lobby").unwrap());
        assert!(Arc::ptr_eq(&first, &again));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_there_is_room_again_when_it_is_handled() {
        let reader = Reader::new(10_000);
        assert!(reader.take(message("large", 100_000)), "a message longer than the bound passes alone");
        assert!(!reader.take(message("b", 1)));
        let seen = Seen::default();
        let reading = reader.run(&seen);
        tokio::select! {
            () = reading => {}
            () = seen.has(&["large"]) => {}
        }
        let reader = Reader::new(10_000);
        let taken = (0..100).filter(|_| reader.take(message("small", 1000))).count();
        assert_eq!(taken, 4, "each weighs 2,024 bytes");
    }
}
