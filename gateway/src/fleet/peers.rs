//! Asks the other gateways, each on a subject of its own.
//!
//! Asks every gateway with a live lease. Waits at most a second for each answer, and less for a gateway that is not
//! connected to the broker. Never decides what is asked.

use std::{sync::Arc, time::Duration};

use async_nats::{Request, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use serde_json::value::RawValue;
use tidegate_shared::{
    broker::{Broker, Refusal},
    id::GatewayId,
    lifecycle::Lifecycle,
    sparse::Sparse,
    subject::Subjects,
};
use tokio::time::{Instant, sleep, timeout};

use crate::fleet::Fleet;

/// How long another gateway may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long a gateway may be disconnected from the broker before it counts as gone: longer than its pause between
/// reconnects.
const ABSENCE_LIMIT: Duration = Duration::from_millis(700);
/// Pause between two tries to reach a disconnected gateway.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Asks the other gateways, and answers them.
pub(crate) struct Peers {
    broker: Broker,
    subjects: Subjects,
    fleet: Arc<Fleet>,
}

/// The function that answers a question for this gateway.
pub(crate) type Respond = Arc<dyn Fn(&RawValue) -> Option<Box<RawValue>> + Send + Sync>;

/// The answers of the other gateways.
#[derive(Default)]
pub(crate) struct PeerAnswers {
    pub(crate) answers: Vec<Box<RawValue>>,
    /// How many gateways did not answer in time.
    pub(crate) silent: usize,
}

/// The outcome of asking one gateway.
enum AskOutcome {
    Answer(Box<RawValue>),
    Silence,
    /// The gateway has ended.
    Gone,
}

impl Peers {
    /// Starts to answer. Returns once the broker has the subscription.
    pub(crate) async fn start(
        broker: Broker,
        subjects: Subjects,
        fleet: Arc<Fleet>,
        respond: Respond,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<Arc<Self>> {
        let questions = broker.client().subscribe(subjects.peer(fleet.gateway())).await?;
        broker.settled().await?;
        let this = Arc::new(Self { broker, subjects, fleet });
        let (serving, finishing) = (Arc::clone(&this), lifecycle.clone());
        lifecycle.spawn_essential("questions of peers", async move {
            tokio::select! {
                () = serving.serve(questions, respond) => {}
                () = finishing.finishing() => {}
            }
        });
        Ok(this)
    }

    /// Asks every other gateway. Fails if the broker is away: then no gateway was asked.
    pub(crate) async fn ask(&self, body: Box<RawValue>) -> Result<PeerAnswers, Refusal> {
        if !self.broker.is_connected() {
            return Err(Refusal::Unavailable("not connected to NATS".to_owned()));
        }
        let body = Bytes::from(body.get().to_owned());
        let others = self.fleet.others();
        let asked = others.iter().map(|(gateway, seq)| self.ask_one(gateway, *seq, &body));
        let mut answers = PeerAnswers::default();
        for outcome in join_all(asked).await {
            match outcome {
                AskOutcome::Answer(answer) => answers.answers.push(answer),
                AskOutcome::Silence => answers.silent += 1,
                AskOutcome::Gone => {}
            }
        }
        Ok(answers)
    }

    async fn ask_one(&self, gateway: &GatewayId, seq: u64, body: &Bytes) -> AskOutcome {
        let mut live = self.fleet.live();
        tokio::select! {
            biased;
            outcome = timeout(ANSWER_LIMIT, self.request(gateway, seq, body)) => outcome.unwrap_or(AskOutcome::Silence),
            _ = live.wait_for(|live| !live.contains(gateway)) => AskOutcome::Gone,
        }
    }

    async fn request(&self, gateway: &GatewayId, seq: u64, body: &Bytes) -> AskOutcome {
        let subject = self.subjects.peer(gateway);
        let absent_from = Instant::now() + ABSENCE_LIMIT;
        loop {
            let request = Request::new().payload(body.clone()).timeout(Some(ANSWER_LIMIT));
            match self.broker.client().send_request(subject.clone(), request).await {
                Ok(answer) => {
                    let answer = serde_json::from_slice(&answer.payload);
                    return answer.map_or(AskOutcome::Silence, AskOutcome::Answer);
                }
                // It may have lost its connection for a moment; its clients are still connected.
                Err(error)
                    if error.kind() == RequestErrorKind::NoResponders && Instant::now() < absent_from =>
                {
                    sleep(RETRY_PAUSE).await;
                }
                Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                    self.fleet.unreachable(gateway, seq);
                    return AskOutcome::Gone;
                }
                Err(_) => return AskOutcome::Silence,
            }
        }
    }

    async fn serve(&self, mut questions: Subscriber, respond: Respond) {
        while let Some(message) = questions.next().await {
            let Ok(asked) = serde_json::from_slice::<&RawValue>(&message.payload) else {
                static UNREADABLE: Sparse = Sparse::new();
                if let Some(skipped) = UNREADABLE.due() {
                    tracing::warn!(
                        subject = %message.subject, skipped, "dropped a question of another gateway that cannot be read"
                    );
                }
                continue;
            };
            let Some(inbox) = message.reply.filter(|reply| Subjects::is_inbox(reply)) else { continue };
            let Some(answer) = respond(asked) else { continue };
            // Best effort: without an answer the other gateway reports one as missing.
            let _ = self.broker.client().publish(inbox, answer.get().to_owned().into()).await;
        }
    }
}
