//! `tidegate up --detach`: starts the same command in the background and waits until it is ready.

use std::{
    env, fs,
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tidegate_cli::{output, stack::control};
use tokio::{process::Command, time::sleep};

/// The output of the background process, without the logs of the stack.
const LOG: &str = "up.log";
/// The interval of readiness checks.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn run(dir: &Path) -> anyhow::Result<ExitCode> {
    if control::answers(dir).await {
        bail!("a stack is running in {} already: `tidegate status`, `tidegate down`", dir.display());
    }
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let log = dir.join(LOG);
    let file = fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let args = env::args_os().skip(1).filter(|arg| arg != "--detach" && arg != "-d");
    let mut child = Command::new(env::current_exe()?)
        // The banner shows commands with the program name that was typed.
        .arg0(env::args_os().next().unwrap_or_default())
        .args(args)
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        // A group of its own, which Ctrl-C in this terminal does not reach.
        .process_group(0)
        .spawn()
        .context("starting the process in the background")?;
    loop {
        tokio::select! {
            exit = child.wait() => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                output::note(said.trim_end());
                let code = exit?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            () = sleep(PAUSE) => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                // Ready: it serves the control socket and its banner is complete.
                if !said.is_empty() && control::answers(dir).await && said.contains(super::banner::LAST_LINE) {
                    output::text(&said);
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}
