//! `tidegate logs`: what the processes of the local stack have printed.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use tidegate_cli::{output, stack};
use tokio::time::sleep;

use crate::command::DirArgs;

/// How often a followed file is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `tidegate logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dir: DirArgs,
    /// Go on as more is printed.
    #[arg(long, short)]
    follow: bool,
    /// One process; without a name all of them.
    name: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let path = stack::log_file(&args.dir.dir, args.name.as_deref());
    let mut read = print_from(&path, 0)?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        sleep(PAUSE).await;
        read = print_from(&path, read)?;
    }
}

/// Prints what is behind `read` bytes and returns how many have been read now. A shorter file is a new one.
fn print_from(path: &Path, read: u64) -> anyhow::Result<u64> {
    let mut file = File::open(path).with_context(|| format!("there is no {}", path.display()))?;
    let length = file.metadata()?.len();
    let from = if length < read { 0 } else { read };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length - from).read_to_end(&mut bytes)?;
    output::text(&String::from_utf8_lossy(&bytes));
    Ok(length)
}
