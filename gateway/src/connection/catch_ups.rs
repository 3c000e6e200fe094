//! The subscriptions of one connection whose backlog comes in parts. `catch_up` brings them further.

use std::sync::Arc;

use tidegate_shared::channel::Channel;

use crate::channels::feed::{Feed, JoinOptions, Resume};

/// A subscription whose client has the beginning of its backlog.
pub(super) struct CatchUp {
    pub(super) feed: Arc<Feed>,
    /// What the client has.
    pub(super) has: Resume,
    /// What it joins with.
    pub(super) options: JoinOptions,
}

/// The catch-ups of one connection.
#[derive(Default)]
pub(super) struct CatchUps {
    running: Vec<(u32, CatchUp)>,
    /// Those that begin when the reply to `connect` is sent.
    pub(super) waiting: Vec<CatchUp>,
    next: u32,
}

impl CatchUp {
    /// For a client that has everything up to an offset, and was to join with these options.
    pub(super) fn new(
        feed: Arc<Feed>,
        epoch: Option<&str>,
        offset: u64,
        options: Option<JoinOptions>,
    ) -> Self {
        let epoch = epoch.unwrap_or_default().to_owned();
        Self { feed, has: Resume { offset, epoch }, options: options.unwrap_or_default() }
    }
}

impl CatchUps {
    /// Whether none waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn begin(&mut self, one: CatchUp) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.running.push((number, one));
        number
    }

    pub(super) fn take(&mut self, number: u32) -> Option<CatchUp> {
        let index = self.running.iter().position(|(running, _)| *running == number)?;
        Some(self.running.swap_remove(index).1)
    }

    pub(super) fn forget(&mut self, channel: &Channel) {
        self.running.retain(|(_, one)| one.feed.channel() != channel);
        self.waiting.retain(|one| one.feed.channel() != channel);
    }
}
