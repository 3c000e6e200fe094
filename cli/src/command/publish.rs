//! `tidegate pub`: one publication, as a client or as a service.

use std::process::ExitCode;

use anyhow::Context;
use async_nats::HeaderMap;
use tidegate_cli::output;
use tidegate_shared::{channel::Channel, config::Role};

use crate::command::{
    access::{self, AccessArgs, JsonArg},
    namespace_of, service,
};

/// Arguments of `tidegate pub`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The channel, such as chat:lobby; with --as-service also #<user>.
    channel: String,
    /// The payload.
    #[arg(value_name = "JSON")]
    data: JsonArg,
    /// Publish through NATS as a service does, without the gateway.
    #[arg(long)]
    as_service: bool,
    #[command(flatten)]
    access: AccessArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.as_service { as_service(&args).await } else { as_client(&args).await }
}

async fn as_client(args: &Args) -> anyhow::Result<ExitCode> {
    Channel::parse(&args.channel).with_context(|| format!("{:?}", args.channel))?;
    let (client, _events) = access::connect(args.access.options()?).await?;
    let published = client.publish(&args.channel, args.data.0.clone()).await;
    client.close().await;
    match published {
        Ok(()) => {
            output::note("stored");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            output::note(format!("error: {error}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn as_service(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.access.config.load(Role::Service)?;
    let channel = Channel::parse(&args.channel).with_context(|| format!("{:?}", args.channel))?;
    // Nothing else says so: no stream takes the message.
    namespace_of(&config, channel.namespace())?;
    let subject = config.subjects().channel(&channel);
    let broker = service::connect(&config).await?;
    let stored = broker.store(subject.clone(), HeaderMap::new(), args.data.0.clone()).await?;
    match stored.seq {
        0 => output::note(format!("sent on {subject}: the namespace has no history, so nothing is stored")),
        seq => output::note(format!("stored on {subject} at sequence {seq}")),
    }
    Ok(ExitCode::SUCCESS)
}
