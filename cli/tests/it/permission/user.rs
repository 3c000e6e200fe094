//! A connection of one user that does as it likes, and notes what it receives.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, HeaderMap};
use futures_util::StreamExt;
use tidegate_cli::stack::Stack;
use tidegate_shared::access::{Access, Account};
use tokio::task::JoinSet;

use super::trigger;

/// The body of what `settled` sends.
const SETTLED: &str = "settled";

pub(super) struct User {
    pub(super) account: Account,
    pub(super) client: Client,
    received: Arc<Mutex<Vec<String>>>,
    listening: Mutex<JoinSet<()>>,
}

impl User {
    pub(super) async fn connect(stack: &Stack, account: Account) -> Self {
        let user = account.user(stack.config()).unwrap().clone();
        let client =
            ConnectOptions::with_user_and_password(user.user.clone(), user.password.expose().to_owned())
                .custom_inbox_prefix(format!("_INBOX_{}", user.user))
                .request_timeout(Some(Duration::from_secs(10)))
                .connect(stack.nats_url())
                .await
                .unwrap();
        Self { account, client, received: Arc::default(), listening: Mutex::default() }
    }

    /// Listens, notes what arrives, and answers every request with the request itself: no program is that careless.
    pub(super) async fn listen(&self, subjects: impl IntoIterator<Item = String>) {
        for subject in subjects {
            let mut messages = self.client.subscribe(subject).await.unwrap();
            let (client, received) = (self.client.clone(), Arc::clone(&self.received));
            self.listening.lock().unwrap().spawn(async move {
                while let Some(message) = messages.next().await {
                    if message.payload != SETTLED {
                        received.lock().unwrap().push(message.subject.to_string());
                    }
                    if let Some(reply) = message.reply {
                        let _ = client.publish(reply, message.payload).await;
                    }
                }
            });
        }
    }

    /// Listens to all that the user is meant to receive, but not to its inbox.
    pub(super) async fn serve(&self, access: &Access) {
        let subjects = access.subscribes(self.account);
        self.listen(subjects.into_iter().filter(|subject| !subject.starts_with("_INBOX"))).await;
        self.settled().await;
    }

    /// The subjects of what has arrived since the last call.
    pub(super) fn take_received(&self) -> Vec<String> {
        std::mem::take(&mut self.received.lock().unwrap())
    }

    pub(super) async fn publish(&self, subject: &str, reply: Option<&str>, headers: HeaderMap, body: &str) {
        let (subject, body) = (subject.to_owned(), body.to_owned().into());
        match reply {
            Some(reply) => {
                self.client.publish_with_reply_and_headers(subject, reply.to_owned(), headers, body).await
            }
            None => self.client.publish_with_headers(subject, headers, body).await,
        }
        .unwrap();
    }

    /// Waits until the server has handled everything that this user has sent: it handles one after the other.
    pub(super) async fn settled(&self) {
        let call = trigger::all(self.account, 0, SETTLED).swap_remove(0);
        self.client.request(call.subject, call.body.into()).await.unwrap();
    }
}
