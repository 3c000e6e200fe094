//! The checks of what stands before a connection: the proxies in front of the gateway, and TLS.

use super::{Problem, problem};
use crate::config::{Config, gateway::network};

/// Each entry is a network, and none of them is the whole internet: then every client could choose its own address.
pub(super) fn proxies(config: &Config) -> Result<(), Problem> {
    for text in &config.gateway.trusted_proxies {
        let Some(network) = network(text) else {
            return problem(
                "gateway.trusted_proxies",
                format!("{text:?} is neither a network, such as \"10.0.0.0/8\", nor an address"),
            );
        };
        if network.prefix_len() == 0 {
            return problem(
                "gateway.trusted_proxies",
                format!("{text:?} trusts everybody: every client could write its own address"),
            );
        }
    }
    Ok(())
}

/// The files belong together.
pub(super) fn tls(config: &Config) -> Result<(), Problem> {
    let tls = &config.gateway.tls;
    match (tls.certificate.as_os_str().is_empty(), tls.key.as_os_str().is_empty()) {
        (false, true) => problem(
            "gateway.tls.certificate",
            "needs gateway.tls.key beside it: the file with its private key",
        ),
        (true, false) => problem(
            "gateway.tls.key",
            "needs gateway.tls.certificate beside it: the file with the certificate",
        ),
        (true, true) | (false, false) => Ok(()),
    }
}

/// What all clients may have waiting is at least what one may.
pub(super) fn sizes(config: &Config) -> Result<(), Problem> {
    let limits = &config.gateway.limits;
    if limits.buffered_total < limits.outbox {
        let size = bytesize::ByteSize;
        return problem(
            "gateway.limits.buffered_total",
            format!(
                "is {}, and has to be at least gateway.limits.outbox, which is {}",
                size(limits.buffered_total),
                size(limits.outbox)
            ),
        );
    }
    Ok(())
}
