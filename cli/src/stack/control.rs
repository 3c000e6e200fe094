//! The way to a running stack from outside: one JSON line asks, one JSON line answers, over a Unix socket in its directory.
//!
//! Whoever may write into the directory may ask; nobody else.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use tidegate_shared::lifecycle::Lifecycle;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::sleep,
};

use super::{
    pid_file::PidFiles,
    running::Stack,
    status::{Kind, ProcessPhase, ProcessStatus},
};

/// The socket's name.
const SOCKET: &str = "control.sock";
/// The longest question.
const LONGEST: u64 = 4096;

/// What can be asked of a running stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum ControlRequest {
    /// What every process is doing.
    Status,
    /// Have this many of them.
    Scale {
        /// Gateways or workers.
        kind: Kind,
        /// How many.
        count: usize,
    },
    /// SIGKILL one process: a name, or `worker` or `gateway` for any.
    Kill {
        /// Which.
        name: String,
    },
    /// End one process and leave it down.
    Stop {
        /// Which.
        name: String,
    },
    /// Start one that is down.
    Start {
        /// Which.
        name: String,
    },
    /// End everything. The answer comes at once, the end of the connection when all has ended.
    Down,
}

/// What a running stack answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ControlResponse {
    /// Why it could not be done.
    pub error: Option<String>,
    /// What was done.
    pub text: String,
    /// What every process is doing now.
    pub processes: Vec<ProcessStatus>,
}

/// The supervisor's end of the socket.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlServer {
    /// Opens the socket of the stack in `dir`, in place of one that a killed supervisor left.
    pub fn listen(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(SOCKET);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("replacing {}", path.display()));
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Answers until it is dropped. Asked to end everything, it tells `lifecycle`.
    pub async fn serve(&self, stack: &Arc<Stack>, lifecycle: &Lifecycle) {
        let mut connections = JoinSet::new();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(stack), lifecycle.clone()));
                }
                // Out of descriptors: some will be free again.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
            while connections.try_join_next().is_some() {}
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers one connection's question, then keeps it open until the other side leaves or everything has ended.
async fn converse(stream: UnixStream, stack: Arc<Stack>, lifecycle: Lifecycle) {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read.take(LONGEST));
    let mut line = String::new();
    if reader.read_line(&mut line).await.is_err() {
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => carry_out(&stack, &lifecycle, request).await,
        Err(error) => {
            ControlResponse { error: Some(format!("not a question: {error}")), ..ControlResponse::default() }
        }
    };
    let Ok(text) = serde_json::to_string(&answer) else { return };
    if write.write_all(format!("{text}\n").as_bytes()).await.is_ok() {
        let _ = reader.read_line(&mut line).await;
    }
}

async fn carry_out(stack: &Stack, lifecycle: &Lifecycle, request: ControlRequest) -> ControlResponse {
    let (error, text) = match act(stack, lifecycle, request).await {
        Ok(text) => (None, text),
        Err(error) => (Some(format!("{error:#}")), String::new()),
    };
    ControlResponse { error, text, processes: stack.status() }
}

async fn act(stack: &Stack, lifecycle: &Lifecycle, request: ControlRequest) -> anyhow::Result<String> {
    Ok(match request {
        ControlRequest::Status => String::new(),
        ControlRequest::Scale { kind, count } => {
            stack.scale(kind, count).await?;
            format!("{kind}s: {count}")
        }
        ControlRequest::Kill { name } => {
            let name = any_of(stack, &name)?;
            let pid = stack.pid(&name).unwrap_or_default();
            stack.kill(&name).await?;
            format!("killed {name} (pid {pid}); it is started again")
        }
        ControlRequest::Stop { name } => {
            let exit = stack.stop(&name).await?;
            format!("{name} ended ({exit}) and stays down until `tidegate start {name}`")
        }
        ControlRequest::Start { name } => {
            stack.start_process(&name).await?;
            stack.wait_ready(&name).await?;
            format!("{name} is ready")
        }
        ControlRequest::Down => {
            lifecycle.drain();
            "ending".to_owned()
        }
    })
}

/// A process by name, or any running one of a kind.
fn any_of(stack: &Stack, name: &str) -> anyhow::Result<String> {
    let kind = match name {
        "worker" => Kind::Worker,
        "gateway" => Kind::Gateway,
        _ => return Ok(name.to_owned()),
    };
    let running: Vec<ProcessStatus> =
        stack.status().into_iter().filter(|p| p.kind == kind && p.phase == ProcessPhase::Ready).collect();
    let chosen = running.choose(&mut rand::rng());
    Ok(chosen.with_context(|| format!("no {kind} is running"))?.name.clone())
}

/// Asks the stack that runs in `dir`.
pub async fn ask(dir: &Path, request: &ControlRequest) -> anyhow::Result<ControlResponse> {
    let (answer, _) = converse_with(dir, request).await?;
    match answer.error {
        Some(error) => bail!(error),
        None => Ok(answer),
    }
}

/// Whether a stack answers in `dir`.
pub async fn answers(dir: &Path) -> bool {
    UnixStream::connect(dir.join(SOCKET)).await.is_ok()
}

/// Asks the stack in `dir` to end, and returns when it has. Also ends what a killed supervisor left there.
pub async fn end(dir: &Path) -> anyhow::Result<String> {
    let records = PidFiles::open(dir)?;
    let Some(supervisor) = records.supervisor() else {
        let ended = tokio::task::spawn_blocking(move || records.end_leftovers()).await?;
        return Ok(match ended.as_slice() {
            [] => format!("nothing runs in {}", dir.display()),
            ended => format!("ended what an earlier stack left running: {}", ended.join(", ")),
        });
    };
    let (_, mut stream) = converse_with(dir, &ControlRequest::Down).await?;
    // The stream ends with the supervisor.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    while records.supervisor() == Some(supervisor) {
        sleep(Duration::from_millis(10)).await;
    }
    Ok("everything has ended".to_owned())
}

async fn converse_with(
    dir: &Path,
    request: &ControlRequest,
) -> anyhow::Result<(ControlResponse, BufReader<UnixStream>)> {
    let path = dir.join(SOCKET);
    let stream = UnixStream::connect(&path).await;
    let mut stream = stream.with_context(|| format!("nothing runs in {}: `tidegate up`", dir.display()))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes()).await?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let answer = serde_json::from_str(&line).context("the stack ended before it answered")?;
    Ok((answer, reader))
}
