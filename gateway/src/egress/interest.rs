//! Which channels this gateway receives: one NATS subscription per channel with local subscribers, counted, and kept a few
//! seconds longer than needed, since clients that reconnect subscribe again at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use tidegate_shared::channel::Channel;
use tokio::{
    sync::OnceCell,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::Egress;
use crate::feed::Feed;

/// How long a subscription outlives its last subscriber.
const LINGER: Duration = Duration::from_secs(5);

/// The channels this gateway receives.
pub(crate) struct Interests {
    egress: Egress,
    channels: Mutex<HashMap<Channel, Arc<Interest>>>,
}

struct Interest {
    feed: Arc<Feed>,
    ready: OnceCell<()>,
    stop: CancellationToken,
    state: Mutex<State>,
}

struct State {
    holders: usize,
    idle_since: Option<Instant>,
}

/// One subscriber's share in a channel's subscription; returned when dropped.
pub(crate) struct Held {
    interest: Arc<Interest>,
    pub(crate) feed: Arc<Feed>,
}

/// The broker did not take the subscription.
#[derive(Debug, thiserror::Error)]
#[error("the broker did not take the subscription: {0}")]
pub(crate) struct NotReceived(String);

impl Interests {
    pub(crate) fn new(egress: Egress) -> Arc<Self> {
        let this = Arc::new(Self { egress, channels: Mutex::default() });
        let sweeper = Arc::clone(&this);
        this.egress.lifecycle.spawn(async move { sweeper.sweep().await });
        this
    }

    /// Returns when the channel's publications reach this gateway.
    pub(crate) async fn hold(&self, channel: &Channel) -> Result<Held, NotReceived> {
        let held = self.take(channel);
        held.interest.ready.get_or_try_init(|| self.subscribe(channel, &held)).await?;
        Ok(held)
    }

    fn take(&self, channel: &Channel) -> Held {
        let mut channels = lock(&self.channels);
        let interest = channels.entry(channel.clone()).or_insert_with(|| {
            Arc::new(Interest {
                feed: self.egress.hub.enter(channel, |feed| {
                    feed.hold(true);
                    Arc::clone(feed)
                }),
                ready: OnceCell::new(),
                stop: CancellationToken::new(),
                state: Mutex::new(State { holders: 0, idle_since: None }),
            })
        });
        let mut state = lock(&interest.state);
        state.holders += 1;
        state.idle_since = None;
        drop(state);
        Held { interest: Arc::clone(interest), feed: Arc::clone(&interest.feed) }
    }

    async fn subscribe(&self, channel: &Channel, held: &Held) -> Result<(), NotReceived> {
        let failed = |error: &dyn std::error::Error| NotReceived(error.to_string());
        let broker = &self.egress.broker;
        let subject = self.egress.subjects.live(channel);
        let mut messages = broker.client().subscribe(subject).await.map_err(|e| failed(&e))?;
        let mut changes = None;
        if self.egress.presence.tells(channel) {
            let subject = self.egress.subjects.here(channel);
            changes = Some(broker.client().subscribe(subject).await.map_err(|e| failed(&e))?);
        }
        // Flushing would only empty our own buffer: the barrier's answer shows that the server has read the SUB.
        broker.barrier(self.egress.subjects.barrier()).await.map_err(|e| failed(&e))?;
        if let Some(beginning) = self.egress.history.beginning(channel).await.map_err(|e| failed(&e))? {
            held.feed.track(beginning.position, beginning.newest);
        }
        let (egress, stop) = (self.egress.clone(), held.interest.stop.clone());
        self.egress.lifecycle.spawn(async move {
            loop {
                tokio::select! {
                    message = messages.next() => match message {
                        Some(message) => egress.publication(&message),
                        None => return,
                    },
                    Some(change) = next_change(&mut changes) => egress.change(&change),
                    () = stop.cancelled() => return,
                    () = egress.lifecycle.finishing() => return,
                }
            }
        });
        Ok(())
    }

    /// Gives up what nobody has wanted for a while.
    async fn sweep(&self) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.egress.lifecycle.finishing() => return,
            }
            let now = Instant::now();
            lock(&self.channels).retain(|channel, interest| {
                let keep = lock(&interest.state).idle_since.is_none_or(|since| now < since + LINGER);
                if !keep {
                    interest.stop.cancel();
                    self.egress.hub.quit(channel, |feed| feed.hold(false));
                }
                keep
            });
        }
    }
}

/// The next that comes or leaves; nothing, ever, where nobody is told.
async fn next_change(changes: &mut Option<Subscriber>) -> Option<Message> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = lock(&self.interest.state);
        state.holders -= 1;
        if state.holders == 0 {
            state.idle_since = Some(Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
