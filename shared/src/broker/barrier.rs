//! Waiting until the server has handled what this process sent before: one question to the server for all who wait at the same
//! time.
//!
//! A question is a request on a subject that nobody serves. The server reads what a connection sends in order, so its answer
//! "nobody is there" comes behind everything sent before. While one question is under way, all who come gather for the next.

use std::sync::Arc;

use async_nats::{Client, RequestErrorKind, Subject, connection::State};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{Link, Refusal};

/// Gathers those who wait.
#[derive(Debug)]
pub(super) struct Barrier {
    client: Client,
    subject: Subject,
    link: watch::Receiver<Link>,
    /// Where questions are asked. Callers may be on a runtime that ends sooner.
    runtime: Handle,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<oneshot::Sender<bool>>,
    /// Whether a task asks for those who wait.
    asking: bool,
}

/// Which connection to the server this is, counted from 1.
pub(super) fn connection_number(client: &Client) -> u64 {
    client.statistics().connects.load(std::sync::atomic::Ordering::Acquire)
}

impl Barrier {
    pub(super) fn new(client: Client, subject: String, link: watch::Receiver<Link>) -> Arc<Self> {
        let runtime = Handle::current();
        Arc::new(Self { client, subject: subject.into(), link, runtime, queue: Mutex::default() })
    }

    /// Begins to wait for what was sent before this call.
    pub(super) fn begin(self: &Arc<Self>) -> oneshot::Receiver<bool> {
        let (done, wait) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue.waiting.push(done);
        if !std::mem::replace(&mut queue.asking, true) {
            self.runtime.spawn(Arc::clone(self).ask_for_all());
        }
        wait
    }

    async fn ask_for_all(self: Arc<Self>) {
        loop {
            // Tasks that are ready to send do so first, and share the question.
            tokio::task::yield_now().await;
            let waiting = {
                let mut queue = self.queue.lock();
                queue.asking = !queue.waiting.is_empty();
                std::mem::take(&mut queue.waiting)
            };
            if waiting.is_empty() {
                return;
            }
            let answered = self.ask().await;
            for one in waiting {
                // Whoever waited may have given up.
                let _ = one.send(answered);
            }
        }
    }

    /// Whether the server answered over the connection on which it was asked.
    async fn ask(&self) -> bool {
        let connection = connection_number(&self.client);
        if self.client.connection_state() != State::Connected {
            return false;
        }
        let mut link = self.link.clone();
        // Without this a question that is lost with its connection would be waited for until its time is over.
        // What is known of the link may be a moment older than the connection.
        let lost =
            link.wait_for(|link| link.connects > connection || link.connects == connection && !link.up);
        let answer = tokio::select! {
            answer = self.client.request(self.subject.clone(), Bytes::new()) => answer,
            _ = lost => return false,
        };
        let answered = answer.map_or_else(|error| error.kind() == RequestErrorKind::NoResponders, |_| true);
        answered && connection_number(&self.client) == connection
    }
}

/// The server did not answer.
pub(super) fn unanswered() -> Refusal {
    Refusal::Unavailable("the server has not confirmed what was sent".to_owned())
}
