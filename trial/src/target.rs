//! A stack of this program, for scenarios that measure it through the client library.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use tidegate_cli::{
    client::{Client, Options},
    stack::{Builder, Separation, Stack},
    token,
};

/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_hours(1);
const CONFIG: &str = r#"
[[route]]
name = "echo"
match = "rpc.echo"
handler = "echo"
"#;

/// Where clients connect.
#[derive(Debug)]
pub(crate) struct Target {
    urls: Vec<String>,
    stack: Stack,
}

impl Target {
    /// A gateway and a worker, on a broker that separates its users like this.
    pub(crate) async fn separated(separation: Separation) -> anyhow::Result<Self> {
        Self::of(Stack::builder().config(CONFIG).gateways(1).workers(1).separation(separation)).await
    }

    /// A stack with a configuration of its own.
    pub(crate) async fn of(builder: Builder) -> anyhow::Result<Self> {
        let stack = builder.start().await.context("starting a stack")?;
        let urls = stack.gateways().into_iter().map(|gateway| gateway.websocket).collect();
        Ok(Self { urls, stack })
    }

    /// A stack of this size.
    pub(crate) async fn start(gateways: usize, workers: usize) -> anyhow::Result<Self> {
        Self::of(Stack::builder().config(CONFIG).gateways(gateways).workers(workers)).await
    }

    pub(crate) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Connects a client: every number is a user of its own, and numbers take turns at the gateways.
    pub(crate) async fn connect(&self, number: usize) -> anyhow::Result<Client> {
        let url = self.urls.iter().cycle().nth(number % self.urls.len().max(1)).context("no gateway")?;
        let (auth, user) = (&self.stack.config().auth, format!("user-{number}"));
        let token = token::connection_token(auth, &user, TOKEN_TTL, SystemTime::now())?;
        let (client, _) = Client::connect(Options::new(url).token(token))
            .await
            .with_context(|| format!("client {number}"))?;
        Ok(client)
    }

    /// Every process that takes part in the measurement, this one included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let stack = self.stack.status().into_iter().filter_map(|process| process.pid);
        let stack = stack.filter_map(|pid| u32::try_from(pid).ok());
        stack.chain([std::process::id()]).collect()
    }

    /// Ends the stack.
    pub(crate) async fn end(self) {
        self.stack.down().await;
    }
}
