//! Tidegate: a stack of its own.

use anyhow::Context;
use tidegate_cli::stack::Stack;

use super::{Needs, Peer, Server};
use crate::generator::{Dialect, Host, Through};

/// The namespaces and routes of all scenarios. No worker takes `accept`: what it is about is to be stored.
const CONFIG: &str = r#"
[gateway.limits]
connections = CONNECTIONS
# The load comes from few addresses, and fast.
connections_per_address = 1000000
connections_per_user = 1000000
messages_per_second = 1000000
user_messages_per_second = 1000000
outbox = "OUTBOX"

[[namespace]]
name = "live"
allow_subscribe = "authenticated"
allow_publish = "authenticated"

[[namespace]]
name = "kept"
allow_subscribe = "authenticated"
allow_publish = "authenticated"
history_size = 100

[[route]]
name = "echo"
match = "rpc.echo"
handler = "echo"

[[route]]
name = "empty"
match = "rpc.empty"
concurrency = 256

[[route]]
name = "accept"
match = "rpc.accept"
answer = "later"
max_bytes = "1 GiB"

[[route]]
name = "bare"
match = "rpc.bare"
"#;

/// Starts a stack whose gateway has one thread, as its core.
pub(super) async fn start(peer: Peer, needs: &Needs) -> anyhow::Result<Server> {
    let config =
        CONFIG.replace("OUTBOX", needs.outbox).replace("CONNECTIONS", &needs.connections.to_string());
    let stack = Stack::builder()
        .config(&config)
        .gateways(needs.gateways)
        .workers(needs.workers)
        .worker_program(needs.worker)
        .relaxed(peer == Peer::TidegateRelaxed)
        .variable("", "TOKIO_WORKER_THREADS", "1")
        .variable("", "GOMAXPROCS", "1");
    let stack = stack.start().await.context("starting a stack")?;
    let config = stack.config();
    let gateways = stack.gateways();
    let first = gateways.first().context("a stack without a gateway")?;
    let pid = |name: &str| stack.pid(name).with_context(|| format!("{name} does not run"));
    let host = Host {
        dialect: Dialect::Centrifuge,
        addresses: gateways.iter().map(|gateway| gateway.public).collect(),
        path: "/connection/websocket".to_owned(),
        secret: Some(config.auth.hmac_secret.expose().to_owned()),
    };
    let key = config.api.key.expose().to_owned();
    let through = Through::Http { address: first.internal, key, connections: 64 };
    let service = &config.nats.service;
    let nats = Through::Nats {
        address: config.nats.url.trim_start_matches("nats://").parse()?,
        user: service.user.clone(),
        password: service.password.expose().to_owned(),
        subject: format!("{}.ch.live", config.nats.prefix),
    };
    let (server, broker) = (pid(&first.name)?.try_into()?, Some(pid("nats")?.try_into()?));
    Ok(Server {
        host,
        through,
        nats: Some(nats),
        pid: server,
        broker,
        stack: Some(Box::new(stack)),
        children: Vec::new(),
        _dir: None,
    })
}
