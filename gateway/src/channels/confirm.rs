//! Confirms publications of services in namespaces without history, where no stream does. Never waits, and never answers on a
//! subject that is not a service's inbox: the broker does not check reply subjects.

use async_nats::Subject;
use bytes::Bytes;
use tidegate_shared::{broker::Broker, config::NatsUser, lifecycle::Lifecycle};
use tokio::sync::mpsc;

/// What a confirmed request is answered: an acknowledgement as libraries read it, without a stream and a sequence.
const TAKEN: &str = r#"{"stream":"none","seq":0}"#;
/// Confirmations that may wait to be sent. Those beyond it are left out, and the service is told nothing.
const WAITING: usize = 4096;

/// Sends confirmations.
pub(super) struct Confirmations {
    inboxes: String,
    queue: mpsc::Sender<Subject>,
}

impl Confirmations {
    /// Confirms what this user publishes.
    pub(super) fn start(broker: &Broker, service: &NatsUser, lifecycle: &Lifecycle) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Subject>(WAITING);
        let (client, ending) = (broker.client().clone(), lifecycle.clone());
        lifecycle.spawn_essential("confirming publications", async move {
            loop {
                let inbox = tokio::select! {
                    inbox = waiting.recv() => inbox,
                    () = ending.finishing() => return,
                };
                let Some(inbox) = inbox else { return };
                if let Err(error) = client.publish(inbox, Bytes::from_static(TAKEN.as_bytes())).await {
                    tracing::debug!(%error, "a publication of a service was not confirmed");
                }
            }
        });
        Self { inboxes: inboxes_of(&service.user), queue }
    }

    /// Confirms a publication that was sent as a request.
    pub(super) fn confirm(&self, reply: &Subject) {
        if reply.starts_with(&self.inboxes) {
            let _ = self.queue.try_send(reply.clone());
        }
    }
}

fn inboxes_of(user: &str) -> String {
    format!("_INBOX_{user}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reply_goes_to_an_inbox_of_the_service_and_nowhere_else() {
        let (queue, mut waiting) = mpsc::channel(8);
        let confirmations = Confirmations { inboxes: inboxes_of("service"), queue };
        for reply in ["tide.live.chat.a", "_INBOX_gateway.a", "_INBOX_service", "_INBOX_serviceb.a", "_R_.a"]
        {
            confirmations.confirm(&reply.into());
        }
        assert!(waiting.try_recv().is_err());
        confirmations.confirm(&"_INBOX_service.a.b".into());
        assert_eq!(waiting.recv().await.unwrap().as_str(), "_INBOX_service.a.b");
    }
}
