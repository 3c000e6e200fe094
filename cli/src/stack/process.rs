//! One child process and the task that starts it, waits for it, and restarts it after a crash.
//!
//! Only that task waits for the child, so there is never a zombie. Other code sets the desired state and watches the actual
//! one.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    log::Logs,
    pid_file::PidFiles,
    port::ReservedPort,
    probe,
    status::{Kind, ProcessPhase},
};

/// The wait after a first crash; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait after a crash.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// After this uptime a crash no longer counts as one in a row.
const STABLE: Duration = Duration::from_secs(10);
/// Crashes in a row that are reported as a crash loop.
pub(crate) const CRASH_LOOP: u32 = 3;
/// How long the pipes of an exited process are read. Bounded, because a grandchild may still hold them.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a process is started.
#[derive(Debug)]
pub(crate) struct ProcessSpec {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) variables: Vec<(String, String)>,
    /// The address for clients.
    pub(crate) public: SocketAddr,
    /// The address of the health endpoint.
    pub(crate) internal: SocketAddr,
    /// The path of the health endpoint.
    pub(crate) health: &'static str,
    /// How long it may take to stop after SIGTERM.
    pub(crate) grace: Duration,
}

/// The state the task has to establish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DesiredState {
    Running,
    /// Stopped with SIGTERM, so that it finishes its work.
    Stopped,
    /// Stopped with SIGKILL.
    Killed,
}

/// The actual state of the process.
#[derive(Debug, Clone)]
pub(crate) struct ProcessState {
    pub(crate) phase: ProcessPhase,
    pub(crate) pid: Option<Pid>,
    pub(crate) starts: u32,
    pub(crate) restarts: u32,
    pub(crate) crashes: u32,
    /// Whether [`Process::kill`] causes its next end, which is then no crash.
    killed: bool,
    pub(crate) since: Instant,
    pub(crate) exit: Option<ExitStatus>,
}

/// A supervised process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) spec: ProcessSpec,
    reserved: Mutex<Vec<ReservedPort>>,
    state: watch::Sender<ProcessState>,
    wanted: watch::Sender<DesiredState>,
    logs: Arc<Logs>,
    records: Arc<PidFiles>,
}

impl Process {
    pub(crate) fn new(
        spec: ProcessSpec,
        reserved: Vec<ReservedPort>,
        logs: Arc<Logs>,
        records: Arc<PidFiles>,
    ) -> Self {
        let state = ProcessState {
            phase: ProcessPhase::Starting,
            pid: None,
            starts: 0,
            restarts: 0,
            crashes: 0,
            killed: false,
            since: Instant::now(),
            exit: None,
        };
        Self {
            spec,
            reserved: Mutex::new(reserved),
            state: watch::Sender::new(state),
            wanted: watch::Sender::new(DesiredState::Running),
            logs,
            records,
        }
    }

    /// Keeps the process in its desired state until `end`, then kills it. Only one task may run this.
    pub(crate) async fn supervise(self: Arc<Self>, end: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        while !end.is_cancelled() {
            if !until(&mut wanted, &end, |wanted| wanted == DesiredState::Running).await {
                break;
            }
            if self.run(&mut wanted, &end).await {
                let pause = self.crashed();
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = until(&mut wanted, &end, |wanted| wanted != DesiredState::Running) => {}
                }
            }
        }
        self.set(|state| state.phase = ProcessPhase::Stopped);
    }

    /// Runs the process once. Returns whether it ended unexpectedly.
    async fn run(&self, wanted: &mut watch::Receiver<DesiredState>, end: &CancellationToken) -> bool {
        let mut pipes = JoinSet::new();
        let mut child = match self.spawn(&mut pipes) {
            Ok(child) => child,
            Err(error) => {
                self.logs
                    .line(&self.spec.name, &format!("cannot start {}: {error}", self.spec.program.display()));
                return true;
            }
        };
        let ready = probe::until_healthy(self.spec.internal, self.spec.health);
        tokio::pin!(ready);
        let mut is_ready = false;
        let asked = loop {
            tokio::select! {
                _ = child.wait() => break false,
                () = &mut ready, if !is_ready => {
                    is_ready = true;
                    self.set(|state| state.phase = ProcessPhase::Ready);
                }
                _ = until(wanted, end, |wanted| wanted != DesiredState::Running) => break true,
            }
        };
        if asked {
            let gently = *self.wanted.borrow() == DesiredState::Stopped && !end.is_cancelled();
            self.end(&mut child, gently, end).await;
        }
        let exit = child.wait().await.ok();
        // Its last output is read before the state says that it has ended.
        let _ = timeout(LAST_WORDS, async { while pipes.join_next().await.is_some() {} }).await;
        self.records.remove(&self.spec.name);
        self.set(|state| {
            state.pid = None;
            state.exit = exit;
            state.phase = if asked { ProcessPhase::Stopped } else { ProcessPhase::Waiting };
        });
        !asked
    }

    fn spawn(&self, pipes: &mut JoinSet<()>) -> std::io::Result<Child> {
        // The ports are freed just before the process binds them.
        let mut reserved = self.reserved.lock();
        reserved.iter_mut().for_each(ReservedPort::hand_over);
        drop(reserved);
        let mut child = Command::new(&self.spec.program)
            .args(&self.spec.args)
            .envs(self.spec.variables.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C reaches the supervisor alone, which then stops its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(stdout) = child.stdout.take() {
            pipes.spawn(read(stdout, self.spec.name.clone(), Arc::clone(&self.logs)));
        }
        if let Some(stderr) = child.stderr.take() {
            pipes.spawn(read(stderr, self.spec.name.clone(), Arc::clone(&self.logs)));
        }
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid {
            self.records.add(&self.spec.name, pid);
        }
        self.set(|state| {
            state.phase = ProcessPhase::Starting;
            state.pid = pid;
            state.exit = None;
            state.killed = false;
            state.restarts += u32::from(state.starts > 0);
            state.starts += 1;
            state.since = Instant::now();
        });
        Ok(child)
    }

    /// Ends the child: with SIGTERM first if `gently`, and with SIGKILL after its grace time.
    async fn end(&self, child: &mut Child, gently: bool, end: &CancellationToken) {
        if gently {
            self.signal(Signal::TERM);
            // A paused process handles SIGTERM only after SIGCONT.
            self.signal(Signal::CONT);
            tokio::select! {
                _ = child.wait() => return,
                () = sleep(self.spec.grace) => {
                    self.logs.line(&self.spec.name, &format!("did not end within {:?}: killed", self.spec.grace));
                }
                () = end.cancelled() => {}
            }
        }
        self.signal(Signal::KILL);
    }

    /// Counts a crash and returns the wait before the next start.
    fn crashed(&self) -> Duration {
        self.set(|state| {
            state.phase = ProcessPhase::Waiting;
            state.crashes = match state.since.elapsed() {
                _ if state.killed => state.crashes,
                up if up > STABLE => 1,
                _ => state.crashes + 1,
            };
        });
        let state = self.state.borrow().clone();
        let pause = (FIRST_BACKOFF * 2_u32.pow(state.crashes.saturating_sub(1).min(10))).min(LONGEST_BACKOFF);
        let how = state.exit.map_or_else(|| "did not start".to_owned(), |exit| format!("ended ({exit})"));
        let again = format!("next start in {pause:?}");
        if state.crashes >= CRASH_LOOP {
            let tail = self.logs.tail(&self.spec.name);
            let told = format!(
                "{} keeps crashing: {how}, {} times in a row, {again}. Its last lines:{tail}",
                self.spec.name, state.crashes
            );
            told.lines().for_each(|line| self.logs.line("stack", line));
        } else {
            self.logs.line("stack", &format!("{} {how}, {again}", self.spec.name));
        }
        pause
    }

    fn set(&self, change: impl FnOnce(&mut ProcessState)) {
        self.state.send_modify(change);
    }

    /// Returns the current state.
    pub(crate) fn state(&self) -> ProcessState {
        self.state.borrow().clone()
    }

    /// Sends a signal to the process group. Returns false if the process does not run.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let pid = self.state.borrow().pid;
        pid.is_some_and(|pid| kill_process_group(pid, signal).is_ok())
    }

    /// Pauses or resumes the process.
    pub(crate) fn pause(&self, paused: bool) -> anyhow::Result<()> {
        if !self.signal(if paused { Signal::STOP } else { Signal::CONT }) {
            bail!("{} is not running", self.spec.name);
        }
        Ok(())
    }

    /// Kills the process and waits for its end; the task restarts it. It does not count as a crash, so the pause does not grow.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let starts = self.state.borrow().starts;
        self.set(|state| state.killed = state.pid.is_some());
        if !self.signal(Signal::KILL) {
            bail!("{} is not running", self.spec.name);
        }
        self.watch(|state| state.starts != starts || state.pid.is_none()).await;
        Ok(())
    }

    /// Ends the process, with SIGTERM if `gently`, and leaves it stopped. Returns its exit status.
    pub(crate) async fn take_down(&self, gently: bool) -> Option<ExitStatus> {
        self.wanted.send_replace(if gently { DesiredState::Stopped } else { DesiredState::Killed });
        self.watch(|state| state.pid.is_none()).await;
        self.set(|state| state.phase = ProcessPhase::Stopped);
        self.state.borrow().exit
    }

    /// Starts a stopped process and returns when it runs.
    pub(crate) async fn bring_up(&self) {
        self.set(|state| state.crashes = 0);
        self.wanted.send_replace(DesiredState::Running);
        self.watch(|state| state.pid.is_some() || state.crashes > 0).await;
    }

    /// Waits until the process is ready. Fails after `patience` crashes in a row, when it is stopped, or after `limit`.
    pub(crate) async fn ready(&self, patience: u32, limit: Duration) -> anyhow::Result<()> {
        let settled = self.watch(|state| {
            matches!(state.phase, ProcessPhase::Ready | ProcessPhase::Stopped) || state.crashes >= patience
        });
        let Ok(state) = timeout(limit, settled).await else {
            bail!("{} is not ready after {limit:?}:{}", self.spec.name, self.logs.tail(&self.spec.name));
        };
        match state.phase {
            ProcessPhase::Ready => Ok(()),
            ProcessPhase::Stopped => bail!("{} is stopped", self.spec.name),
            _ => Err(anyhow::anyhow!(
                "{}{}",
                state.exit.map(|e| e.to_string()).unwrap_or_default(),
                self.logs.tail(&self.spec.name)
            ))
            .with_context(|| format!("{} does not start", self.spec.name)),
        }
    }

    async fn watch(&self, reached: impl Fn(&ProcessState) -> bool) -> ProcessState {
        let mut receiver = self.state.subscribe();
        // `self` holds the sender, so the channel cannot be closed.
        receiver.wait_for(reached).await.map_or_else(|_| self.state(), |state| state.clone())
    }
}

/// Waits for a desired state, or for `end`. Returns false at `end`.
async fn until(
    wanted: &mut watch::Receiver<DesiredState>,
    end: &CancellationToken,
    reached: impl Fn(DesiredState) -> bool,
) -> bool {
    tokio::select! {
        () = end.cancelled() => false,
        result = wanted.wait_for(|wanted| reached(*wanted)) => result.is_ok(),
    }
}

/// Logs the output of a process line by line until the pipe is closed.
async fn read(pipe: impl AsyncRead + Unpin, name: String, logs: Arc<Logs>) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await.is_ok_and(|bytes| bytes > 0) {
        logs.line(&name, String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
