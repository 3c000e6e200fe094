//! Which process gets which port when the configuration names the first of each kind. Pure.
//!
//! The ports of further processes follow the first one and skip those of other kinds, so that neighbouring ports in the
//! configuration do not collide. The plan of a process does not depend on how many run, because they can be scaled.

use std::collections::BTreeSet;

use anyhow::bail;
use tidegate_shared::config::Config;

/// Distance from the broker's client port to its monitoring port: 4222 and 8222.
const MONITOR_OFFSET: u16 = 4000;

/// The ports of a stack.
#[derive(Debug)]
pub(crate) struct PortPlan {
    pub(crate) nats: u16,
    pub(crate) monitor: u16,
    first: PortRow,
    taken: BTreeSet<u16>,
}

/// The ports of the gateway and the worker with one number. `None` if none is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRow {
    pub(crate) listen: Option<u16>,
    pub(crate) internal: Option<u16>,
    pub(crate) worker: Option<u16>,
}

impl PortPlan {
    /// Fails if two keys name the same port.
    pub(crate) fn new(config: &Config, nats: u16) -> anyhow::Result<Self> {
        let (listen, internal) = (config.gateway.listen.port(), config.gateway.internal.port());
        let worker = config.worker.internal.port();
        let keys = [
            ("nats.url", nats),
            ("gateway.listen", listen),
            ("gateway.internal", internal),
            ("worker.internal", worker),
            ("purger.internal", config.purger.internal.port()),
        ];
        let mut taken = BTreeSet::new();
        for (place, (key, port)) in keys.into_iter().enumerate() {
            if port == 0 {
                bail!(
                    "{key} has the port 0: write the port to use, or let `tidegate up --free-ports` choose all ports"
                );
            }
            if let Some((other, _)) = keys.iter().take(place).find(|(_, other)| *other == port) {
                bail!("{key} has port {port}, as {other} has: write another port for one of them");
            }
            taken.insert(port);
        }
        let usual = nats.checked_add(MONITOR_OFFSET).unwrap_or(nats - MONITOR_OFFSET);
        let Some(monitor) = (usual..=u16::MAX).chain(1024..usual).find(|port| taken.insert(*port)) else {
            bail!("no port is left for the broker's monitoring");
        };
        let first = PortRow { listen: Some(listen), internal: Some(internal), worker: Some(worker) };
        Ok(Self { nats, monitor, first, taken })
    }

    /// The ports of the processes with this number, counted from 1.
    pub(crate) fn row(&self, number: usize) -> PortRow {
        let mut taken = self.taken.clone();
        let mut next = |port: Option<u16>| {
            let following = port?.checked_add(1)?;
            (following..=u16::MAX).find(|port| taken.insert(*port))
        };
        let mut row = self.first;
        for _ in 1..number {
            row =
                PortRow { listen: next(row.listen), internal: next(row.internal), worker: next(row.worker) };
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn plan(nats: u16, listen: u16, internal: u16, worker: u16) -> anyhow::Result<PortPlan> {
        let variables = [
            ("TIDEGATE_GATEWAY__LISTEN", listen),
            ("TIDEGATE_GATEWAY__INTERNAL", internal),
            ("TIDEGATE_WORKER__INTERNAL", worker),
        ]
        .map(|(name, port)| (name.to_owned(), format!("127.0.0.1:{port}")));
        PortPlan::new(&Config::from_sources(None, BTreeMap::from(variables), &[])?, nats)
    }

    fn row(listen: u16, internal: u16, worker: u16) -> PortRow {
        PortRow { listen: Some(listen), internal: Some(internal), worker: Some(worker) }
    }

    #[test]
    fn ports_far_apart_are_counted_up() {
        let plan = plan(4222, 8000, 9000, 9100).unwrap();
        assert_eq!(plan.monitor, 8222);
        assert_eq!((plan.row(1), plan.row(3)), (row(8000, 9000, 9100), row(8002, 9002, 9102)));
    }

    #[test]
    fn no_two_processes_share_a_port_however_close_the_configured_ports_are() {
        for (nats, listen, internal, worker) in [
            (4222, 8000, 8001, 9100),
            (4222, 8000, 8001, 8002),
            (8001, 8000, 8002, 8003),
            (4000, 8000, 9000, 9100),
            (4222, 8221, 8222, 8223),
            (4222, 9002, 9001, 9000),
            (65000, 8000, 61000, 61001),
        ] {
            let plan = plan(nats, listen, internal, worker).unwrap();
            let mut all = vec![plan.nats, plan.monitor];
            for number in 1..=50 {
                let row = plan.row(number);
                all.extend([row.listen.unwrap(), row.internal.unwrap(), row.worker.unwrap()]);
            }
            let distinct: BTreeSet<_> = all.iter().collect();
            assert_eq!(distinct.len(), all.len(), "{all:?}");
        }
    }

    #[test]
    fn the_same_port_twice_and_port_0_are_refused_with_what_to_write() {
        let error = plan(4222, 8000, 8000, 9100).unwrap_err().to_string();
        assert!(error.contains("gateway.internal has port 8000, as gateway.listen has"), "{error}");
        let error = plan(4222, 8000, 9000, 4222).unwrap_err().to_string();
        assert!(error.contains("worker.internal") && error.contains("nats.url"), "{error}");
        let error = plan(4222, 0, 9000, 9100).unwrap_err().to_string();
        assert!(error.contains("gateway.listen") && error.contains("--free-ports"), "{error}");
    }

    #[test]
    fn a_process_behind_the_last_port_has_none() {
        let plan = plan(4222, 65_534, 9000, 9100).unwrap();
        assert_eq!(plan.row(2).listen, Some(65_535));
        assert_eq!((plan.row(3).listen, plan.row(3).internal), (None, Some(9002)));
    }
}
