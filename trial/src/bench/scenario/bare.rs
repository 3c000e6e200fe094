//! The NATS client alone, on the broker of a stack without gateways: what is compared with the same thing through a gateway.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use tidegate_cli::stack::Stack;
use tidegate_shared::broker::Broker;
use tokio::task::JoinSet;

use super::stand::Field;
use crate::{open_loop, process, stats::Series};

const STREAM: &str = "TRIAL_BARE";
const SUBJECT: &str = "trial.bare";

/// A broker with one stream.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) stack: Box<Stack>,
    broker: Arc<Broker>,
}

impl Bare {
    pub(super) async fn start(field: &Field) -> anyhow::Result<Self> {
        let starting = Stack::builder().variable("", "GOMAXPROCS", "1").start();
        let stack = Box::new(Box::pin(starting).await.context("starting a broker")?);
        let pid = stack.pid("nats").context("the broker does not run")?;
        process::pin(pid.try_into()?, field.tools.cores.others)?;
        let broker = stack.admin().await?;
        let config = async_nats::jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            ..Default::default()
        };
        broker.jetstream().create_stream(config).await.context("creating a stream")?;
        Ok(Self { stack, broker: Arc::new(broker) })
    }

    /// Publishes one by one, so many at a time, each acknowledged by itself; returns how many a second.
    pub(super) async fn singles(
        &self,
        in_flight: usize,
        size: usize,
        length: Duration,
    ) -> anyhow::Result<f64> {
        let (start, body) = (Instant::now(), Bytes::from(vec![b'x'; size]));
        let mut publishers = JoinSet::new();
        for _ in 0..in_flight {
            let (broker, body) = (Arc::clone(&self.broker), body.clone());
            publishers.spawn(async move {
                let mut count = 0.0;
                while start.elapsed() < length {
                    publish(&broker, &body).await?;
                    count += 1.0;
                }
                anyhow::Ok(count)
            });
        }
        let mut all = 0.0;
        while let Some(count) = publishers.join_next().await {
            all += count??;
        }
        Ok(all / start.elapsed().as_secs_f64())
    }

    /// Publishes at a rate, and returns the times from the intended moment to the acknowledgement.
    pub(super) async fn at_rate(&self, rate: u32, size: usize, length: Duration) -> anyhow::Result<Series> {
        ensure!(rate > 0, "nothing to measure");
        let body = Bytes::from(vec![b'x'; size]);
        let (mut ticks, mut asked, mut series) =
            (open_loop::ticks(rate, length), JoinSet::new(), Series::default());
        while let Some(due) = ticks.recv().await {
            let (broker, body) = (Arc::clone(&self.broker), body.clone());
            asked.spawn(async move { publish(&broker, &body).await.map(|()| due.elapsed()) });
        }
        while let Some(time) = asked.join_next().await {
            series.record(time??)?;
        }
        Ok(series)
    }
}

async fn publish(broker: &Broker, body: &Bytes) -> anyhow::Result<()> {
    broker.jetstream().publish(SUBJECT, body.clone()).await?.await?;
    Ok(())
}
