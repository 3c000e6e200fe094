//! What this machine allows: file descriptors, and handshakes that may wait.

use std::fs;

use rustix::process::{Resource, getrlimit};
use tidegate_shared::config::{Config, Role};

use super::Finding;

/// Descriptors of a gateway beside its clients' sockets: the broker, listeners, files.
const BESIDE: u64 = 100;
/// The handshakes that a gateway asks the kernel to let wait.
const BACKLOG: u64 = 4096;

pub(super) fn examine(config: &Config, role: Role) -> Vec<Finding> {
    if !matches!(role, Role::All | Role::Gateway) {
        return Vec::new();
    }
    // A gateway raises its soft limit to the hard one.
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let mut findings = vec![descriptors(config.gateway.limits.connections as u64, most)];
    let read = fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    if let Some(allowed) = read.and_then(|text| text.trim().parse().ok()) {
        findings.push(backlog(allowed));
    }
    findings
}

fn descriptors(connections: u64, most: u64) -> Finding {
    let needed = connections.saturating_add(BESIDE);
    if needed <= most {
        return Finding::ok("descriptors", format!("a process may open {most} files, {needed} are needed"));
    }
    Finding::wrong(
        "descriptors",
        format!(
            "a process may open {most} files, and gateway.limits.connections = {connections} needs {needed}"
        ),
        "raise LimitNOFILE of the unit (or `ulimit -Hn` of this shell), or lower gateway.limits.connections",
    )
}

fn backlog(allowed: u64) -> Finding {
    if allowed >= BACKLOG {
        return Finding::ok("backlog", format!("{allowed} handshakes may wait (net.core.somaxconn)"));
    }
    Finding::warning(
        "backlog",
        format!(
            "{allowed} handshakes may wait; in a storm of clients further ones are dropped and come a second later"
        ),
        format!("sysctl net.core.somaxconn={BACKLOG}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn descriptors_are_wrong_when_the_last_connection_would_find_none() {
        for (most, grade) in [(1099, Grade::Wrong), (1100, Grade::Ok), (1101, Grade::Ok)] {
            assert_eq!(descriptors(1000, most).grade, grade, "{most}");
        }
    }

    #[test]
    fn a_short_backlog_is_a_warning_with_the_command() {
        assert_eq!(backlog(4096).grade, Grade::Ok);
        let short = backlog(4095);
        assert_eq!(
            (short.grade, short.next.as_deref()),
            (Grade::Warning, Some("sysctl net.core.somaxconn=4096"))
        );
    }
}
