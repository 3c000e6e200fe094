//! The control socket of a running stack: one JSON line per request and response, over a Unix socket in its directory.
//!
//! Access is limited by the write permission of the directory.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use tidegate_shared::{failure, lifecycle::Lifecycle};
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
/// The longest request, in bytes.
const LONGEST: u64 = 4096;

/// A request to a running stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum ControlRequest {
    /// Report the state of every process.
    Status,
    /// Set the number of gateways or workers.
    Scale {
        /// Gateways or workers.
        kind: Kind,
        /// The new number.
        count: usize,
    },
    /// SIGKILL one process: a name, or `worker` or `gateway` for any.
    Kill {
        /// The name of the process.
        name: String,
    },
    /// Stop one process and leave it stopped.
    Stop {
        /// The name of the process.
        name: String,
    },
    /// Start a stopped process.
    Start {
        /// The name of the process.
        name: String,
    },
    /// Stop the stack. The response comes at once; the connection closes when every process has ended.
    Down,
}

/// The response of a running stack.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ControlResponse {
    /// Why the request failed.
    pub error: Option<String>,
    /// The result, for a person.
    pub text: String,
    /// The state of every process now.
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
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("replacing {}", path.display()));
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Serves requests until it is dropped. `Down` drains `lifecycle`.
    pub async fn serve(&self, stack: &Arc<Stack>, lifecycle: &Lifecycle) {
        let mut connections = JoinSet::new();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(stack), lifecycle.clone()));
                }
                // Most likely out of file descriptors: retry when some are free again.
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

/// Answers one request, then keeps the connection open until the client closes it or the stack has ended.
async fn converse(stream: UnixStream, stack: Arc<Stack>, lifecycle: Lifecycle) {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read.take(LONGEST));
    let mut line = String::new();
    if reader.read_line(&mut line).await.is_err() {
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => carry_out(&stack, &lifecycle, request).await,
        Err(error) => ControlResponse {
            error: Some(format!("malformed request: {error}")),
            ..ControlResponse::default()
        },
    };
    let Ok(text) = serde_json::to_string(&answer) else { return };
    if write.write_all(format!("{text}\n").as_bytes()).await.is_ok() {
        let _ = reader.read_line(&mut line).await;
    }
}

async fn carry_out(stack: &Stack, lifecycle: &Lifecycle, request: ControlRequest) -> ControlResponse {
    let (error, text) = match act(stack, lifecycle, request).await {
        Ok(text) => (None, text),
        Err(error) => (Some(failure::text(&error)), String::new()),
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

/// Resolves a process name. `worker` and `gateway` stand for a random ready process of the kind.
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

/// Sends a request to the stack in `dir`.
pub async fn ask(dir: &Path, request: &ControlRequest) -> anyhow::Result<ControlResponse> {
    let (answer, _) = converse_with(dir, request).await?;
    match answer.error {
        Some(error) => bail!(error),
        None => Ok(answer),
    }
}

/// Whether a stack accepts connections in `dir`.
pub async fn answers(dir: &Path) -> bool {
    UnixStream::connect(dir.join(SOCKET)).await.is_ok()
}

/// Stops the stack in `dir` and waits for its end. Also ends the leftovers of a killed supervisor.
pub async fn end(dir: &Path) -> anyhow::Result<String> {
    let records = PidFiles::open(dir)?;
    let Some(supervisor) = records.supervisor() else {
        let ended = tokio::task::spawn_blocking(move || records.end_leftovers()).await?;
        return Ok(match ended.as_slice() {
            [] => format!("nothing runs in {}", dir.display()),
            ended => format!("ended the processes an earlier stack left running: {}", ended.join(", ")),
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
    let mut stream = stream.map_err(|error| match error.kind() {
        // The system's words would only repeat it.
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            anyhow::anyhow!("nothing runs in {}: `tidegate up` starts a stack", dir.display())
        }
        _ => anyhow::Error::from(error).context(format!("cannot ask the stack in {}", dir.display())),
    })?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes()).await?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let answer = serde_json::from_str(&line).context("the stack ended before it answered: see its logs")?;
    Ok((answer, reader))
}
