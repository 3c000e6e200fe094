//! A nats-server of one test: on a port that it chooses, in a folder of its own. Both are gone when it is dropped, or when the test's
//! process ends in whatever way.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tidegate_shared::{
    access::{Access, Account},
    config::Config,
    local_server,
};
use tokio::time::sleep;

use super::found::NotStarted;

/// How long the server may take to say its port.
const START: Duration = Duration::from_secs(20);
/// The pause between two looks for the file that says it.
const LOOK: Duration = Duration::from_millis(10);
/// Runs the server until the test's end of the pipe is closed.
const SCRIPT: &str =
    "\"$1\" --config \"$2\" > \"$3/nats.log\" 2>&1 & cat > /dev/null; kill -9 $!; wait; rm -rf \"$3\"";

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    shell: Child,
    dir: TempDir,
}

impl Server {
    /// Starts a server whose users and rights are those of the configuration. Returns it with its URL.
    pub(super) async fn start(
        dir: TempDir,
        config: &Config,
        admin: &str,
    ) -> Result<(Self, String), NotStarted> {
        let find = tokio::task::spawn_blocking(|| local_server::find(None, &tools()));
        let found = find.await.map_err(|error| NotStarted::Server(error.to_string()))?;
        let program = found.map_err(|error| NotStarted::NoServer(error.to_string()))?.ok_or_else(|| {
            NotStarted::NoServer(format!(
                "put a nats-server on the PATH, or its path into {}; {}",
                local_server::VARIABLE,
                local_server::needed()
            ))
        })?;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| NotStarted::Server(format!("{what}: {error}"))
        };
        let file = dir.path().join("nats.conf");
        std::fs::write(&file, configuration(config, dir.path(), admin)).map_err(failed("its nats.conf"))?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(program).arg(file).arg(dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { shell: command.spawn().map_err(failed("starting sh"))?, dir };
        let url = server.url().await?;
        Ok((server, url))
    }

    /// Waits for the server's address.
    async fn url(&self) -> Result<String, NotStarted> {
        let started = Instant::now();
        loop {
            if let Some(url) = written_url(self.dir.path()) {
                return Ok(url);
            }
            if started.elapsed() > START {
                let log = std::fs::read_to_string(self.dir.path().join("nats.log")).unwrap_or_default();
                return Err(NotStarted::Server(format!("it has not said its port within {START:?}: {log}")));
            }
            sleep(LOOK).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Where a checkout keeps its tools: the first folder `.tools` from here upwards.
fn tools() -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    let found = here.ancestors().map(|dir| dir.join(".tools")).find(|tools| tools.is_dir());
    found.unwrap_or(here)
}

/// The URL in the file that the server writes when it listens.
fn written_url(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let file = entries.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(ports.pointer("/nats/0")?.as_str()?.to_owned())
}

/// Messages are acknowledged before they are on the disk: a test needs no more.
fn configuration(config: &Config, dir: &Path, admin: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let passwords = Account::USERS.iter().filter_map(|account| {
        let password = quoted(account.user(config)?.password.expose());
        Some(format!("{} = {password}\n", account.password_variable()))
    });
    let passwords: String = passwords.collect();
    let (ports, data) = (quoted(&dir.display().to_string()), quoted(&dir.join("data").display().to_string()));
    format!(
        "{passwords}server_name: tidegate-test\nhost: 127.0.0.1\nport: -1\nports_file_dir: {ports}\nmax_payload: 1MB\n\
         jetstream {{\n  store_dir: {data}\n  max_mem: 1G\n  max_file: 100G\n}}\n{}",
        Access::of(config).nats_conf_with_admin(admin)
    )
}
