//! Writes what a fan-out has queued: the sockets whose outboxes it has filled, one after the other, outside of every
//! channel's lock.
//!
//! So a delivery wakes no task, and what comes for a socket before its turn is joined into one write. Never waits for a
//! client: a socket that takes nothing is left to its connection.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tidegate_shared::lifecycle::Lifecycle;
use tokio::{runtime::Handle, sync::Notify, task::yield_now};

use super::Outbox;

/// Sockets written in one turn. Then other tasks have theirs.
const TURN: usize = 256;

/// The outboxes that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    waiting: Mutex<VecDeque<Arc<Outbox>>>,
    filled: Notify,
}

impl Flusher {
    /// Starts as many writers as there are threads, so that a large fan-out is spread over them.
    pub(crate) fn start(lifecycle: &Lifecycle) -> Arc<Self> {
        let this = Arc::new(Self::default());
        for _ in 0..Handle::current().metrics().num_workers() {
            lifecycle.spawn_essential("writer of publications", Arc::clone(&this).run(lifecycle.clone()));
        }
        this
    }

    /// Hands over outboxes that have something to write.
    pub(super) fn add(&self, outboxes: Vec<Arc<Outbox>>) {
        let mut waiting = self.waiting.lock();
        waiting.extend(outboxes);
        let turns = waiting.len().div_ceil(TURN);
        drop(waiting);
        for _ in 0..turns {
            self.filled.notify_one();
        }
    }

    async fn run(self: Arc<Self>, lifecycle: Lifecycle) {
        let mut turn = Vec::with_capacity(TURN);
        loop {
            let filled = self.filled.notified();
            self.take(&mut turn);
            if turn.is_empty() {
                tokio::select! {
                    () = filled => continue,
                    () = lifecycle.finishing() => return,
                }
            }
            for outbox in turn.drain(..) {
                outbox.flush();
            }
            yield_now().await;
        }
    }

    fn take(&self, turn: &mut Vec<Arc<Outbox>>) {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(TURN);
        turn.extend(waiting.drain(..count));
        if waiting.is_empty() && waiting.capacity() > 8 * TURN {
            *waiting = VecDeque::new();
        }
    }
}
