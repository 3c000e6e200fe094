//! `tidegate up`: runs the local stack until `tidegate down` or a signal.

use std::{convert::Infallible, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tidegate_cli::{
    output,
    stack::{Stack, control::ControlServer, server, setup},
};
use tidegate_shared::lifecycle::Lifecycle;
use tokio::signal::unix::{SignalKind, signal};

use crate::command::{ConfigArgs, DirArgs, banner, detach};

/// How often `tidegate up` looks whether a stream or a consumer is missing.
const TOPOLOGY_PAUSE: Duration = Duration::from_secs(3);

/// Arguments of `tidegate up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) dir: DirArgs,
    /// The number of workers.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = super::number_of_processes)]
    workers: usize,
    /// The number of gateways.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = super::number_of_processes)]
    gateways: usize,
    /// Run in the background; return when every process is ready.
    #[arg(long, short)]
    detach: bool,
    /// Use free ports instead of the configured ones.
    #[arg(long)]
    free_ports: bool,
    /// Remove the broker's stored data first.
    #[arg(long)]
    fresh: bool,
    /// The nats-server program.
    #[arg(long, env = server::VARIABLE, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Marks the background process of `--detach`.
    #[arg(long, hide = true, conflicts_with = "detach")]
    detached: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.detach {
        return detach::run(&args.dir.dir).await;
    }
    let lifecycle = Lifecycle::new();
    lifecycle.listen_for_signals().context("listening for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for signals")?;
    let running = async {
        let Some(stack) = start(&args, &lifecycle).await? else { return Ok(ExitCode::FAILURE) };
        hold(&args, &Arc::new(stack), &lifecycle).await
    };
    tokio::pin!(running);
    loop {
        tokio::select! {
            result = &mut running => return result,
            // The terminal was closed. A background stack ignores that; a foreground stack stops.
            _ = hangup.recv() => if !args.detached { lifecycle.drain() },
        }
    }
}

/// Starts the stack. Returns `None` if a signal asks it to stop meanwhile.
async fn start(args: &Args, lifecycle: &Lifecycle) -> anyhow::Result<Option<Stack>> {
    let mut builder = Stack::builder()
        .dir(&args.dir.dir)
        .gateways(args.gateways)
        .workers(args.workers)
        .nats_server(args.nats_server.clone())
        .fresh(args.fresh)
        .echo_logs(!args.detached);
    if !args.free_ports {
        builder = builder.configured_ports();
    }
    if let Some(file) = args.config.file() {
        builder = builder.config_file(file);
    }
    tokio::select! {
        stack = builder.start() => stack.map(Some),
        () = lifecycle.draining() => Ok(None),
    }
}

/// Serves control requests until a stop is requested, then stops the stack in order. A second signal ends it at once.
async fn hold(args: &Args, stack: &Arc<Stack>, lifecycle: &Lifecycle) -> anyhow::Result<ExitCode> {
    let control = ControlServer::listen(&args.dir.dir)?;
    output::line(banner::text(stack.config(), &stack.status())?);
    let ending = async {
        lifecycle.draining().await;
        output::note("ending: gateways, then workers, then the purger and the broker (again to end at once)");
        tokio::select! {
            () = stack.down() => {}
            () = lifecycle.stopping() => {}
        }
    };
    tokio::select! {
        () = control.serve(stack, lifecycle) => {}
        () = ending => {}
        never = keep_topology(stack) => match never {},
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates streams and consumers again that somebody deleted. Only the setup user may do that, and only this program has it.
async fn keep_topology(stack: &Stack) -> Infallible {
    let mut broker = None;
    loop {
        tokio::time::sleep(TOPOLOGY_PAUSE).await;
        if broker.is_none() {
            broker = setup::connect(stack.config()).await.ok();
        }
        let Some(broker) = broker.as_ref().filter(|broker| broker.is_connected()) else { continue };
        match setup::create_missing(broker, stack.config()).await {
            Ok(created) => {
                for change in created {
                    output::note(format!("was missing: {}", change.what));
                }
            }
            // The broker may be ending: the next look says whether anything is missing.
            Err(error) => tracing::debug!(%error, "cannot look for missing streams"),
        }
    }
}
