//! Attending to the messages of one consumer, a bounded number at a time, until the process drains: pulls them, keeps them alive
//! while somebody works on them, then acknowledges them or gives them back. What the work is, the caller says.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, AckKind};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{PullError, Puller};
use crate::lifecycle::Lifecycle;

/// The pause after a pull that failed.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause before a message is tried again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long the broker may take to confirm an acknowledgement. Without it, the message comes again.
const ACK_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attended {
    /// It is done with.
    Done,
    /// It comes again after this time.
    Again(Duration),
}

/// Pulls until the process drains. `work` is called for each message, for at most `at_a_time` of them at once; the broker delivers one
/// again that is not kept alive for `ack_wait`.
pub async fn attend<F, W>(
    mut puller: Puller,
    at_a_time: usize,
    ack_wait: Duration,
    lifecycle: &Lifecycle,
    work: F,
) where
    F: Fn(Arc<jetstream::Message>) -> W,
    W: Future<Output = Attended> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(at_a_time));
    loop {
        let pulled = tokio::select! {
            biased;
            () = lifecycle.draining() => break,
            pulled = pull_once(&mut puller, &places, ack_wait, lifecycle, &work) => pulled,
        };
        if let Err(error) = pulled {
            // What others would meet too is a fault, which is logged as such.
            tracing::debug!(%error, "a pull failed: trying again");
            tokio::select! {
                () = lifecycle.draining() => break,
                () = sleep(PAUSE) => {}
            }
        }
    }
    while let Some(message) = puller.rest().await {
        give_back(&message, Duration::ZERO).await;
    }
}

/// The pause before the next try of a message that was delivered so often: a second, then twice as long each time, up to a minute.
pub fn retry_pause(delivered: i64) -> Duration {
    let doublings = u32::try_from(delivered.clamp(1, 7) - 1).unwrap_or(0);
    Duration::from_secs(1 << doublings).min(LONGEST_PAUSE)
}

async fn pull_once<F, W>(
    puller: &mut Puller,
    places: &Arc<Semaphore>,
    ack_wait: Duration,
    lifecycle: &Lifecycle,
    work: &F,
) -> Result<(), PullError>
where
    F: Fn(Arc<jetstream::Message>) -> W,
    W: Future<Output = Attended> + Send + 'static,
{
    // One place is enough to begin: it is given back at once.
    drop(places.acquire().await);
    puller.ask(places.available_permits().max(1)).await?;
    while let Some(message) = puller.next().await? {
        let (message, places) = (Arc::new(message), Arc::clone(places));
        let working = work(Arc::clone(&message));
        lifecycle.spawn(async move {
            let _place = places.acquire_owned().await;
            let settled = async {
                match working.await {
                    Attended::Done => acknowledge(&message).await,
                    Attended::Again(pause) => give_back(&message, pause).await,
                }
            };
            tokio::select! {
                () = settled => {}
                () = keep_alive(&message, ack_wait / 3) => {}
            }
        });
    }
    Ok(())
}

async fn acknowledge(message: &jetstream::Message) {
    if !matches!(timeout(ACK_LIMIT, message.double_ack()).await, Ok(Ok(()))) {
        tracing::debug!(nats.subject = %message.subject, "an acknowledgement is not confirmed: the message comes again");
    }
}

async fn give_back(message: &jetstream::Message, pause: Duration) {
    if let Err(error) = message.ack_with(AckKind::Nak(Some(pause))).await {
        tracing::debug!(%error, "a message could not be given back: it comes again after ack_wait");
    }
}

/// Tells the broker every `interval` that the message is being worked on. Never ends.
async fn keep_alive(message: &jetstream::Message, interval: Duration) {
    loop {
        sleep(interval).await;
        if let Err(error) = message.ack_with(AckKind::Progress).await {
            tracing::debug!(%error, "an in-progress acknowledgement could not be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tried_again_ever_less_often_and_at_least_once_a_minute() {
        let pauses: Vec<u64> =
            [1, 2, 3, 7, 1_000_000].map(|delivered| retry_pause(delivered).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 60, 60]);
    }
}
