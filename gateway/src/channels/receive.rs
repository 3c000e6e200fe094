//! From NATS to clients: answers, publications and pushes, handed to whoever waits or is there.
//!
//! One task a subscription; none of them ever waits for a client.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt;
use tidegate_shared::{
    broker::{Broker, header_number, stored_at},
    config::{Fanout, Namespace},
    envelope::{Answer, get},
    header,
    id::{ClientId, GatewayId},
    lifecycle::Lifecycle,
    protocol::{ClientInfo, Publication},
    subject::Subjects,
};

use super::history::History;
use crate::{
    channels::{
        feed::{Live, Taken},
        hub::Hub,
    },
    metrics::Metrics,
    presence::Presence,
    requests::{answers::Waiting, store::Ingress},
};

/// How often positions are compared with the streams though nothing has happened.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Between two tries while the broker is away.
const CHECK_PAUSE: Duration = Duration::from_millis(200);

/// What the tasks of this file share.
#[derive(Clone)]
pub(crate) struct Egress {
    pub(crate) broker: Broker,
    pub(crate) subjects: Subjects,
    pub(crate) hub: Arc<Hub>,
    pub(crate) history: Arc<History>,
    pub(crate) waiting: Waiting,
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) metrics: Metrics,
    pub(crate) lifecycle: Lifecycle,
}

impl Egress {
    /// Subscribes to everything that can be meant for this gateway's clients whatever channels they have, and waits until
    /// the broker knows.
    pub(crate) async fn start(&self, gateway: &GatewayId, namespaces: &[Namespace]) -> anyhow::Result<()> {
        let client = self.broker.client();
        let answers = client.subscribe(self.subjects.answers_of(gateway)).await?;
        let pushes = client.subscribe(self.subjects.pushes_of(gateway)).await?;
        let push_all = client.subscribe(self.subjects.push_all()).await?;
        let (mut publications, mut changes) = (Vec::new(), Vec::new());
        for namespace in namespaces.iter().filter(|namespace| namespace.fanout() == Fanout::Wildcard) {
            publications.push(client.subscribe(self.subjects.all_live(&namespace.name)).await?);
            if namespace.join_leave {
                changes.push(client.subscribe(self.subjects.all_here(&namespace.name)).await?);
            }
        }
        self.broker.barrier(self.subjects.barrier()).await?;
        self.history.refresh().await?;
        let this = self.clone();
        self.lifecycle.spawn(async move { this.watch_positions().await });
        self.spawn(answers, Self::answer);
        self.spawn(pushes, |this, message| this.push_client(&message));
        self.spawn(push_all, |this, message| this.push_all(&message));
        for publications in publications {
            self.spawn(publications, |this, message| this.publication(&message));
        }
        for changes in changes {
            self.spawn(changes, |this, message| this.change(&message));
        }
        Ok(())
    }

    fn spawn(&self, mut messages: Subscriber, handle: fn(&Self, Message)) {
        let this = self.clone();
        self.lifecycle.spawn(async move {
            loop {
                tokio::select! {
                    message = messages.next() => match message {
                        Some(message) => handle(&this, message),
                        None => return,
                    },
                    () = this.lifecycle.finishing() => return,
                }
            }
        });
    }

    fn answer(&self, message: Message) {
        let answer = match Answer::read(&message.headers.unwrap_or_default(), message.payload) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(subject = %message.subject, %error, "an answer that cannot be read");
                return;
            }
        };
        if let Err(late) = self.waiting.settle(answer) {
            self.metrics.late_answer();
            let ingress = Arc::clone(&self.ingress);
            self.lifecycle.spawn(async move { ingress.deliver_late(&late).await });
        }
    }

    pub(crate) fn publication(&self, message: &Message) {
        let Some(key) = self.subjects.live_key(&message.subject) else { return };
        let seq = header_number(message, "Nats-Sequence").unwrap_or_default();
        // Before the channel is looked up: who joins in between takes this as its position.
        if let Some((namespace, _)) = key.split_once('.') {
            self.history.see(namespace, seq);
        }
        let Some(feed) = self.hub.feed(key) else { return };
        let previous = header_number(message, "Nats-Last-Sequence").unwrap_or_default();
        let publication = (!is_removal(message)).then(|| read_publication(message));
        let live = Live { seq, previous, publication, stored_at: stored_at(message) };
        match feed.live(live) {
            Taken::Delivered(members) => self.metrics.delivered(members),
            Taken::Known => {}
            Taken::Gap { after } => {
                let this = self.clone();
                self.lifecycle.spawn(async move { this.heal(&feed, after).await });
            }
        }
    }

    /// Somebody came to a channel or left it.
    pub(crate) fn change(&self, message: &Message) {
        let feed = self.subjects.here_key(&message.subject).and_then(|key| self.hub.feed(key));
        if let (Some(feed), Some(change)) = (feed, Presence::change(message)) {
            self.metrics.delivered(feed.tell(&change));
        }
    }

    /// Checks positions when the broker is back, and now and then.
    async fn watch_positions(&self) {
        let mut connection = self.broker.connection();
        loop {
            let back = async {
                // Down, then up again; a change that was missed meanwhile counts as well.
                let _ = connection.changed().await;
                let _ = connection.wait_for(|up| *up).await;
            };
            tokio::select! {
                () = back => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = self.lifecycle.finishing() => return,
            }
            while let Err(refusal) = self.check_positions().await {
                tracing::debug!(%refusal, "positions cannot be checked yet");
                tokio::select! {
                    () = tokio::time::sleep(CHECK_PAUSE) => {}
                    () = self.lifecycle.finishing() => return,
                }
            }
        }
    }

    fn push_client(&self, message: &Message) {
        let Some(client) = Subjects::id_in(&message.subject).and_then(ClientId::parse) else { return };
        self.metrics.delivered(self.hub.push_client(&client, &message.payload));
    }

    fn push_all(&self, message: &Message) {
        self.metrics.delivered(self.hub.push_all(&message.payload));
    }
}

/// Whether a message says that everything before it has been removed, and is no publication.
pub(super) fn is_removal(message: &Message) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(header::REMOVED).is_some())
}

pub(super) fn read_publication(message: &Message) -> Publication {
    let none = HeaderMap::new();
    let headers = message.headers.as_ref().unwrap_or(&none);
    let json = |name| get(headers, name).map(|json| json.to_owned().into()).unwrap_or_default();
    let info = get(headers, header::CLIENT).map(|client| ClientInfo {
        user: get(headers, header::USER).unwrap_or_default().to_owned(),
        client: client.to_owned(),
        conn_info: json(header::INFO),
        chan_info: json(header::CHANNEL_INFO),
    });
    let tags = headers.iter().filter_map(|(name, values)| {
        let name: &str = name.as_ref();
        Some((name.strip_prefix(header::TAG_PREFIX)?.to_owned(), values.first()?.as_str().to_owned()))
    });
    Publication { data: message.payload.clone(), info, tags: tags.collect(), ..Publication::default() }
}
