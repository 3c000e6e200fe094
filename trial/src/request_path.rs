//! The paths a request can take: through a gateway, or over bare NATS.

use anyhow::{Context, ensure};
use bytes::Bytes;
use tidegate_cli::client::Client;

use crate::bare_nats::BareNats;

/// Requests carry this much beside their number.
const PADDING: usize = 100;

/// One way to the answer.
#[derive(Debug)]
pub(crate) enum RequestPath {
    Server { clients: Vec<Client>, method: String },
    Bare(Box<BareNats>),
}

impl RequestPath {
    /// Asks once. The `n`-th body differs from all others, so an answer to another request is noticed.
    pub(crate) async fn ask(&self, n: u64) -> anyhow::Result<()> {
        let body = Bytes::from(format!(r#"{{"n":{n},"padding":"{:x>PADDING$}"}}"#, ""));
        let answer = match self {
            Self::Server { clients, method } => turn_of(clients, n)?.rpc(method, body.clone()).await?,
            Self::Bare(bare) => bare.ask(body.clone()).await?,
        };
        ensure!(answer == body, "the answer to another request");
        Ok(())
    }
}

fn turn_of(clients: &[Client], n: u64) -> anyhow::Result<&Client> {
    clients.get(usize::try_from(n)? % clients.len()).context("no client")
}
