//! What a person needs next, once a stack is up.

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

/// The user everything here is shown for.
const USER: &str = "42";
/// How long the token is good: a day of trying things out.
const TTL: Duration = Duration::from_hours(24);
/// How the text ends.
pub(crate) const LAST_LINE: &str = "status, logs, scale, kill, down: `tidegate help`";

/// The text.
pub(crate) fn text(config: &Config, processes: &[ProcessStatus]) -> anyhow::Result<String> {
    let names: Vec<&str> = processes.iter().map(|process| process.name.as_str()).collect();
    let mut text = format!("\nTidegate is up: {}\n\n", names.join(", "));
    for gateway in processes.iter().filter(|process| process.kind == Kind::Gateway) {
        writeln!(text, "  websocket  {}", gateway.address)?;
    }
    if config.env == Environment::Development {
        let token = connection_token(&config.auth, USER, TTL, SystemTime::now())?;
        writeln!(
            text,
            "  token      {token}\n             (user {USER}, 24 h; another: tidegate token --user NAME)"
        )?;
    }
    let gateways = processes.iter().filter(|process| process.kind == Kind::Gateway);
    let elsewhere = gateways.map(|gateway| gateway.address.as_str()).next();
    // On free ports the configuration does not say where the gateway is.
    let url = elsewhere.filter(|address| !address.contains(&format!("//{}/", config.gateway.listen)));
    let url = url.map(|address| format!(" --url {address}")).unwrap_or_default();
    let program = program();
    writeln!(text, "\n  ask a worker        {program} call echo '{{\"hello\":\"tide\"}}'{url}")?;
    let channel = config.namespaces.iter().find(|namespace| namespace.name == "chat");
    let channel = channel.map_or("lobby", |_| "chat:lobby");
    let publish = publish_line(config, channel);
    writeln!(text, "  listen              {program} sub {channel}{url}\n  publish, anywhere   {publish}\n")?;
    write!(text, "  {LAST_LINE}")?;
    Ok(text)
}

/// This program as the person has called it, so that what is shown can be typed.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "tidegate".to_owned())
}

/// The line with which any machine that reaches the broker publishes to the clients.
fn publish_line(config: &Config, channel: &str) -> String {
    let subject =
        Channel::parse(channel).map(|channel| config.subjects().channel(&channel)).unwrap_or_default();
    let NatsUser { user, password } = &config.nats.service;
    let address = config.nats.url.trim_start_matches("nats://");
    let password = shown(password);
    format!("nats pub --server nats://{user}:{password}@{address} {subject} '{{\"text\":\"hi\"}}'")
}

/// A password everybody knows, or that there is one.
fn shown(password: &Secret) -> &str {
    if password.is_built_in() { password.expose() } else { "PASSWORD" }
}
