//! The bare loop: pull, publish, wait for the acknowledgement, acknowledge with confirmation. The client library alone, as the
//! workers' user, on the streams that workers use.

use anyhow::Context;
use async_nats::jetstream::consumer::{Consumer, pull};
use bytes::Bytes;
use futures_util::StreamExt;
use tidegate_shared::{broker::Broker, config::Config, id::RequestId, subject::Subjects, topology};
use tokio::task::JoinSet;

/// The route that no worker takes.
pub(super) const ROUTE: &str = "bare";
/// Publishes that may be unacknowledged.
const IN_FLIGHT: usize = 4096;

/// Starts the loop with this many requests at a time. It ends with the returned value.
pub(super) async fn start(config: &Config, concurrency: usize) -> anyhow::Result<JoinSet<()>> {
    let worker = Broker::connect(&config.nats, &config.nats.worker, "trial worker", IN_FLIGHT, true).await?;
    let consumer: Consumer<pull::Config> =
        worker.jetstream().get_consumer_from_stream(ROUTE, topology::request_stream(ROUTE)).await?;
    let requests = consumer.stream().max_messages_per_batch(1000).messages().await?;
    let subjects = config.subjects();
    let mut working = JoinSet::new();
    working.spawn(async move {
        let settled = requests.for_each_concurrent(concurrency, async |request| {
            // What fails is not answered, which the scenario notices.
            if let Ok(request) = request {
                let _ = settle(&request, &worker, &subjects).await;
            }
        });
        settled.await;
    });
    Ok(working)
}

async fn settle(
    request: &async_nats::jetstream::Message,
    worker: &Broker,
    subjects: &Subjects,
) -> anyhow::Result<()> {
    let id = Subjects::id_in(&request.subject).and_then(RequestId::parse).context("no id")?;
    worker.jetstream().publish(subjects.reply(&id), Bytes::new()).await?.await?;
    request.double_ack().await.map_err(anyhow::Error::from_boxed)
}
