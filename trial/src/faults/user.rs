//! One user of the run: what the client, its load and its checks share, and the client's connections.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tidegate_cli::client::{Client, Event, Events, Options};
use tidegate_shared::protocol::Command;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    answers::{Answers, LATER},
    findings::{Findings, Wrong},
    inbox::Inbox,
    numbers::Numbers,
};
use crate::{job::Stamp, subscriber::ReconnectBackoff};

/// Clients come back at once, nearly, so that faults meet them.
const BACKOFF: ReconnectBackoff =
    ReconnectBackoff { min: Duration::from_millis(50), max: Duration::from_millis(500) };
/// Room for what arrives while a reply is awaited.
const EVENTS: usize = 4096;

/// A user. Each has one client, a channel that it shares with some others, and its personal channel.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) channel: String,
    pub(super) personal: String,
    token: String,
    url: String,
    book: Mutex<Book>,
    client: watch::Sender<Option<Client>>,
}

/// What is known about a user so far.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) inbox: Inbox,
    pub(super) answers: Answers,
    pub(super) findings: Findings,
    /// Keys of the route `later` that were accepted.
    pub(super) receipts: Numbers,
    /// Keys whose answer was shown again because the call was repeated.
    pub(super) shown: Numbers,
    pub(super) published: Published,
    pub(super) counts: UserCounts,
}

/// The publications of a user.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Each is sent once. Without a reply it may be stored or not.
    pub(super) sent: u64,
    pub(super) stored: Numbers,
    /// The client was told that these are not stored.
    pub(super) refused: Numbers,
}

/// What is told about a run, and wrong in no case.
#[derive(Debug, Default)]
pub(super) struct UserCounts {
    pub(super) connections: u64,
    /// Ends of connections, by close code.
    pub(super) ends: BTreeMap<u16, u64>,
    pub(super) answered: u64,
    pub(super) retries: u64,
    /// The key that took longest, and how long.
    pub(super) slowest: (Duration, String),
}

impl User {
    pub(super) fn new(name: String, channel: String, token: String, url: String) -> Self {
        let personal = format!("#{name}");
        let book = Book {
            inbox: Inbox::new(&name, &[&channel, &personal]),
            answers: Answers::new(&name),
            findings: Findings::default(),
            receipts: Numbers::default(),
            shown: Numbers::default(),
            published: Published::default(),
            counts: UserCounts::default(),
        };
        Self { name, channel, personal, token, url, book: Mutex::new(book), client: watch::Sender::new(None) }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    /// Waits for a connection, at most until the deadline.
    pub(super) async fn connected(&self, deadline: Instant) -> Option<Client> {
        let mut client = self.client.subscribe();
        let found = timeout_at(deadline, client.wait_for(Option::is_some)).await;
        found.ok()?.ok()?.clone()
    }

    /// Returns the connection there is now.
    pub(super) fn client(&self) -> Option<Client> {
        self.client.borrow().clone()
    }

    /// Keeps the client connected until `done`.
    pub(super) async fn run(self: Arc<Self>, done: CancellationToken) {
        let mut failures = 0;
        while !done.is_cancelled() {
            tokio::select! {
                () = done.cancelled() => return,
                lived = self.live() => failures = if lived { 0 } else { failures + 1 },
            }
            self.client.send_replace(None);
            tokio::select! {
                () = done.cancelled() => {}
                () = sleep(BACKOFF.pause(failures)) => {}
            }
        }
    }

    /// Runs one connection until it ends. Returns false if it was not subscribed.
    async fn live(&self) -> bool {
        let resumed = self.book().inbox.request(&self.personal);
        let options = Options {
            events: EVENTS,
            subs: if resumed.recover { [(self.personal.clone(), resumed)].into() } else { BTreeMap::new() },
            ..Options::new(&self.url).token(&self.token)
        };
        let (client, mut events) = match Client::connect(options).await {
            Ok(connected) => connected,
            Err(error) => {
                if !error.is_temporary() {
                    self.find(Wrong::Misinformed, || format!("{} cannot connect: {error}", self.name));
                }
                return false;
            }
        };
        self.book().counts.connections += 1;
        for sub in client.connected().subs.clone() {
            if let Some(result) = sub.result {
                self.subscribed(&sub.channel, result);
            }
        }
        if self.subscribe(&client).await.is_none() {
            return false;
        }
        self.client.send_replace(Some(client.clone()));
        self.listen(&client, &mut events).await;
        let mut book = self.book();
        if let Some(closed) = client.closed() {
            *book.counts.ends.entry(closed.code).or_default() += 1;
        }
        for _ in 0..client.stray_replies() {
            book.findings.add(Wrong::Doubled, || format!("{} got a second reply to one command", self.name));
        }
        true
    }

    async fn listen(&self, client: &Client, events: &mut Events) -> Option<()> {
        loop {
            match events.next().await? {
                Event::Publication { channel, offset, data, .. } => {
                    let mut book = self.book();
                    let Book { inbox, findings, .. } = &mut *book;
                    let answer = inbox.publication(&channel, offset, &data, findings);
                    if let Some(answer) = answer {
                        book.answer(&answer);
                        if offset == 0 {
                            book.shown.insert(answer.n);
                        }
                    }
                }
                Event::Message { data } => {
                    let mut book = self.book();
                    let Book { inbox, findings, .. } = &mut *book;
                    inbox.message(&data, findings);
                }
                Event::Unsubscribed { channel, code: 2500.., .. } if channel == self.channel => {
                    self.subscribe(client).await?;
                }
                Event::Unsubscribed { channel, code, reason } => {
                    self.find(Wrong::Misinformed, || {
                        format!("{}: the subscription of {channel} ended: {code} {reason}", self.name)
                    });
                }
                Event::Disconnected(_) => return None,
                Event::Connected { .. } => {}
            }
        }
    }

    async fn subscribe(&self, client: &Client) -> Option<()> {
        let request = self.book().inbox.request(&self.channel);
        let reply = client.call(Command { subscribe: Some(request), ..Command::default() }).await.ok()?;
        self.subscribed(&self.channel, reply.subscribe?);
        Some(())
    }

    fn subscribed(&self, channel: &str, result: tidegate_shared::protocol::SubscribeResult) {
        let mut book = self.book();
        let Book { inbox, findings, .. } = &mut *book;
        let answers = inbox.subscribed(channel, result, findings);
        for answer in answers {
            book.answer(&answer);
        }
    }

    pub(super) fn find(&self, wrong: Wrong, words: impl FnOnce() -> String) {
        self.book().findings.add(wrong, words);
    }
}

impl Book {
    /// Whether the answer of each key of the route `later` has been shown again.
    pub(super) fn all_shown(&self) -> bool {
        self.shown.len() as u64 >= self.answers.begun(LATER)
    }

    /// Takes an answer that came on the personal channel.
    fn answer(&mut self, answer: &Stamp) {
        self.answers.take((&answer.by, answer.n), answer, &mut self.findings);
    }
}
