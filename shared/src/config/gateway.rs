//! The section `[gateway]`: its addresses, its limits, its TLS, and how it shuts down.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

use super::unit;

/// The gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The address that clients connect to.
    #[serde(with = "unit::address")]
    pub listen: SocketAddr,
    /// The address of health checks, metrics and the server API.
    #[serde(with = "unit::address")]
    pub internal: SocketAddr,
    /// The origins of web pages that may connect.
    pub origins: Vec<String>,
    /// The networks whose word on a client's address counts: see [`GatewayConfig::proxies`].
    pub trusted_proxies: Vec<String>,
    /// How long an rpc waits for its answer.
    #[serde(with = "unit::duration")]
    pub answer_timeout: Duration,
    /// How often the gateway pings a client.
    #[serde(with = "unit::duration")]
    pub ping_interval: Duration,
    /// How long a client may take to answer a ping.
    #[serde(with = "unit::duration")]
    pub pong_timeout: Duration,
    /// TLS of the address that clients connect to.
    pub tls: TlsConfig,
    /// Limits for one client and for all clients.
    pub limits: LimitsConfig,
    /// How a gateway shuts down.
    pub drain: DrainConfig,
}

/// Limits for one client and for all clients.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Open connections of one gateway.
    pub connections: usize,
    /// Open connections of one address, or of one /64 network of IPv6.
    pub connections_per_address: usize,
    /// Open connections of one user.
    pub connections_per_user: usize,
    /// Commands of one client in a second.
    pub messages_per_second: usize,
    /// Commands of all connections of one user in a second.
    pub user_messages_per_second: usize,
    /// The longest head of a request: its first line and its headers.
    #[serde(with = "unit::size")]
    pub header_bytes: u64,
    /// How long a request's head, or the handshakes of TLS and WebSocket, may take.
    #[serde(with = "unit::duration")]
    pub handshake: Duration,
    /// How long a connection may take to authenticate.
    #[serde(with = "unit::duration")]
    pub first_frame: Duration,
    /// The longest message a client may send.
    #[serde(with = "unit::size")]
    pub message: u64,
    /// Commands in one message.
    pub commands_per_message: usize,
    /// Arrays and objects inside each other in a message in JSON.
    pub json_depth: usize,
    /// The longest name of a channel.
    pub channel_name: usize,
    /// The maximum size of the output waiting for one client.
    #[serde(with = "unit::size")]
    pub outbox: u64,
    /// The maximum size of the output waiting for all clients together.
    #[serde(with = "unit::size")]
    pub buffered_total: u64,
    /// Publishes of one client without an acknowledgement. At the limit the gateway stops reading its socket.
    pub max_in_flight: usize,
    /// Requests of one client that wait for an answer. Further ones are refused.
    pub max_waiting: usize,
    /// Publishes of all clients without an acknowledgement. Further ones are refused.
    pub max_in_flight_total: usize,
    /// The part of a route's `max_bytes` that the unfinished requests of one user may fill, in percent.
    pub user_share: u8,
    /// Unfinished requests of one user on one route.
    pub user_requests: usize,
    /// The part of a route's `max_bytes` that the unfinished requests of all anonymous clients may fill, in percent.
    pub anonymous_share: u8,
    /// Unfinished requests of all anonymous clients on one route.
    pub anonymous_requests: usize,
    /// Channels one client may subscribe to.
    pub channels: usize,
    /// The maximum number of publications in one reply.
    pub recovery: usize,
}

/// How a gateway shuts down.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainConfig {
    /// How long publishes and waiting requests may take to settle.
    #[serde(with = "unit::duration")]
    pub settle: Duration,
    /// How long closing the connections is spread over.
    #[serde(with = "unit::duration")]
    pub window: Duration,
}

/// TLS of the address that clients connect to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The file with the certificate and its chain (PEM). If empty, the address speaks no TLS.
    pub certificate: PathBuf,
    /// The file with the certificate's private key (PEM).
    pub key: PathBuf,
    /// How often both files are read again.
    #[serde(with = "unit::duration")]
    pub reload: Duration,
}

impl TlsConfig {
    /// Whether the address speaks TLS.
    pub fn is_on(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }
}

impl GatewayConfig {
    /// The URL of a WebSocket to a gateway with this configuration at this address.
    pub fn websocket(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.is_on() { "wss" } else { "ws" };
        format!("{scheme}://{address}/connection/websocket")
    }

    /// The networks of `trusted_proxies`. A check has refused what is none.
    pub fn proxies(&self) -> Vec<IpNet> {
        self.trusted_proxies.iter().filter_map(|text| network(text)).collect()
    }
}

/// Reads a network (`10.0.0.0/8`), or an address, which is a network of one. IPv4 inside IPv6 is IPv4, as the addresses of clients are.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let inside = match network {
        IpNet::V6(long) => long.addr().to_ipv4_mapped().zip(long.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    Some(inside.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4))
}
