//! Decides what a stack consists of, and starts it in the order of health.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tidegate_shared::config::Config;
use tokio::task::spawn_blocking;

use super::{
    blueprint::{Blueprint, PlannedProcess},
    log::Logs,
    pid_file::PidFiles,
    port,
    process::ProcessSpec,
    running::Stack,
    server, setup,
    status::Kind,
};
use crate::output;

/// How often the start is repeated when somebody took a free port first.
const ATTEMPTS: usize = 3;

/// What a stack is to consist of. By default: the broker alone, on free ports, in a directory of its own.
#[derive(Debug, Clone)]
pub struct Builder {
    config: ConfigSource,
    gateways: usize,
    workers: usize,
    dir: Option<PathBuf>,
    free_ports: bool,
    variables: Vec<(String, String, String)>,
    echo: bool,
    fresh: bool,
    nats_server: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum ConfigSource {
    Text(String),
    File(PathBuf),
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            config: ConfigSource::Text(String::new()),
            gateways: 0,
            workers: 0,
            dir: None,
            free_ports: true,
            variables: Vec::new(),
            echo: false,
            fresh: false,
            nats_server: None,
        }
    }
}

impl Stack {
    /// Returns a builder for a stack of the broker alone.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// The stack's `tidegate.toml`, on top of the defaults.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = ConfigSource::Text(toml.to_owned());
        self
    }

    /// The same, from a file.
    #[must_use]
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config = ConfigSource::File(path.into());
        self
    }

    /// How many gateways.
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// How many workers.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Where its files are, and stay. Otherwise in a temporary directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Takes whatever ports are free: the default.
    #[must_use]
    pub fn free_ports(mut self) -> Self {
        self.free_ports = true;
        self
    }

    /// Takes the ports of the configuration, further gateways and workers those behind them.
    #[must_use]
    pub fn configured_ports(mut self) -> Self {
        self.free_ports = false;
        self
    }

    /// Sets an environment variable for the processes whose names begin with `prefix`.
    #[must_use]
    pub fn variable(
        mut self,
        prefix: impl Into<String>,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.variables.push((prefix.into(), key.into(), value.into()));
        self
    }

    /// Whether what the processes print is shown.
    #[must_use]
    pub fn echo_logs(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// Whether what the broker has stored in the directory is removed first.
    #[must_use]
    pub fn fresh(mut self, fresh: bool) -> Self {
        self.fresh = fresh;
        self
    }

    /// The nats-server to run, instead of the one that is found or fetched.
    #[must_use]
    pub fn nats_server(mut self, program: Option<PathBuf>) -> Self {
        self.nats_server = program;
        self
    }

    /// Starts the stack and returns when every process is ready.
    pub async fn start(self) -> anyhow::Result<Stack> {
        let mut attempt = 1;
        loop {
            match self.attempt().await {
                Err(error) if self.free_ports && attempt < ATTEMPTS && lost_a_port(&error) => attempt += 1,
                result => return result,
            }
        }
    }

    async fn attempt(&self) -> anyhow::Result<Stack> {
        let named = self.nats_server.clone();
        let nats_server = spawn_blocking(move || server::find(named.as_deref())).await??;
        let (dir, temporary) = self.directory()?;
        // First: nothing of a stack that runs there may be touched.
        let records = claim(&dir).await?;
        let (config, config_file) = self.read_config(&dir)?;
        let mut blueprint = Blueprint {
            config,
            config_file,
            nats_server,
            free_ports: self.free_ports,
            variables: self.variables.clone(),
            dir: dir.clone(),
        };
        let nats = blueprint.nats()?;
        let members = self.members(&blueprint)?;
        if !self.free_ports {
            report_busy(std::iter::once(&nats).chain(&members).map(|(spec, _)| spec))?;
        }
        if self.fresh {
            remove_stored(&dir)?;
        }
        let logs = Arc::new(Logs::new(&dir.join("logs"), self.echo)?);
        let stack = Stack::new(blueprint, temporary, logs, Arc::new(records))?;
        stack.launch(vec![nats]).await?;
        setup::apply(&setup::connect(stack.config()).await?, stack.config()).await?;
        stack.launch(members).await?;
        Ok(stack)
    }

    fn members(&self, blueprint: &Blueprint) -> anyhow::Result<Vec<PlannedProcess>> {
        let gateways = (1..=self.gateways).map(|number| blueprint.member(Kind::Gateway, number));
        gateways.chain((1..=self.workers).map(|number| blueprint.member(Kind::Worker, number))).collect()
    }

    fn directory(&self) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
        if let Some(dir) = &self.dir {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
            return Ok((fs::canonicalize(dir)?, None));
        }
        let dir = tempfile::Builder::new().prefix("tidegate-").tempdir().context("creating a directory")?;
        Ok((dir.path().to_owned(), Some(dir)))
    }

    /// Reads the configuration as the processes will, but for their own addresses.
    fn read_config(&self, dir: &Path) -> anyhow::Result<(Config, PathBuf)> {
        let file = match &self.config {
            ConfigSource::File(path) => path.clone(),
            ConfigSource::Text(text) => {
                let file = dir.join("tidegate.toml");
                let text = if text.is_empty() { "# Every key has its default.\n" } else { text };
                fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
                file
            }
        };
        let config = Config::load(Some(&file), &[])?;
        Ok((config, fs::canonicalize(file)?))
    }
}

/// Makes sure that nobody runs a stack in this directory, or has left one there.
async fn claim(dir: &Path) -> anyhow::Result<PidFiles> {
    let records = PidFiles::open(dir)?;
    if let Some(pid) = records.supervisor() {
        bail!(
            "a stack is running in {} already (pid {}): `tidegate status`, `tidegate down`",
            dir.display(),
            pid.as_raw_nonzero()
        );
    }
    let (records, ended) = spawn_blocking(move || {
        let ended = records.end_leftovers();
        (records, ended)
    })
    .await?;
    if !ended.is_empty() {
        output::note(format!("ended what an earlier stack left running: {}", ended.join(", ")));
    }
    records.claim();
    Ok(records)
}

/// Removes the broker's files.
fn remove_stored(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir.join("nats")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("removing what the broker has stored")
        }
        _ => Ok(()),
    }
}

/// Refuses to start anything while somebody else has one of the ports.
fn report_busy<'a>(specs: impl Iterator<Item = &'a ProcessSpec>) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for spec in specs {
        let key = match spec.kind {
            Kind::Nats => "nats.url",
            Kind::Gateway => "gateway.listen and gateway.internal",
            Kind::Worker => "worker.internal",
        };
        for address in BTreeSet::from([spec.public, spec.internal]) {
            if let Some(owner) = port::busy(address) {
                let name = &spec.name;
                taken.push(format!("port {} of {name} ({key}) is taken by {owner}", address.port()));
            }
        }
    }
    if !taken.is_empty() {
        bail!("{}\nStop it, configure other ports, or use --free-ports", taken.join("\n"));
    }
    Ok(())
}

/// Whether a start failed because somebody was faster to take a port.
fn lost_a_port(error: &anyhow::Error) -> bool {
    format!("{error:#}").to_lowercase().contains("address already in use")
}
