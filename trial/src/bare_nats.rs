//! The baseline: the same round trip with only the NATS client on both ends.
//!
//! The very streams of the stack, with the same users, message ids and acknowledgements: request into the route's stream, a
//! pull consumer, the answer as a request that the requester confirms. No gateway, no worker program, no WebSocket.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::{
    Client, Subscriber,
    jetstream::{
        self,
        consumer::{Consumer, pull},
        message::PublishMessage,
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tidegate_shared::{
    broker::Broker,
    config::Config,
    confirmation::Confirmation,
    id::{GatewayId, RequestId},
    subject::{Address, Kind, Subjects},
    topology,
};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

/// The route of the configuration that no stock worker takes, and its method.
const ROUTE: &str = "bare";
/// As long as a client of the protocol waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Unacknowledged publishes of one connection, and requests the worker holds at a time; at the rates of the scenario
/// neither is reached.
const IN_FLIGHT: usize = 256;

type PendingAnswers = Arc<Mutex<HashMap<String, oneshot::Sender<Bytes>>>>;

/// A requester and a worker, each with a connection of its own.
#[derive(Debug)]
pub(crate) struct BareNats {
    requester: Broker,
    subjects: Subjects,
    own: GatewayId,
    callers: PendingAnswers,
    /// Reads answers, and works.
    _tasks: JoinSet<()>,
}

impl BareNats {
    /// Connects both ends.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        let (nats, subjects, own) = (&config.nats, config.subjects(), GatewayId::random());
        let requester = Broker::connect(nats, &nats.gateway, "trial requester", IN_FLIGHT, true).await?;
        let answers = requester.client().subscribe(subjects.answers_of(&own)).await?;
        // The subscription has to be there before the first answer.
        requester.client().flush().await?;
        let worker = Broker::connect(nats, &nats.worker, "trial worker", IN_FLIGHT, true).await?;
        let consumer: Consumer<pull::Config> =
            worker.jetstream().get_consumer_from_stream(ROUTE, topology::request_stream(ROUTE)).await?;
        let requests = consumer.messages().await?;
        let callers = PendingAnswers::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(read_answers(answers, requester.client().clone(), Arc::clone(&callers)));
        tasks.spawn(work(requests, worker, subjects.clone()));
        Ok(Self { requester, subjects, own, callers, _tasks: tasks })
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, body: Bytes) -> anyhow::Result<Bytes> {
        let id = RequestId::plain(&self.own);
        let (caller, answer) = oneshot::channel();
        self.callers.lock().insert(id.to_string(), caller);
        let subject = self.subjects.request(&Address::new(Kind::Rpc(ROUTE), "", &id));
        let message = PublishMessage::build().message_id(id.as_str()).payload(body);
        // The answer may be there before the acknowledgement, and says more.
        let _acknowledgement = self.requester.jetstream().send_publish(subject, message).await?;
        Ok(timeout(PATIENCE, answer).await.context("no answer in time")??)
    }
}

async fn read_answers(mut answers: Subscriber, client: Client, callers: PendingAnswers) {
    while let Some(message) = answers.next().await {
        let id = Subjects::id_in(&message.subject).unwrap_or_default();
        let caller = callers.lock().remove(id);
        // The caller may have timed out.
        let _ = caller.map(|caller| caller.send(message.payload));
        if let Some(worker) = message.reply {
            // A worker that does not hear it times out, which the requester counts.
            let _ = client.publish(worker, Confirmation::Taken.as_str().into()).await;
        }
    }
}

async fn work(requests: pull::Stream, worker: Broker, subjects: Subjects) {
    let settled = requests.for_each_concurrent(IN_FLIGHT, async |request| {
        // A request that fails is never answered, which the requester counts.
        if let Ok(request) = request {
            let _ = settle(&request, &worker, &subjects).await;
        }
    });
    settled.await;
}

/// Answers with the request's body, and acknowledges the request when the answer is confirmed.
async fn settle(request: &jetstream::Message, worker: &Broker, subjects: &Subjects) -> anyhow::Result<()> {
    let id = Subjects::id_in(&request.subject).and_then(RequestId::parse).context("no id")?;
    worker.client().request(subjects.answer(&id), request.payload.clone()).await?;
    request.ack().await.map_err(anyhow::Error::from_boxed)
}
