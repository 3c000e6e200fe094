//! Builds a stack: collects its settings, then starts the broker before the other processes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tidegate_shared::{config::Config, id::random_token};
use tokio::task::spawn_blocking;

use super::{
    blueprint::{Blueprint, PlannedProcess},
    broker::Separation,
    log::Logs,
    pid_file::PidFiles,
    port,
    process::ProcessSpec,
    running::Stack,
    server, setup,
    status::Kind,
};
use crate::output;

/// Start attempts when another process takes a chosen free port first.
const ATTEMPTS: usize = 3;

/// The settings of a stack. Default: the broker alone, on free ports, in a temporary directory.
#[derive(Debug, Clone)]
pub struct Builder {
    config: ConfigSource,
    gateways: usize,
    workers: usize,
    worker: String,
    purger: bool,
    separation: Separation,
    relaxed: bool,
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
            worker: "tidegate-worker".to_owned(),
            purger: false,
            separation: Separation::Accounts,
            relaxed: false,
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
    /// Sets the text of `tidegate.toml`. Missing keys have their defaults.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = ConfigSource::Text(toml.to_owned());
        self
    }

    /// Sets the path of `tidegate.toml`.
    #[must_use]
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config = ConfigSource::File(path.into());
        self
    }

    /// Sets the number of gateways.
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// Sets the number of workers.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Sets the program of the workers, one of the workspace's. Default: the stock worker.
    #[must_use]
    pub fn worker_program(mut self, name: impl Into<String>) -> Self {
        self.worker = name.into();
        self
    }

    /// Runs the purger even without gateways and workers. With them it always runs.
    #[must_use]
    pub fn with_purger(mut self) -> Self {
        self.purger = true;
        self
    }

    /// Sets how the users of the broker are separated. Default: by accounts.
    #[must_use]
    pub fn separation(mut self, separation: Separation) -> Self {
        self.separation = separation;
        self
    }

    /// Lets the broker acknowledge messages before they are on the disk: what is accepted then survives kill -9 only.
    #[must_use]
    pub fn relaxed(mut self, relaxed: bool) -> Self {
        self.relaxed = relaxed;
        self
    }

    /// Sets the directory of the stack's files, which stay there. Default: a temporary directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Uses free ports (the default).
    #[must_use]
    pub fn free_ports(mut self) -> Self {
        self.free_ports = true;
        self
    }

    /// Uses the configured ports. Further gateways and workers use the ports after them.
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

    /// Sets whether the output of the processes is printed.
    #[must_use]
    pub fn echo_logs(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// Sets whether the broker's stored data in the directory is removed before the start.
    #[must_use]
    pub fn fresh(mut self, fresh: bool) -> Self {
        self.fresh = fresh;
        self
    }

    /// Sets the nats-server program. Default: search for it, then fetch it.
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
        // First: the files of a running stack must not be touched.
        let records = claim(&dir).await?;
        let (config, config_file) = self.read_config(&dir)?;
        let mut blueprint = Blueprint {
            config,
            config_file,
            nats_server,
            worker: self.worker.clone(),
            free_ports: self.free_ports,
            separation: self.separation,
            relaxed: self.relaxed,
            admin: self.dir.is_none().then(random_token::<20>),
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
        let gateways = (1..=self.gateways).map(|number| blueprint.process(Kind::Gateway, number));
        let workers = (1..=self.workers).map(|number| blueprint.process(Kind::Worker, number));
        let purger =
            (self.purger || self.gateways + self.workers > 0).then(|| blueprint.process(Kind::Purger, 1));
        gateways.chain(workers).chain(purger).collect()
    }

    fn directory(&self) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
        if let Some(dir) = &self.dir {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
            return Ok((fs::canonicalize(dir)?, None));
        }
        let dir = tempfile::Builder::new().prefix("tidegate-").tempdir().context("creating a directory")?;
        Ok((dir.path().to_owned(), Some(dir)))
    }

    /// Reads the configuration as the processes read it, except for their own addresses.
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

/// Claims the directory: fails if a stack runs in it, and ends the leftovers of a killed supervisor.
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
        output::note(format!("ended the processes an earlier stack left running: {}", ended.join(", ")));
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

/// Fails if another process listens on one of the ports.
fn report_busy<'a>(specs: impl Iterator<Item = &'a ProcessSpec>) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for spec in specs {
        let key = match spec.kind {
            Kind::Nats => "nats.url",
            Kind::Gateway => "gateway.listen and gateway.internal",
            Kind::Worker => "worker.internal",
            Kind::Purger => "purger.internal",
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

/// Whether a start failed because another process took a port first.
fn lost_a_port(error: &anyhow::Error) -> bool {
    format!("{error:#}").to_lowercase().contains("address already in use")
}
