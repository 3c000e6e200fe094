//! What every scenario begins with: a server and generators, pinned to their cores, and watched.

use crate::{
    bench::{
        crew::Crew,
        results::Figure,
        scenario::Measured,
        server::{Needs, Peer, Server, Tools},
    },
    generator::{Channels, Order, Tally},
    process::ForeignCpu,
};

/// Where all scenarios run.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) tools: Tools,
}

/// A running server with generators.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) server: Server,
    pub(super) crew: Crew,
    foreign: ForeignCpu,
}

impl Stand {
    pub(super) async fn start(
        peer: Peer,
        needs: &Needs,
        clients: usize,
        field: &Field,
    ) -> anyhow::Result<Self> {
        let server = Server::start(peer, needs, &field.tools).await?;
        let mut crew = Crew::start(clients, field.tools.cores.others)?;
        let pids = [Some(server.pid), server.broker].into_iter().flatten().collect();
        crew.order(&Order::Watch { pids }).await?;
        let foreign = watch(&server, &crew)?;
        Ok(Self { server, crew, foreign })
    }

    /// Connects clients: `at_once` handshakes at a time.
    pub(super) async fn connect(
        &mut self,
        count: usize,
        at_once: usize,
        channels: &Channels,
    ) -> anyhow::Result<Tally> {
        self.crew.connect(&self.server.host, count, at_once, channels).await
    }

    /// What other processes have done from now on counts.
    pub(super) fn watch(&mut self) -> anyhow::Result<()> {
        self.foreign = watch(&self.server, &self.crew)?;
        Ok(())
    }

    /// Ends everything; the failures that the generators have met become remarks.
    pub(super) async fn end(self, figures: Vec<Figure>, tally: &Tally) -> anyhow::Result<Measured> {
        let foreign_cpu_percent = self.foreign.percent()?;
        let mut remarks: Vec<String> = tally.failures.lines().take(5).collect();
        if let Some(stack) = &self.server.stack
            && stack.log().contains("panicked")
        {
            remarks.push("a process has panicked".to_owned());
        }
        self.server.end().await;
        Ok(Measured { figures, remarks, foreign_cpu_percent })
    }
}

fn watch(server: &Server, crew: &Crew) -> anyhow::Result<ForeignCpu> {
    let ours = server.pids().into_iter().chain(crew.pids()).chain([std::process::id()]);
    ForeignCpu::watch(ours.collect())
}

/// Handshakes at a time where they are not what is measured.
pub(super) const AT_ONCE: usize = 256;
/// The bytes of a payload.
pub(super) const SIZE: usize = 128;

/// Channels of a namespace.
pub(super) fn channels(namespace: &str, count: usize) -> Channels {
    Channels { prefix: format!("{namespace}:c"), count, each: 1, recover: namespace == "kept" }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes")]
pub(super) fn size(count: usize) -> f64 {
    count as f64
}

/// So many a second of the measured time.
pub(super) fn per_second(count: u64, tally: &Tally) -> f64 {
    float(count) / tally.seconds().max(1e-9)
}

/// So many a second of the server's processor time; `None` if it was not measured.
pub(super) fn per_core_second(count: u64, tally: &Tally) -> Option<f64> {
    let nanos = tally.cpu.first().copied().filter(|nanos| *nanos > 0)?;
    Some(float(count) * 1e9 / float(nanos))
}
