//! `tidegate apply`: creates and updates the broker's streams and consumers to match the configuration.

use std::process::ExitCode;

use tidegate_cli::{output, stack::setup};
use tidegate_shared::{
    access::Account,
    config::Role,
    topology::{self, Topology},
};

use crate::command::{ConfigArgs, namespace_of};

/// Arguments of `tidegate apply`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only print the changes.
    #[arg(long)]
    dry_run: bool,
    /// Recreate the stream of this namespace if it cannot be updated. Its stored publications are LOST, and clients that
    /// reconnect learn that they did not recover. May be given several times.
    #[arg(long, value_name = "NAMESPACE")]
    recreate_channels: Vec<String>,
    /// Start a new epoch for this namespace, after its stream was restored from an older copy: its clients learn within half a
    /// minute that their offsets are invalid. May be given several times.
    #[arg(long, value_name = "NAMESPACE")]
    new_epoch: Vec<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load(Role::Setup)?;
    for name in args.recreate_channels.iter().chain(&args.new_epoch) {
        namespace_of(&config, name)?;
    }
    let broker = setup::connect(&config).await?;
    broker.try_rights(&config, Account::Setup, true).await?;
    let topology = Topology::of(&config).recreating(&args.recreate_channels);
    for leftover in topology.leftovers(broker.jetstream()).await? {
        output::note(leftover.advice());
    }
    let plan = topology.plan(broker.jetstream()).await?;
    for change in &plan {
        output::line(&change.what);
    }
    if plan.is_empty() {
        output::line("nothing to change");
    } else if args.dry_run {
        output::line(format!("{} changes, none carried out", plan.len()));
    } else {
        topology.apply(broker.jetstream(), &plan).await?;
        output::line(format!("{} changes carried out", plan.len()));
    }
    for namespace in args.new_epoch.iter().filter(|_| !args.dry_run) {
        let epoch = topology::new_epoch(broker.jetstream(), namespace).await?;
        output::line(format!("the channels of {namespace} are in epoch {epoch} from now on"));
    }
    Ok(ExitCode::SUCCESS)
}
