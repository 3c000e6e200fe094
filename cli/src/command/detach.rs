//! `tidegate up --detach`: the same command again, in the background, watched until it is ready.

use std::{
    env, fs,
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tidegate_cli::{output, stack::control};
use tokio::{process::Command, time::sleep};

/// What the process in the background writes, but for the logs of the stack.
const LOG: &str = "up.log";
/// The pause between two looks.
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
        // What it shows to be typed begins as this command did.
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
                // The last thing it does before it answers is to say what a person needs to know.
                if !said.is_empty() && control::answers(dir).await && said.contains(super::banner::LAST_LINE) {
                    output::text(&said);
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}
