//! The broker's configuration file: the `nats.conf` of this repository with the ports, directory and passwords of a stack.

use anyhow::Context;
use tidegate_shared::{
    config::{Config, Match, Namespace},
    topology::{channel_stream, last_stream, request_stream},
};

/// The configuration every stack starts from.
const NATS_CONF: &str = include_str!("../../../nats.conf");

/// Returns the configuration of one broker: `port` for clients, `monitor` for its health, `data` for its files.
pub(crate) fn configuration(config: &Config, port: u16, monitor: u16, data: &str) -> anyhow::Result<String> {
    let nats = &config.nats;
    let values = [
        ("CLIENT_PORT", port.to_string()),
        ("MONITOR_PORT", monitor.to_string()),
        ("DATA_DIR", quoted(data)),
        ("GATEWAY_PASSWORD", quoted(nats.gateway.password.expose())),
        ("WORKER_PASSWORD", quoted(nats.worker.password.expose())),
        ("PURGER_PASSWORD", quoted(nats.purger.password.expose())),
        ("SERVICE_PASSWORD", quoted(nats.service.password.expose())),
        ("SETUP_PASSWORD", quoted(nats.setup.password.expose())),
    ];
    let mut text = with_routes(&with_namespaces(NATS_CONF, config), config)
        .replace("tide.", &format!("{}.", nats.prefix));
    for (name, value) in values {
        text = with(&text, name, &value).with_context(|| format!("nats.conf does not define {name}"))?;
    }
    Ok(text)
}

/// Grants the gateway reads and purges for each namespace with history. One line per stream: a wildcard cannot match a part of
/// a stream name.
fn with_namespaces(text: &str, config: &Config) -> String {
    let is_one = |line: &&str| {
        ["TIDE_CH_", "TIDE_LAST_"]
            .iter()
            .any(|stream| line.trim_start().starts_with(&format!("\"$JS.API.DIRECT.GET.{stream}")))
    };
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if !is_one(&line) {
            lines.push(line.to_owned());
        } else if line.contains("TIDE_CH_user\"") {
            let kept = config.all_namespaces().into_iter().filter(Namespace::has_history);
            for namespace in kept {
                let rights = |stream: &str, rights: &[&str]| {
                    let rights = rights
                        .iter()
                        .map(|right| format!("\"$JS.API.{}\",", right.replace("{}", stream)))
                        .collect::<Vec<_>>();
                    format!("            {}", rights.join(" "))
                };
                let stream = channel_stream(&namespace.name);
                lines.push(rights(&stream, &["DIRECT.GET.{}", "DIRECT.GET.{}.>", "STREAM.PURGE.{}"]));
                if namespace.proves_quiet() {
                    lines.push(rights(&last_stream(&namespace.name), &["DIRECT.GET.{}"]));
                }
            }
        }
    }
    lines.join("\n") + "\n"
}

/// Writes the lines about the stream of a route for each route of the configuration. The lines about the route `echo` are the
/// pattern; those about other routes are left out.
fn with_routes(text: &str, config: &Config) -> String {
    const PATTERN: &str = "TIDE_IN_echo";
    let is_pattern = |line: &str| {
        let rest = line.split(PATTERN).nth(1);
        rest.is_some_and(|rest| rest.starts_with(['.', '"']))
    };
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if !line.contains("TIDE_IN_") || line.trim_start().starts_with('#') {
            lines.push(line.to_owned());
        } else if is_pattern(line) {
            let stored = config.routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
            lines.extend(stored.map(|route| line.replace(PATTERN, &request_stream(&route.name))));
        }
    }
    lines.join("\n") + "\n"
}

/// Replaces the value of a variable defined at the start of a line.
fn with(text: &str, name: &str, value: &str) -> Option<String> {
    let definition = format!("{name} = ");
    let line = text.lines().find(|line| line.starts_with(&definition))?;
    Some(text.replacen(line, &format!("{definition}{value}"), 1))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_replaced_and_nothing_else() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tidegate.toml");
        let config = Config::from_sources(Some(&file), std::collections::BTreeMap::new(), &[]).unwrap();
        let text = configuration(&config, 4223, 8223, "/tmp/x").unwrap();
        assert!(text.contains("CLIENT_PORT = 4223\n") && text.contains("DATA_DIR = \"/tmp/x\"\n"));
        assert_eq!(configuration(&config, 4222, 8222, ".run/nats").unwrap(), NATS_CONF);
    }
}
