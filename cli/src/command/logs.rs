//! `tidegate logs`: prints the output of the local stack's processes.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use tidegate_cli::{output, stack};
use tokio::time::sleep;

use crate::command::DirArgs;

/// The interval of checks for new output.
const PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `tidegate logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dir: DirArgs,
    /// Keep printing new output.
    #[arg(long, short)]
    follow: bool,
    /// The process [default: all].
    name: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let path = stack::log_file(&args.dir.dir, args.name.as_deref());
    if !path.is_file() {
        bail!(nothing(&args));
    }
    let mut read = print_from(&path, 0)?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        sleep(PAUSE).await;
        read = print_from(&path, read)?;
    }
}

/// Why there is no log.
fn nothing(args: &Args) -> String {
    let dir = args.dir.dir.display();
    let logs = stack::logs(&args.dir.dir);
    match &args.name {
        Some(name) if !logs.is_empty() => {
            format!("no process {name:?} has run in {dir}; there are {}", logs.join(", "))
        }
        _ => format!("nothing has run in {dir}: `tidegate up` starts a stack; --dir names another directory"),
    }
}

/// Prints the file from offset `read` and returns the new offset. A shorter file is a new one.
fn print_from(path: &Path, read: u64) -> anyhow::Result<u64> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let length = file.metadata()?.len();
    let from = if length < read { 0 } else { read };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length - from).read_to_end(&mut bytes)?;
    output::text(&String::from_utf8_lossy(&bytes));
    Ok(length)
}
