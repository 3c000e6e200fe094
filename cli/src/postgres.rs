//! A PostgreSQL server of one's own, for tests and fault runs: Debian's programs, on a socket in a temporary directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Where Debian keeps the versions.
const VERSIONS: &str = "/usr/lib/postgresql";
/// How long the server may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// A running server. It ends with this value, and its data too.
#[derive(Debug)]
pub struct Postgres {
    process: Child,
    directory: TempDir,
    programs: PathBuf,
}

impl Postgres {
    /// Makes a database and starts the server. Needs Debian's package `postgresql`.
    pub async fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        // The path of a socket must be short, and another user makes it.
        let directory = tempfile::Builder::new().prefix("tide-pg-").tempdir_in("/tmp")?;
        let open = Command::new("chmod").arg("777").arg(directory.path()).status()?;
        ensure!(open.success(), "cannot open {} to the user postgres", directory.path().display());
        let data = directory.path().join("data");
        let mut initdb = as_postgres(&programs.join("initdb"));
        initdb.args(["-A", "trust", "-U", "postgres", "-N", "-D"]).arg(&data).stdout(Stdio::null());
        ensure!(initdb.status().context("running initdb")?.success(), "initdb failed");
        let log = fs::File::create(directory.path().join("log"))?;
        // Nobody cuts the power of these databases.
        let process = as_postgres(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
            .arg(directory.path())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting postgres")?;
        let server = Self { process, directory, programs };
        server.ready().await?;
        Ok(server)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let mut asks = Command::new(self.programs.join("pg_isready"));
            asks.arg("-h").arg(self.directory.path()).stdout(Stdio::null());
            if asks.status().context("running pg_isready")?.success() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                bail!("PostgreSQL is not ready after {START_LIMIT:?}: {log}");
            }
            sleep(LOOK).await;
        }
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("postgres:///postgres?user=postgres&host={}", self.directory.path().display())
    }

    /// Returns the lines that a query prints.
    pub fn query(&self, sql: &str) -> anyhow::Result<String> {
        let psql = Command::new(self.programs.join("psql"))
            .arg("-h")
            .arg(self.directory.path())
            .args(["-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", sql])
            .output()
            .context("running psql")?;
        ensure!(psql.status.success(), "{sql}: {}", String::from_utf8_lossy(&psql.stderr));
        Ok(String::from_utf8(psql.stdout)?.trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.directory.path().join("data/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next() {
            let _ = Command::new("kill").args(["-QUIT", pid]).status();
        }
        let _ = self.process.wait();
    }
}

/// The programs of the newest version.
fn programs() -> anyhow::Result<PathBuf> {
    let needed = "install Debian's package postgresql";
    let versions = fs::read_dir(VERSIONS).with_context(|| format!("reading {VERSIONS}: {needed}"))?;
    let versions = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let newest = versions.filter(|programs| programs.join("postgres").is_file()).max();
    newest.with_context(|| format!("no server in {VERSIONS}: {needed}"))
}

/// The server refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}
