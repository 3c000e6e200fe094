//! The other gateways: who is there, and what they answer.
//!
//! Gateways say hello to each other now and then; one that has been silent for a while is gone. Asking all of them ends when
//! everybody who is there has answered, or after a second. Never decides what is asked.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_shared::{
    broker::{Broker, Refusal},
    id::GatewayId,
    lifecycle::Lifecycle,
    subject::Subjects,
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// How long the others may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How often a gateway says hello.
const HELLO_INTERVAL: Duration = Duration::from_secs(2);
/// After how much silence a gateway is gone.
const SILENCE: Duration = Duration::from_secs(7);

const ASK: &str = "ask";
const HELLO: &str = "hello";
const BYE: &str = "bye";

/// The other gateways of this deployment.
pub(crate) struct Peers {
    gateway: GatewayId,
    broker: Broker,
    subjects: Subjects,
    known: Mutex<HashMap<Box<str>, Instant>>,
}

/// What a gateway answers of itself.
pub(crate) type Respond = Arc<dyn Fn(&RawValue) -> Option<Box<RawValue>> + Send + Sync>;

/// What the others said.
pub(crate) struct Said {
    pub(crate) answers: Vec<Box<RawValue>>,
    /// How many did not answer in time.
    pub(crate) silent: usize,
}

/// What travels between gateways.
#[derive(Serialize, Deserialize)]
struct Letter {
    from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
}

impl Peers {
    /// Begins to answer, says hello, and returns when the broker knows.
    pub(crate) async fn start(
        gateway: GatewayId,
        broker: Broker,
        subjects: Subjects,
        respond: Respond,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<Arc<Self>> {
        let letters = broker.client().subscribe(subjects.all_peers()).await?;
        broker.barrier(subjects.barrier()).await?;
        let this = Arc::new(Self { gateway, broker, subjects, known: Mutex::default() });
        let (reader, caller) = (Arc::clone(&this), Arc::clone(&this));
        let (finishing, ending) = (lifecycle.clone(), lifecycle.clone());
        lifecycle.spawn(async move {
            tokio::select! {
                () = reader.read(letters, respond) => {}
                () = finishing.finishing() => {}
            }
        });
        lifecycle.spawn(async move {
            tokio::select! {
                () = caller.say_hello() => {}
                () = ending.finishing() => caller.tell(BYE).await,
            }
        });
        Ok(this)
    }

    /// Asks every other gateway. An error is a broker that is away: nobody was asked.
    pub(crate) async fn ask(&self, body: Box<RawValue>) -> Result<Said, Refusal> {
        let away = |error: &dyn std::fmt::Display| Refusal::Unavailable(error.to_string());
        if !self.broker.is_connected() {
            return Err(away(&"not connected to NATS"));
        }
        let client = self.broker.client();
        let inbox = client.new_inbox();
        let mut letters = client.subscribe(inbox.clone()).await.map_err(|e| away(&e))?;
        let letter = self.letter(Some(body)).ok_or_else(|| away(&"what is asked cannot be written"))?;
        let mut awaited = self.alive();
        let asked = client.publish_with_reply(self.subjects.peer(ASK), inbox, letter).await;
        asked.map_err(|e| away(&e))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        let mut answers = Vec::new();
        while !awaited.is_empty() {
            let Ok(Some(message)) = timeout_at(deadline, letters.next()).await else { break };
            let Ok(letter) = serde_json::from_slice::<Letter>(&message.payload) else { continue };
            awaited.remove(&*letter.from);
            answers.extend(letter.body);
        }
        Ok(Said { answers, silent: awaited.len() })
    }

    /// The other gateways that are there.
    fn alive(&self) -> HashSet<Box<str>> {
        let now = Instant::now();
        let mut known = self.known();
        known.retain(|_, heard| now < *heard + SILENCE);
        known.keys().cloned().collect()
    }

    async fn read(&self, mut letters: Subscriber, respond: Respond) {
        while let Some(message) = letters.next().await {
            let Ok(letter) = serde_json::from_slice::<Letter>(&message.payload) else {
                tracing::warn!(subject = %message.subject, "a letter of another gateway that cannot be read");
                continue;
            };
            if letter.from != self.gateway.as_str() {
                self.handle(&message, letter, &respond).await;
            }
        }
    }

    async fn handle(&self, message: &Message, letter: Letter, respond: &Respond) {
        match Subjects::last_token(&message.subject) {
            HELLO => {
                let heard = self.known().insert(letter.from.into(), Instant::now());
                if heard.is_none() {
                    self.tell(HELLO).await;
                }
            }
            BYE => {
                self.known().remove(&*letter.from);
            }
            _ => {
                let (Some(asked), Some(inbox)) = (letter.body, &message.reply) else { return };
                let Some(answer) = self.letter(respond(&asked)) else { return };
                // Without an answer the other gateway says that one is missing.
                let _ = self.broker.client().publish(inbox.clone(), answer).await;
            }
        }
    }

    async fn say_hello(&self) {
        let mut ticks = interval(HELLO_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tell(HELLO).await;
        }
    }

    /// Best effort: what is not heard now is said again soon, or found out by silence.
    async fn tell(&self, verb: &str) {
        let Some(letter) = self.letter(None).filter(|_| self.broker.is_connected()) else { return };
        let _ = self.broker.client().publish(self.subjects.peer(verb), letter).await;
    }

    fn letter(&self, body: Option<Box<RawValue>>) -> Option<Bytes> {
        let letter = Letter { from: self.gateway.as_str().to_owned(), body };
        serde_json::to_vec(&letter).ok().map(Bytes::from)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Box<str>, Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
