//! The tester in the place of a gateway: hears the answers of workers, says its word on each, and hears personal channels.
//!
//! Never decides whether an answer is right.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tidegate_shared::{
    broker::Broker, confirmation::Confirmation, envelope::Answer, id::GatewayId, subject::Subjects,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout_at},
};

/// The most answers and publications that are kept: what a worker sends beyond is counted only.
const MOST_HEARD: usize = 4096;

/// What the desk says to a worker that hands an answer over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// `taken` the first time, `known` afterwards.
    Takes,
    /// `late`.
    Late,
}

/// A publication on a personal channel.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What was heard so far.
#[derive(Debug, Default)]
pub(super) struct Heard {
    manners: HashMap<String, Manner>,
    /// The answers by request, each with whether the worker waits for a word.
    pub(super) answers: HashMap<String, Vec<(Answer, bool)>>,
    /// Answers that cannot be read, with the reason.
    pub(super) unreadable: Vec<String>,
    pub(super) publications: Vec<Publication>,
}

/// The pretended gateway.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) gateway: GatewayId,
    heard: Arc<Mutex<Heard>>,
    news: Arc<Notify>,
    _listening: JoinSet<()>,
}

impl Desk {
    pub(super) async fn open(broker: &Broker, subjects: &Subjects) -> anyhow::Result<Self> {
        let gateway = GatewayId::random();
        let (heard, news) = (Arc::new(Mutex::new(Heard::default())), Arc::new(Notify::new()));
        let mut listening = JoinSet::new();
        let hear = async |subject: String| {
            broker.client().subscribe(subject).await.context("subscribing as a gateway")
        };
        for subject in [subjects.answers_of(&gateway), subjects.answers_of_keys()] {
            let answers = hear(subject).await?;
            listening.spawn(take_answers(answers, broker.clone(), Arc::clone(&heard), Arc::clone(&news)));
        }
        let live = hear(subjects.all_live("user")).await?;
        listening.spawn(take_publications(live, Arc::clone(&heard), Arc::clone(&news)));
        broker.settled().await.context("subscribing as a gateway")?;
        Ok(Self { gateway, heard, news, _listening: listening })
    }

    /// Says how the answers to a request are received. Without it they are, in silence.
    pub(super) fn behave(&self, id: &str, manner: Manner) {
        self.heard.lock().manners.insert(id.to_owned(), manner);
    }

    /// What `read` finds now.
    pub(super) fn now<T>(&self, read: impl FnOnce(&Heard) -> T) -> T {
        read(&self.heard.lock())
    }

    /// Waits until `find` finds something. `None` when it has not within `limit`.
    pub(super) async fn until<T>(
        &self,
        limit: Duration,
        mut find: impl FnMut(&Heard) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        loop {
            let news = self.news.notified();
            if let Some(found) = find(&self.heard.lock()) {
                return Some(found);
            }
            timeout_at(deadline, news).await.ok()?;
        }
    }
}

async fn take_answers(mut answers: Subscriber, broker: Broker, heard: Arc<Mutex<Heard>>, news: Arc<Notify>) {
    while let Some(message) = answers.next().await {
        let reply = message.reply.clone();
        let word = note(&mut heard.lock(), message);
        if let (Some(reply), Some(word)) = (reply, word) {
            // A worker that misses its word asks again.
            let _ = broker.client().publish(reply, word.as_str().into()).await;
        }
        news.notify_waiters();
    }
}

/// Notes an answer and returns the word on it.
fn note(heard: &mut Heard, message: Message) -> Option<Confirmation> {
    let id = Subjects::id_in(&message.subject).unwrap_or_default().to_owned();
    let headers = message.headers.unwrap_or_default();
    match Answer::read(&headers, message.payload) {
        Ok(answer) if answer.re.as_str() == id => {
            let manner = heard.manners.get(&id).copied();
            let answers = heard.answers.entry(id).or_default();
            let first = answers.is_empty();
            if answers.len() < MOST_HEARD {
                answers.push((answer, message.reply.is_some()));
            }
            manner.map(|manner| match manner {
                Manner::Takes if first => Confirmation::Taken,
                Manner::Takes => Confirmation::Known,
                Manner::Late => Confirmation::Late,
            })
        }
        Ok(answer) => {
            unreadable(heard, format!("on {}: Tide-Re is {}", message.subject, answer.re));
            None
        }
        Err(error) => {
            unreadable(heard, format!("on {}: {error}", message.subject));
            None
        }
    }
}

fn unreadable(heard: &mut Heard, why: String) {
    if heard.unreadable.len() < MOST_HEARD {
        heard.unreadable.push(why);
    }
}

async fn take_publications(mut live: Subscriber, heard: Arc<Mutex<Heard>>, news: Arc<Notify>) {
    while let Some(message) = live.next().await {
        let mut heard = heard.lock();
        if heard.publications.len() < MOST_HEARD {
            heard.publications.push(Publication {
                subject: message.subject.to_string(),
                headers: message.headers.unwrap_or_default(),
                body: message.payload,
            });
        }
        drop(heard);
        news.notify_waiters();
    }
}
