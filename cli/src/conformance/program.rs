//! The worker under test as a process: started, started again whenever it ends, killed, stopped.
//!
//! It runs in a process group of its own, so that a launcher's children end with it.

use std::{
    os::fd::AsFd,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use tidegate_shared::config::Route;
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Options;

/// The pause before the worker is started again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the worker may take to end after SIGTERM at the end of the test.
const STOPPING: Duration = Duration::from_secs(10);

/// What is known about the process.
#[derive(Debug, Clone, Default)]
struct State {
    pid: Option<i32>,
    /// How often it has ended.
    ends: u32,
    /// How it ended last, in words.
    last: String,
}

/// A worker that is started again whenever it ends.
#[derive(Debug)]
pub(super) struct Program {
    state: watch::Receiver<State>,
    _keeper: JoinSet<()>,
    /// Whether it is not started again.
    ending: Arc<AtomicBool>,
}

impl Program {
    /// Starts `command` with these environment variables.
    pub(super) fn start(command: &[String], variables: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let (sender, state) = watch::channel(State::default());
        let first = spawn(command, variables)?;
        sender.send_modify(|state| state.pid = pid_of(&first));
        let (command, variables) = (command.to_vec(), variables.to_vec());
        let ending = Arc::new(AtomicBool::new(false));
        let mut keeper = JoinSet::new();
        keeper.spawn(keep(first, command, variables, sender, Arc::clone(&ending)));
        Ok(Self { state, _keeper: keeper, ending })
    }

    /// How often the process has ended.
    pub(super) fn ends(&self) -> u32 {
        self.state.borrow().ends
    }

    /// How it ended last.
    pub(super) fn last_end(&self) -> String {
        self.state.borrow().last.clone()
    }

    /// Kills the process (SIGKILL).
    pub(super) fn kill(&self) {
        signal(self.state.borrow().pid, Signal::KILL);
    }

    /// Asks the process to end, and waits until it has. An error says that it has not within `limit`; then it is killed.
    pub(super) async fn stop(&self, limit: Duration) -> Result<(), String> {
        let mut state = self.state.clone();
        let before = state.borrow().ends;
        signal(state.borrow().pid, Signal::TERM);
        if timeout(limit, state.wait_for(|state| state.ends > before)).await.is_ok() {
            return Ok(());
        }
        self.kill();
        Err(format!("the worker did not end within {} s after SIGTERM", limit.as_secs()))
    }

    /// Ends the process for good.
    pub(super) async fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        // One that does not end by itself is killed.
        let _ = self.stop(STOPPING).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn keep(
    mut child: Child,
    command: Vec<String>,
    variables: Vec<(&'static str, String)>,
    sender: watch::Sender<State>,
    ending: Arc<AtomicBool>,
) {
    loop {
        let pid = pid_of(&child);
        let how = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        // What it has started ends with it.
        signal(pid, Signal::KILL);
        sender.send_modify(|state| *state = State { pid: None, ends: state.ends + 1, last: how });
        if ending.load(Ordering::Relaxed) {
            return;
        }
        child = loop {
            sleep(PAUSE).await;
            match spawn(&command, &variables) {
                Ok(child) => break child,
                Err(error) => sender.send_modify(|state| state.last = format!("{error:#}")),
            }
        };
        sender.send_modify(|state| state.pid = pid_of(&child));
    }
}

fn spawn(command: &[String], variables: &[(&'static str, String)]) -> anyhow::Result<Child> {
    let (program, arguments) = command.split_first().context("the worker's command is empty")?;
    // Its output goes where notes go: standard output has the findings.
    let output = std::io::stderr().as_fd().try_clone_to_owned()?;
    Command::new(program)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(output)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting the worker {program:?}"))
}

fn pid_of(child: &Child) -> Option<i32> {
    child.id().and_then(|pid| i32::try_from(pid).ok())
}

fn signal(pid: Option<i32>, signal: Signal) {
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have ended.
        let _ = kill_process_group(pid, signal);
    }
}

/// What the worker that the tester starts is told.
pub(super) fn variables(options: &Options, route: &Route) -> Vec<(&'static str, String)> {
    let config = &options.config;
    vec![
        ("NATS_URL", config.nats.url.clone()),
        ("NATS_USER", config.nats.worker.user.clone()),
        ("NATS_PASSWORD", config.nats.worker.password.expose().to_owned()),
        ("TIDE_PREFIX", config.nats.prefix.clone()),
        ("TIDE_ROUTE", route.name.clone()),
        ("TIDE_SERVICE", config.worker.service.clone()),
        ("TIDE_MAX_ATTEMPTS", route.max_attempts.to_string()),
    ]
}
