//! The measured server: a stack of this program, or an external server of the protocol.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use tidegate_cli::{
    client::{Client, Options},
    stack::{Separation, Stack},
    token,
};

/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_hours(1);
/// `echo` is what the scenarios ask; `bare` is the same route for the worker that this program itself is.
const CONFIG: &str = r#"
[[route]]
name = "echo"
match = "rpc.echo"
handler = "echo"

[[route]]
name = "bare"
match = "rpc.bare"
"#;

/// An external server.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExternalServer {
    /// Measure this server instead of a stack of our own: ws://host:port/connection/websocket
    #[arg(long, global = true)]
    url: Option<String>,
    /// The connection token for it; none connects anonymously
    #[arg(long, global = true, requires = "url")]
    token: Option<String>,
    /// Its process id, if its memory is to be measured
    #[arg(long, global = true, requires = "url")]
    pid: Option<u32>,
}

/// Where clients connect.
#[derive(Debug)]
pub(crate) struct Target {
    urls: Vec<String>,
    outside: ExternalServer,
    stack: Option<Stack>,
}

impl Target {
    /// A stack of our own, with a gateway and a worker, whose broker separates its users like this.
    pub(crate) async fn separated(separation: Separation) -> anyhow::Result<Self> {
        let builder = Stack::builder().config(CONFIG).gateways(1).workers(1).separation(separation);
        let stack = builder.start().await.context("starting a stack")?;
        let urls = stack.gateways().into_iter().map(|gateway| gateway.websocket).collect();
        Ok(Self { urls, outside: ExternalServer { url: None, token: None, pid: None }, stack: Some(stack) })
    }

    /// The outside server, or else a stack of this size on free ports.
    pub(crate) async fn start(
        outside: &ExternalServer,
        gateways: usize,
        workers: usize,
    ) -> anyhow::Result<Self> {
        let outside = outside.clone();
        if let Some(url) = &outside.url {
            return Ok(Self { urls: vec![url.clone()], outside, stack: None });
        }
        let builder = Stack::builder().config(CONFIG).gateways(gateways).workers(workers);
        let stack = builder.start().await.context("starting a stack")?;
        let urls = stack.gateways().into_iter().map(|gateway| gateway.websocket).collect();
        Ok(Self { urls, outside, stack: Some(stack) })
    }

    /// The stack, if it is our own.
    pub(crate) fn stack(&self) -> Option<&Stack> {
        self.stack.as_ref()
    }

    /// Connects a client: every number is a user of its own, and numbers take turns at the gateways.
    pub(crate) async fn connect(&self, number: usize) -> anyhow::Result<Client> {
        let url = self.urls.iter().cycle().nth(number % self.urls.len().max(1)).context("no gateway")?;
        let options = Options { token: self.token(number)?, ..Options::new(url) };
        let (client, _) = Client::connect(options).await.with_context(|| format!("client {number}"))?;
        Ok(client)
    }

    fn token(&self, number: usize) -> anyhow::Result<Option<String>> {
        let Some(stack) = &self.stack else { return Ok(self.outside.token.clone()) };
        let (auth, user) = (&stack.config().auth, format!("user-{number}"));
        Ok(Some(token::connection_token(auth, &user, TOKEN_TTL, SystemTime::now())?))
    }

    /// The process whose memory is measured.
    pub(crate) fn gateway_pid(&self) -> anyhow::Result<Option<u32>> {
        let Some(stack) = &self.stack else { return Ok(self.outside.pid) };
        let gateway = stack.gateways().into_iter().next().context("a stack without a gateway")?;
        let pid = stack.pid(&gateway.name).context("the gateway does not run")?;
        Ok(Some(pid.try_into()?))
    }

    /// Every process that takes part in the measurement, this one included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let stack = self.stack.iter().flat_map(Stack::status).filter_map(|process| process.pid);
        let stack = stack.filter_map(|pid| u32::try_from(pid).ok());
        stack.chain(self.outside.pid).chain([std::process::id()]).collect()
    }

    /// Ends the stack.
    pub(crate) async fn end(self) {
        if let Some(stack) = self.stack {
            stack.down().await;
        }
    }
}
