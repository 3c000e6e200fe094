//! Carries out the faults of the plan.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use tidegate_cli::{
    output,
    stack::{Stack, setup},
};
use tidegate_shared::broker::Broker;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    leftovers,
    plan::{Fault, Step},
};
use crate::proxy::Proxy;

/// How long the user `admin` may need until the broker, which may just have been killed, has done what it asks.
const SETUP_LIMIT: Duration = Duration::from_secs(30);
const SETUP_AGAIN: Duration = Duration::from_millis(250);

/// What faults are done to.
pub(super) struct Field<'a> {
    pub(super) stack: &'a Stack,
    pub(super) proxy: &'a Proxy,
    pub(super) admin: &'a Broker,
}

impl Field<'_> {
    /// Carries out the whole plan and waits until `end`. Returns the number of faults that happened.
    pub(super) async fn strike(&self, steps: &[Step], end: Instant) -> anyhow::Result<usize> {
        let mut struck = 0;
        for Step { fault, calm } in steps {
            sleep_until((Instant::now() + *calm).min(end)).await;
            // Restarts take time that the plan does not know.
            if Instant::now() >= end {
                break;
            }
            struck += 1;
            output::note(format!("fault {struck}: {fault}"));
            self.carry_out(*fault).await.with_context(|| format!("after fault {struck}: {fault}"))?;
        }
        sleep_until(end).await;
        Ok(struck)
    }

    /// Returns when every process is ready again.
    async fn carry_out(&self, fault: Fault) -> anyhow::Result<()> {
        let stack = self.stack;
        let all: Vec<String> = stack.status().into_iter().map(|process| process.name).collect();
        match fault {
            Fault::KillGateway(number) => stack.kill(&format!("gateway-{number}")).await?,
            Fault::KillWorker(number) => stack.kill(&format!("worker-{number}")).await?,
            Fault::KillBroker => stack.kill("nats").await?,
            Fault::KillPurger => stack.kill("purger").await?,
            Fault::KillAll => {
                for killed in join_all(all.iter().map(|name| stack.kill(name))).await {
                    killed?;
                }
            }
            Fault::StopWorker(number, time) => self.pause(&format!("worker-{number}"), time).await?,
            Fault::StopGateway(number, time) => self.pause(&format!("gateway-{number}"), time).await?,
            Fault::StopBroker(time) => self.pause("nats", time).await?,
            Fault::DeleteConsumer(which, time) => self.delete_consumer(which, time).await?,
            Fault::ResetConnections => self.proxy.cut_all(),
        }
        for ready in join_all(all.iter().map(|name| stack.wait_ready(name))).await {
            ready?;
        }
        Ok(())
    }

    async fn pause(&self, name: &str, time: Duration) -> anyhow::Result<()> {
        self.stack.pause(name)?;
        sleep(time).await;
        self.stack.resume(name)
    }

    async fn delete_consumer(&self, which: usize, time: Duration) -> anyhow::Result<()> {
        let jetstream = self.admin.jetstream();
        let deadline = Instant::now() + SETUP_LIMIT;
        let deleted = until(deadline, || async {
            let consumers = leftovers::consumers(jetstream).await?;
            let found = consumers.get(which % consumers.len().max(1)).context("there is no consumer")?;
            jetstream.delete_consumer_from_stream(&found.name, &found.stream_name).await?;
            Ok(format!("{} of {}", found.name, found.stream_name))
        })
        .await?;
        output::note(format!("  deleted the consumer {deleted}"));
        sleep(time).await;
        let changes = until(deadline + time, || setup::apply(self.admin, self.stack.config())).await?;
        ensure!(
            changes.iter().any(|change| change.what.contains("consumer")),
            "the consumer was there although it had been deleted"
        );
        Ok(())
    }
}

/// Repeats what fails while the broker is not back, until the deadline.
async fn until<T, F>(deadline: Instant, attempt: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    loop {
        match attempt().await {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(SETUP_AGAIN).await,
            done => return done,
        }
    }
}
