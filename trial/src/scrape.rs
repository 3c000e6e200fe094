//! Reads metrics of a gateway and the broker over HTTP.

use std::{collections::HashMap, fs, net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tidegate_cli::stack::Stack;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A counter of a gateway; 0 before it has counted anything.
pub(crate) async fn counter(gateway: SocketAddr, name: &str) -> anyhow::Result<u64> {
    Ok(value(&get(gateway, "/metrics").await?, name).unwrap_or_default())
}

/// Whether a process says within `limit` that it is ready.
pub(crate) async fn is_ready(address: SocketAddr, path: &str, limit: Duration) -> bool {
    timeout(limit, get(address, path)).await.is_ok_and(|answer| answer.is_ok())
}

/// Where the broker of a stack says how it is.
pub(crate) fn monitor(stack: &Stack) -> anyhow::Result<SocketAddr> {
    let file = stack.dir().join("nats.conf");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let port = monitor_port(&text).context("the broker has no monitoring")?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn value(page: &str, name: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Messages the broker received from each gateway connection: requests and publications, by connection id.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrokerRequestCounts(HashMap<u64, u64>);

#[derive(Deserialize)]
struct Connz {
    connections: Vec<ConnzConnection>,
}

#[derive(Deserialize)]
struct ConnzConnection {
    cid: u64,
    #[serde(default)]
    name: String,
    in_msgs: u64,
}

impl BrokerRequestCounts {
    pub(crate) async fn of(stack: &Stack) -> anyhow::Result<Self> {
        let page = get(monitor(stack)?, "/connz?limit=1024").await?;
        let all: Connz = serde_json::from_str(&page).context("reading /connz")?;
        let gateways = all.connections.into_iter().filter(|connection| connection.name == "tidegate-gateway");
        Ok(Self(gateways.map(|connection| (connection.cid, connection.in_msgs)).collect()))
    }

    /// Returns the increase since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> u64 {
        self.0.iter().map(|(cid, now)| now - earlier.0.get(cid).copied().unwrap_or_default().min(*now)).sum()
    }
}

fn monitor_port(conf: &str) -> Option<u16> {
    let value = conf.lines().find_map(|line| line.strip_prefix("MONITOR_PORT"))?;
    value.trim_start_matches([' ', '=', ':']).trim().parse().ok()
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let answer = timeout(LIMIT, async {
        let mut socket = TcpStream::connect(address).await?;
        // An answer to HTTP/1.0 comes in one piece: that to 1.1 may be chunked.
        let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = answer.await.with_context(|| format!("{address}{path} does not answer"))??;
    ensure!(answer.split_whitespace().nth(1) == Some("200"), "{address}{path}: {answer}");
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let page = "# TYPE reads counter\nreads_total 12\nreads_total_more 3\n";
        assert_eq!(value(page, "reads_total "), Some(12));
        assert_eq!(value(page, "writes_total "), None);
    }

    #[test]
    fn the_monitoring_port_is_the_one_the_broker_was_started_with() {
        assert_eq!(
            monitor_port("CLIENT_PORT = 4222\nMONITOR_PORT = 8222\nhttp_port: $MONITOR_PORT\n"),
            Some(8222)
        );
        assert_eq!(monitor_port("http_port: 8222\n"), None);
    }

    #[test]
    fn all_messages_of_a_new_connection_count() {
        let asked = |pairs: &[(u64, u64)]| BrokerRequestCounts(pairs.iter().copied().collect());
        assert_eq!(asked(&[(1, 10), (3, 5)]).since(&asked(&[(1, 4), (2, 100)])), 11);
    }
}
