//! What is to be sent to the same place at the same time goes together.
//!
//! There is no timer. The task that sends comes, on a runtime of one thread, behind all tasks that are ready, so it finds what those
//! hand over; and nothing waits for a round before it.

use tokio::{sync::mpsc, task::JoinSet};

/// The most that may wait to be sent. Further ones wait to be taken.
const QUEUE: usize = 1024;

/// Sends what is handed over, round by round.
#[derive(Debug)]
pub(crate) struct Gather<T> {
    queue: mpsc::Sender<T>,
    _gathering: JoinSet<()>,
}

impl<T: Send + 'static> Gather<T> {
    /// Starts on this runtime, with what sends a round of at most `most`. It ends with the value.
    pub(crate) fn start<F>(most: usize, round: impl Fn(Vec<T>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (queue, mut waits) = mpsc::channel(QUEUE);
        let mut gathering = JoinSet::new();
        gathering.spawn(async move {
            let mut rounds = JoinSet::new();
            loop {
                let mut together = Vec::new();
                tokio::select! {
                    biased;
                    Some(_) = rounds.join_next(), if !rounds.is_empty() => continue,
                    count = waits.recv_many(&mut together, most) => if count == 0 { return },
                }
                rounds.spawn(round(together));
            }
        });
        Self { queue, _gathering: gathering }
    }

    /// Hands something over.
    pub(crate) async fn add(&self, one: T) {
        // The task ends with this value.
        let _ = self.queue.send(one).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_tasks_hand_over_at_the_same_time_goes_together() {
        let (sent, mut sends) = mpsc::channel(9);
        let gather = std::sync::Arc::new(Gather::start(4, move |round: Vec<u32>| {
            let sent = sent.clone();
            async move { sent.send(round).await.unwrap() }
        }));
        let mut tasks = JoinSet::new();
        for number in 0..6 {
            let gather = std::sync::Arc::clone(&gather);
            tasks.spawn(async move { gather.add(number).await });
        }
        assert_eq!(sends.recv().await.unwrap(), [0, 1, 2, 3]);
        assert_eq!(sends.recv().await.unwrap(), [4, 5]);
    }
}
