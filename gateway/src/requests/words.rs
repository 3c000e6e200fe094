//! The words on several answers that a worker has handed over together. They go to it together.

use parking_lot::Mutex;
use tidegate_shared::confirmation::Confirmation;
use tokio::sync::Notify;

/// The words on the answers of one message, in their order.
#[derive(Debug)]
pub(crate) struct Words {
    said: Mutex<Said>,
    complete: Notify,
}

#[derive(Debug)]
struct Said {
    words: Vec<Option<Confirmation>>,
    missing: usize,
}

impl Words {
    pub(crate) fn new(count: usize) -> Self {
        let said = Said { words: vec![None; count], missing: count };
        Self { said: Mutex::new(said), complete: Notify::new() }
    }

    /// Says the word on one of them. The first one counts.
    pub(crate) fn say(&self, which: usize, word: Confirmation) {
        let mut said = self.said.lock();
        if let Some(place @ None) = said.words.get_mut(which) {
            *place = Some(word);
            said.missing -= 1;
            if said.missing == 0 {
                self.complete.notify_one();
            }
        }
    }

    /// Waits until there is a word on each.
    pub(crate) async fn all(&self) {
        while self.said.lock().missing > 0 {
            self.complete.notified().await;
        }
    }

    pub(crate) fn so_far(&self) -> Vec<Option<Confirmation>> {
        self.said.lock().words.clone()
    }
}
