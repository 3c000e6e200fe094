//! What a service sends with the NATS user `service`: publications in every channel and on personal channels, each repeated
//! until it is acknowledged, and messages for single connections.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, jetstream};
use tidegate_cli::stack::Stack;
use tidegate_shared::{channel::Channel, header, id::ClientId, subject::Subjects};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{load::json, numbers::Numbers, user::User};
use crate::{job::Stamp, publisher::connect_as_service};

/// The name of the service as a sender.
pub(super) const SERVICE: &str = "service";
/// How often it sends: each time in one channel, to one user and to one connection.
const EVERY: Duration = Duration::from_millis(150);
/// The limit of one acknowledgement.
const ACK_LIMIT: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(50);

/// The service, and how much it has sent.
#[derive(Debug)]
pub(super) struct Service {
    jetstream: jetstream::Context,
    subjects: Subjects,
    users: Vec<Arc<User>>,
    channels: Vec<String>,
}

/// How much was stored in each channel and on the personal channel of each user.
#[derive(Debug, Default)]
pub(super) struct ServiceSent {
    pub(super) channels: Vec<Numbers>,
    pub(super) users: Vec<Numbers>,
    pub(super) pushes: u64,
}

impl Service {
    pub(super) async fn connect(
        stack: &Stack,
        users: Vec<Arc<User>>,
        channels: Vec<String>,
    ) -> anyhow::Result<Self> {
        let mut jetstream = jetstream::new(connect_as_service(stack).await?);
        jetstream.set_timeout(ACK_LIMIT);
        Ok(Self { jetstream, subjects: stack.config().subjects(), users, channels })
    }

    /// Sends until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) -> anyhow::Result<ServiceSent> {
        let mut sent = ServiceSent {
            channels: vec![Numbers::default(); self.channels.len()],
            users: vec![Numbers::default(); self.users.len()],
            pushes: 0,
        };
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for turn in 0.. {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let place = turn % self.channels.len().max(1);
            if let (Some(channel), Some(numbers)) = (self.channels.get(place), sent.channels.get_mut(place)) {
                self.store(&Channel::parse(channel)?, channel, numbers).await;
            }
            let place = turn % self.users.len().max(1);
            if let (Some(user), Some(numbers)) = (self.users.get(place), sent.users.get_mut(place)) {
                self.store(&Channel::personal(&user.name), &user.name, numbers).await;
                sent.pushes += u64::from(self.push(user, turn as u64).await);
            }
        }
        Ok(sent)
    }

    /// Publishes the next number until it is acknowledged.
    async fn store(&self, channel: &Channel, to: &str, numbers: &mut Numbers) {
        let n = numbers.len() as u64;
        let stamp = Stamp { to: to.to_owned(), by: SERVICE.to_owned(), n, run: 0 };
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(header::MSG_ID, format!("{SERVICE}-{}-{n}", channel.name()));
            let subject = self.subjects.channel(channel);
            let sent = self.jetstream.publish_with_headers(subject, headers, json(&stamp)).await;
            if let Ok(sent) = sent
                && sent.await.is_ok()
            {
                numbers.insert(n);
                return;
            }
            sleep(AGAIN).await;
        }
    }

    /// Sends a message to the connection that the user has now. Nobody stores it.
    async fn push(&self, user: &User, n: u64) -> bool {
        let Some(id) = user.client().and_then(|client| ClientId::parse(client.id())) else { return false };
        let stamp = Stamp { to: user.name.clone(), by: SERVICE.to_owned(), n, run: 0 };
        let client = self.jetstream.client();
        client.publish(self.subjects.push_client(&id), json(&stamp)).await.is_ok()
    }
}
