//! A running stack: starts, stops, kills, pauses, scales and describes its processes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::future::{join_all, try_join_all};
use parking_lot::{Mutex, MutexGuard};
use tempfile::TempDir;
use tidegate_shared::{
    access::ADMIN,
    broker::Broker,
    config::{Config, NatsUser, Secret},
};

use super::{
    blueprint::{Blueprint, PlannedProcess},
    guard::CleanupGuard,
    log::Logs,
    pid_file::PidFiles,
    process::{CRASH_LOOP, Process},
    setup,
    status::{GatewayAddress, Kind, ProcessStatus},
    supervisor::Supervisor,
};

/// How long a process may take to become ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running stack. Dropping it kills every process and waits until all have ended.
#[derive(Debug)]
pub struct Stack {
    blueprint: Blueprint,
    processes: Mutex<Vec<Arc<Process>>>,
    supervisor: Supervisor,
    logs: Arc<Logs>,
    records: Arc<PidFiles>,
    temporary: Mutex<Option<(CleanupGuard, TempDir)>>,
    // Serializes `scale`: two concurrent calls would use the same names.
    scaling: tokio::sync::Mutex<()>,
}

impl Stack {
    pub(super) fn new(
        blueprint: Blueprint,
        temporary: Option<TempDir>,
        logs: Arc<Logs>,
        records: Arc<PidFiles>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            blueprint,
            processes: Mutex::default(),
            supervisor: Supervisor::start()?,
            logs,
            records,
            temporary: Mutex::new(
                temporary.map(|dir| CleanupGuard::over(dir.path()).map(|guard| (guard, dir))).transpose()?,
            ),
            scaling: tokio::sync::Mutex::default(),
        })
    }

    /// Starts processes concurrently and waits until all are ready. A process that ends before it is ready fails the start.
    pub(super) async fn launch(&self, planned: Vec<PlannedProcess>) -> anyhow::Result<()> {
        let started: Vec<Arc<Process>> = planned
            .into_iter()
            .map(|(spec, reserved)| {
                Arc::new(Process::new(spec, reserved, Arc::clone(&self.logs), Arc::clone(&self.records)))
            })
            .collect();
        {
            let mut processes = self.processes();
            processes.extend(started.iter().cloned());
            // Stable: those of one kind stay in the order of their numbers.
            processes.sort_by_key(|process| process.spec.kind);
        }
        for process in &started {
            self.supervisor.spawn(|end| Arc::clone(process).supervise(end));
        }
        try_join_all(started.iter().map(|process| process.ready(1, READY_LIMIT))).await?;
        Ok(())
    }

    /// Returns the configuration with the broker's actual address.
    pub fn config(&self) -> &Config {
        &self.blueprint.config
    }

    /// Returns the broker's URL.
    pub fn nats_url(&self) -> &str {
        &self.blueprint.config.nats.url
    }

    /// Connects as the user who may do everything in the account of the streams: to look at them, and to break them as nobody
    /// else can. Only a stack in a temporary directory has this user.
    pub async fn admin(&self) -> anyhow::Result<Broker> {
        let password = self.blueprint.admin.clone().context("this stack has no user `admin`")?;
        let user = NatsUser { user: ADMIN.to_owned(), password: Secret::new(password) };
        setup::connect_as(self.config(), &user).await
    }

    /// Returns the directory of the stack's files.
    pub fn dir(&self) -> &Path {
        &self.blueprint.dir
    }

    /// Returns the path of the nats-server program.
    pub fn nats_server(&self) -> &PathBuf {
        &self.blueprint.nats_server
    }

    /// Returns the addresses of the gateways.
    pub fn gateways(&self) -> Vec<GatewayAddress> {
        let gateways = self.processes_of(Kind::Gateway).into_iter().map(|process| GatewayAddress {
            name: process.spec.name.clone(),
            websocket: self.config().gateway.websocket(process.spec.public),
            public: process.spec.public,
            internal: process.spec.internal,
        });
        gateways.collect()
    }

    /// Returns the health and metrics addresses of the workers.
    pub fn worker_addresses(&self) -> Vec<SocketAddr> {
        self.processes_of(Kind::Worker).iter().map(|process| process.spec.internal).collect()
    }

    /// Returns the health and metrics address of the purger.
    pub fn purger_address(&self) -> Option<SocketAddr> {
        self.processes_of(Kind::Purger).first().map(|process| process.spec.internal)
    }

    /// Kills a process (SIGKILL) and waits until it has ended. The supervisor restarts it.
    pub async fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.kill().await
    }

    /// Stops a process (SIGTERM), waits for its end and leaves it stopped. Returns its exit status.
    pub async fn stop(&self, name: &str) -> anyhow::Result<ExitStatus> {
        let exit = self.process(name)?.take_down(true).await;
        exit.with_context(|| format!("{name} was not running"))
    }

    /// Kills a process and leaves it stopped until [`Stack::start_process`].
    pub async fn hold(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.take_down(false).await;
        Ok(())
    }

    /// Starts a stopped process. It runs when this returns; [`Stack::wait_ready`] waits until it is ready.
    pub async fn start_process(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.bring_up().await;
        Ok(())
    }

    /// Pauses a process (SIGSTOP): to its peers it looks like a hung machine.
    pub fn pause(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.pause(true)
    }

    /// Resumes a paused process (SIGCONT).
    pub fn resume(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.pause(false)
    }

    /// Returns the process id while the process runs.
    pub fn pid(&self, name: &str) -> Option<i32> {
        self.process(name).ok()?.state().pid.map(|pid| pid.as_raw_nonzero().get())
    }

    /// Returns the number of restarts of a process.
    pub fn restarts(&self, name: &str) -> u32 {
        self.process(name).map_or(0, |process| process.state().restarts)
    }

    /// Waits until a process is ready.
    pub async fn wait_ready(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.ready(CRASH_LOOP, READY_LIMIT).await
    }

    /// Starts or stops gateways or workers until there are `count`. Stops the highest numbers, which finish their work first.
    pub async fn scale(&self, kind: Kind, count: usize) -> anyhow::Result<()> {
        if matches!(kind, Kind::Nats | Kind::Purger) {
            bail!("a stack has one {kind}");
        }
        let _one_at_a_time = self.scaling.lock().await;
        let now = self.processes_of(kind);
        let added: Vec<PlannedProcess> = (now.len() + 1..=count)
            .map(|number| self.blueprint.process(kind, number))
            .collect::<anyhow::Result<_>>()?;
        let surplus = now.get(count..).unwrap_or_default();
        join_all(surplus.iter().map(|process| process.take_down(true))).await;
        self.processes().retain(|process| !surplus.iter().any(|gone| Arc::ptr_eq(gone, process)));
        self.launch(added).await
    }

    /// Returns the state of every process.
    pub fn status(&self) -> Vec<ProcessStatus> {
        let processes = self.processes();
        processes.iter().map(|process| status_of(process, self.config())).collect()
    }

    /// Returns the recent output of all processes, each line with the process name.
    pub fn log(&self) -> String {
        self.logs.all()
    }

    /// Returns the recent output of one process.
    pub fn log_of(&self, name: &str) -> String {
        self.logs.of(name)
    }

    /// Stops gateways, workers, purger and broker in this order, which loses nothing. Removes a temporary directory.
    pub async fn down(&self) {
        for kind in [Kind::Gateway, Kind::Worker, Kind::Purger, Kind::Nats] {
            join_all(self.processes_of(kind).iter().map(|process| process.take_down(true))).await;
        }
        self.finish();
    }

    fn finish(&self) {
        self.supervisor.stop();
        self.records.release();
        self.temporary.lock().take();
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        self.processes.lock()
    }

    fn processes_of(&self, kind: Kind) -> Vec<Arc<Process>> {
        self.processes().iter().filter(|process| process.spec.kind == kind).cloned().collect()
    }

    fn process(&self, name: &str) -> anyhow::Result<Arc<Process>> {
        let processes = self.processes();
        let found = processes.iter().find(|process| process.spec.name == name);
        found.cloned().with_context(|| {
            let names: Vec<&str> = processes.iter().map(|process| process.spec.name.as_str()).collect();
            format!("the stack has no process {name}; there are {}", names.join(", "))
        })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.finish();
    }
}

fn status_of(process: &Process, config: &Config) -> ProcessStatus {
    let (spec, state) = (&process.spec, process.state());
    let address = match spec.kind {
        Kind::Nats => format!("nats://{}", spec.public),
        Kind::Gateway => config.gateway.websocket(spec.public),
        Kind::Worker | Kind::Purger => format!("http://{}/readyz", spec.internal),
    };
    let uptime = state.pid.map_or(Duration::ZERO, |_| state.since.elapsed());
    ProcessStatus {
        name: spec.name.clone(),
        kind: spec.kind,
        phase: state.phase,
        pid: state.pid.map(|pid| pid.as_raw_nonzero().get()),
        restarts: state.restarts,
        uptime_ms: uptime.as_millis().try_into().unwrap_or(u64::MAX),
        address,
        internal: format!("http://{}", spec.internal),
    }
}
