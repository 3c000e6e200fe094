//! Callers that are gone: on a route with `cancel_when_gone`, a plain request whose client's connection has ended is not worked on.
//!
//! Its gateway knows best: it is asked before each attempt, and it says by itself when a connection ends. Without a word the request
//! runs.

use std::time::Duration;

use async_nats::Request;
use tidegate_shared::{envelope::AnswerWay, id::ClientId};

use super::Settlement;

/// How long a gateway may take for its word.
const ASK_LIMIT: Duration = Duration::from_millis(500);

impl Settlement {
    /// The connection whose end cancels the request. `None` if none does.
    pub(super) fn caller(&self) -> Option<ClientId> {
        if !self.route.config.cancel_when_gone || self.request.answer_way() != AnswerWay::HandedOver {
            return None;
        }
        ClientId::parse(self.request.client.as_deref()?)
    }

    /// Whether the caller's gateway says that the connection has ended.
    pub(super) async fn is_caller_gone(&self) -> bool {
        let Some(client) = self.caller() else { return false };
        if !self.engine.broker.is_connected() {
            return false;
        }
        let question = Request::new().payload("".into()).timeout(Some(ASK_LIMIT));
        let subject = self.engine.subjects.connected(&client);
        match self.engine.broker.client().send_request(subject, question).await {
            Ok(word) => &*word.payload == b"gone",
            Err(error) => {
                tracing::debug!(request.id = %self.request.id, %error, "no gateway says whether a caller is there");
                false
            }
        }
    }
}
