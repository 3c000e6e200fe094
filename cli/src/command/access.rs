//! Options shared by `call`, `sub` and `pub`: the gateway's address and the user.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use bytes::Bytes;
use serde::de::IgnoredAny;
use tidegate_cli::{
    client::{CallError, Client, ConnectError, Events, Options},
    token::connection_token,
};
use tidegate_shared::config::{Config, Environment, GatewayConfig, Role};

use crate::command::ConfigArgs;

/// The default user in development.
const DEVELOPMENT_USER: &str = "42";
/// The lifetime of a token made for one command.
const TOKEN_TTL: Duration = Duration::from_hours(1);

/// The gateway's address and the user.
#[derive(Debug, clap::Args)]
pub(crate) struct AccessArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The gateway's URL [default: from `gateway.listen` of the configuration].
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The certificates to trust at a wss:// URL, in a PEM file [default: those of this machine].
    #[arg(long, value_name = "PATH")]
    pub(crate) ca: Option<PathBuf>,
    /// The user; signs a token with `auth.hmac_secret` [default in development: 42].
    #[arg(long, conflicts_with = "token")]
    pub(crate) user: Option<String>,
    /// A connection token from another issuer.
    #[arg(long)]
    token: Option<String>,
}

impl AccessArgs {
    /// Reads the configuration and returns the connection settings.
    pub(crate) fn options(&self) -> anyhow::Result<Options> {
        let config = self.config.load(if self.token.is_some() { Role::Client } else { Role::Signer })?;
        let url = self.url.clone().unwrap_or_else(|| websocket(&config.gateway));
        let options = Options { ca: self.ca.clone(), ..Options::new(url) };
        if let Some(token) = &self.token {
            return Ok(options.token(token.clone()));
        }
        if config.auth.hmac_secret.is_empty() && config.auth.anonymous && self.user.is_none() {
            return Ok(options);
        }
        let token = connection_token(&config.auth, self.user(&config)?, TOKEN_TTL, SystemTime::now())?;
        Ok(options.token(token))
    }

    fn user(&self, config: &Config) -> anyhow::Result<&str> {
        let fallback = (config.env == Environment::Development).then_some(DEVELOPMENT_USER);
        self.user
            .as_deref()
            .or(fallback)
            .context("outside development a user is needed: pass --user or --token")
    }
}

/// Returns a gateway's address for clients on the same machine.
fn websocket(gateway: &GatewayConfig) -> String {
    let listen = gateway.listen;
    let ip = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    gateway.websocket(SocketAddr::new(ip, listen.port()))
}

/// The error context when no gateway answers.
pub(crate) const NO_CONNECTION: &str = "no connection (is the stack running? `make up` starts one)";
/// The error context when a gateway ends the connection.
pub(crate) const REFUSED: &str = "the gateway answered and refused the connection (the token has to be signed with its \
                                  auth.hmac_secret or by one of its issuers: --config, --token)";

/// Connects. The error tells a gateway that is away from one that refuses.
pub(crate) async fn connect(options: Options) -> anyhow::Result<(Client, Events)> {
    Client::connect(options).await.map_err(|error| {
        let why = context(&error);
        anyhow::Error::from(error).context(why)
    })
}

fn context(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Address { .. } => {
            "the address cannot be used (a gateway's is ws://HOST:PORT/connection/websocket, with TLS wss://...)"
        }
        ConnectError::Unreachable { .. } | ConnectError::Refused(CallError::Timeout) => NO_CONNECTION,
        ConnectError::NoWebSocket { .. } => {
            "another program answers at this address (--url names the gateway's, ws://HOST:PORT/connection/websocket, with TLS wss://...)"
        }
        ConnectError::Http { status: 404 | 405, .. } => {
            "the server has no WebSocket at this path (a gateway's is /connection/websocket, on gateway.listen)"
        }
        ConnectError::Http { status: 429 | 500.., .. } => {
            "the gateway answered and takes no connection now (try again)"
        }
        ConnectError::Http { .. } => "the server answered and refused the connection",
        ConnectError::Refused(_) => REFUSED,
    }
}

/// An argument that is a JSON value, kept as it was written.
#[derive(Debug, Clone)]
pub(crate) struct JsonArg(pub(crate) Bytes);

impl FromStr for JsonArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| format!("not JSON: {error} (a text needs its quotes: '\"hello\"')"))?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_listens_on_all_addresses_is_reached_on_loopback() {
        let of = |listen: &str| {
            let listen = ("gateway.listen", listen.to_owned());
            websocket(&Config::load_as(Role::Client, None, &[listen]).unwrap().gateway)
        };
        assert_eq!(of("0.0.0.0:8000"), "ws://127.0.0.1:8000/connection/websocket");
        assert_eq!(of("[::1]:8000"), "ws://[::1]:8000/connection/websocket");
    }

    #[test]
    fn an_argument_that_is_not_json_is_refused_with_a_hint() {
        assert!("{\"a\": 1}".parse::<JsonArg>().is_ok());
        let error = "hello".parse::<JsonArg>().unwrap_err();
        assert!(error.contains("needs its quotes"), "{error}");
    }
}
