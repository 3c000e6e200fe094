//! The paths a request can take: through the server, over bare NATS, or to the gateway and back.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tidegate_cli::client::{CallError, Client};

use super::bare_nats::BareNats;

/// A method without a route.
const NO_METHOD: &str = "trial.nobody";
/// Requests carry this much beside their number.
const PADDING: usize = 100;

/// One way to the answer.
#[derive(Debug)]
pub(super) enum RequestPath {
    Server {
        clients: Vec<Client>,
        method: String,
    },
    Bare(Box<BareNats>),
    /// To the server and back, no further.
    Front(Vec<Client>),
}

impl RequestPath {
    /// Asks once. The `n`-th body differs from all others, so an answer to another request is noticed.
    pub(super) async fn ask(&self, n: u64) -> anyhow::Result<()> {
        let body = Bytes::from(format!(r#"{{"n":{n},"padding":"{:x>PADDING$}"}}"#, ""));
        let answer = match self {
            Self::Server { clients, method } => turn_of(clients, n)?.rpc(method, body.clone()).await?,
            Self::Bare(bare) => bare.ask(body.clone()).await?,
            Self::Front(clients) => return refused(turn_of(clients, n)?, body).await,
        };
        ensure!(answer == body, "the answer to another request");
        Ok(())
    }
}

fn turn_of(clients: &[Client], n: u64) -> anyhow::Result<&Client> {
    clients.get(usize::try_from(n)? % clients.len()).context("no client")
}

/// Calls a method that no server has.
async fn refused(client: &Client, body: Bytes) -> anyhow::Result<()> {
    match client.rpc(NO_METHOD, body).await {
        Err(CallError::Server { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("a server that answers {NO_METHOD}"),
    }
}
