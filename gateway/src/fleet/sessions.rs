//! The sessions of this gateway that receive commands by POST. Handles only, never connections.
//!
//! There is one per such connection, which the listener limits. A session name is a secret of 128 bits: its holder can
//! send commands for the client.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_shared::id::{GatewayId, random_token};
use tokio::sync::mpsc;

/// Messages that may wait for one session.
const WAITING: usize = 8;
/// How long a message may wait for room among them.
const OFFER_LIMIT: Duration = Duration::from_secs(1);

/// Why commands were not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// No gateway, or no session on it, has this name.
    Unknown,
    /// The session has not read earlier commands yet.
    Busy,
    /// The session's gateway does not answer.
    Unreachable,
}

/// The sessions by name.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    inboxes: Mutex<HashMap<Arc<str>, mpsc::Sender<Bytes>>>,
}

/// The receiving end of one session. Dropping it ends the session.
#[derive(Debug)]
pub(crate) struct Inbox {
    session: Arc<str>,
    node: GatewayId,
    commands: mpsc::Receiver<Bytes>,
    sessions: Arc<Sessions>,
}

impl Sessions {
    pub(super) fn open(this: &Arc<Self>, node: GatewayId) -> Inbox {
        let session: Arc<str> = random_token::<16>().into();
        let (sender, commands) = mpsc::channel(WAITING);
        this.inboxes.lock().insert(Arc::clone(&session), sender);
        Inbox { session, node, commands, sessions: Arc::clone(this) }
    }

    /// Hands posted commands to a session. Waits up to `OFFER_LIMIT` when it is busy.
    pub(super) async fn offer(&self, session: &str, data: Bytes) -> Result<(), Undelivered> {
        let sender = self.inboxes.lock().get(session).cloned().ok_or(Undelivered::Unknown)?;
        sender.send_timeout(data, OFFER_LIMIT).await.map_err(|error| match error {
            mpsc::error::SendTimeoutError::Timeout(_) => Undelivered::Busy,
            mpsc::error::SendTimeoutError::Closed(_) => Undelivered::Unknown,
        })
    }
}

impl Inbox {
    /// The next message. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.commands.recv().await
    }

    /// The session's name.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// The gateway that holds the session.
    pub(crate) fn node(&self) -> &str {
        self.node.as_str()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.sessions.inboxes.lock().remove(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_takes_a_bounded_number_of_messages_and_ends_with_its_inbox() {
        let sessions = Arc::new(Sessions::default());
        let mut inbox = Sessions::open(&sessions, GatewayId::random());
        let session = inbox.session().to_owned();
        for _ in 0..WAITING {
            sessions.offer(&session, "{}".into()).await.unwrap();
        }
        assert_eq!(sessions.offer(&session, "{}".into()).await, Err(Undelivered::Busy));
        assert_eq!(inbox.next().await.unwrap(), "{}");
        sessions.offer(&session, "{}".into()).await.unwrap();
        drop(inbox);
        assert_eq!(sessions.offer(&session, "{}".into()).await, Err(Undelivered::Unknown));
        assert!(sessions.inboxes.lock().is_empty(), "the session is removed");
    }
}
