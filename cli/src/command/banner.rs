//! The text printed when a stack is up: addresses, a token, commands to try.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use tidegate_cli::{
    stack::{Kind, ProcessStatus},
    token::connection_token,
};
use tidegate_shared::{
    channel::Channel,
    config::{Config, Environment, NatsUser, Secret},
};

/// The user of the example token.
const USER: &str = "42";
/// The lifetime of the example token: a day.
const TTL: Duration = Duration::from_hours(24);
/// The last line of the text.
pub(crate) const LAST_LINE: &str = "status, logs, scale, kill, down: `tidegate help`";

/// Returns the text.
pub(crate) fn text(config: &Config, processes: &[ProcessStatus]) -> anyhow::Result<String> {
    let names: Vec<&str> = processes.iter().map(|process| process.name.as_str()).collect();
    let mut text = format!("\nTidegate is up: {}\n\n", names.join(", "));
    for gateway in processes.iter().filter(|process| process.kind == Kind::Gateway) {
        writeln!(text, "  websocket  {}", gateway.address)?;
    }
    let signs = !config.auth.hmac_secret.is_empty();
    if !signs {
        let others =
            if config.auth.anonymous { ", or none: clients without a token may connect" } else { "" };
        writeln!(
            text,
            "  token      from one of your issuers (auth.hmac_secret is empty, so `tidegate token` signs none){others}"
        )?;
    } else if config.env == Environment::Development {
        let token = connection_token(&config.auth, USER, TTL, SystemTime::now())?;
        writeln!(
            text,
            "  token      {token}\n             (user {USER}, 24 h; another: tidegate token --user NAME)"
        )?;
    }
    let gateways = processes.iter().filter(|process| process.kind == Kind::Gateway);
    let elsewhere = gateways.map(|gateway| gateway.address.as_str()).next();
    // On free ports the configuration does not hold the gateway's address.
    let url = elsewhere.filter(|address| !address.contains(&format!("//{}/", config.gateway.listen)));
    let mut access = url.map(|address| format!(" --url {address}")).unwrap_or_default();
    if !signs && !config.auth.anonymous {
        access.push_str(" --token TOKEN");
    }
    let program = program();
    writeln!(text, "\n  ask a worker        {program} call echo '{{\"hello\":\"tide\"}}'{access}")?;
    let channel = config.namespaces.iter().find(|namespace| namespace.name == "chat");
    let channel = channel.map_or("lobby", |_| "chat:lobby");
    let publish = publish_line(config, channel);
    writeln!(
        text,
        "  listen              {program} sub {channel}{access}\n  publish, anywhere   {publish}\n"
    )?;
    write!(text, "  {LAST_LINE}")?;
    Ok(text)
}

/// Returns this program's name as it was typed, so that the shown commands work.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "tidegate".to_owned())
}

/// Returns a `nats pub` line that publishes to a channel from any machine that reaches the broker.
fn publish_line(config: &Config, channel: &str) -> String {
    let subject =
        Channel::parse(channel).map(|channel| config.subjects().channel(&channel)).unwrap_or_default();
    let NatsUser { user, password } = &config.nats.service;
    let address = config.nats.url.trim_start_matches("nats://");
    let password = shown(password);
    format!("nats pub --server nats://{user}:{password}@{address} {subject} '{{\"text\":\"hi\"}}'")
}

/// Returns a built-in password, and a placeholder for any other.
fn shown(password: &Secret) -> &str {
    if password.is_built_in() { password.expose() } else { "PASSWORD" }
}
