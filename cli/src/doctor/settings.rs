//! What the configuration itself says, beyond what every program refuses.

use tidegate_shared::config::{Config, Environment, Role};

use super::Finding;

pub(super) fn examine(config: &Config, role: Role) -> Vec<Finding> {
    let mut findings = vec![match config.env {
        Environment::Production => {
            Finding::ok("environment", "env = \"production\": no built-in secret is accepted")
        }
        Environment::Development => Finding::warning(
            "environment",
            "env = \"development\": the built-in secrets are public",
            "set env = \"production\" and secrets of your own before others reach this host",
        ),
    }];
    if matches!(role, Role::All | Role::Gateway) {
        findings.extend(edge(config));
    }
    findings
}

/// What clients meet.
fn edge(config: &Config) -> Vec<Finding> {
    let gateway = &config.gateway;
    let hidden =
        gateway.tls.is_on() || !gateway.trusted_proxies.is_empty() || gateway.listen.ip().is_loopback();
    let tls = if hidden {
        Finding::ok(
            "tls",
            "clients reach gateway.listen over TLS, through a trusted proxy, or on this machine only",
        )
    } else {
        Finding::warning(
            "tls",
            format!("clients reach {} without TLS, and their tokens can be read on the way", gateway.listen),
            "set gateway.tls.certificate and gateway.tls.key, or name the proxy that speaks TLS in gateway.trusted_proxies",
        )
    };
    let production = config.env == Environment::Production;
    let origins = match &gateway.origins[..] {
        [] if production => Finding::warning(
            "origins",
            "gateway.origins is empty: web pages of other hosts are refused",
            "list the origins of your pages, such as https://app.example.com, unless only programs connect",
        ),
        all if all.iter().any(|origin| origin == "*") => Finding::warning(
            "origins",
            "gateway.origins has \"*\": every web page may connect as its visitor",
            "list the origins of your pages",
        ),
        [] => Finding::ok(
            "origins",
            "gateway.origins is empty: pages of this machine may connect in development",
        ),
        all => Finding::ok("origins", format!("web pages of {} may connect", all.join(", "))),
    };
    vec![tls, origins]
}
