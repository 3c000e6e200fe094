//! Plans the processes of a stack: programs, arguments, environment, ports.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use tidegate_shared::config::Config;

use super::{
    broker::{self, Separation},
    port::ReservedPort,
    port_plan::PortPlan,
    process::ProcessSpec,
    status::Kind,
};

/// How long the broker may take to stop.
const BROKER_GRACE: Duration = Duration::from_secs(15);
/// Extra time to stop, beyond the drain time of the configuration.
const MARGIN: Duration = Duration::from_secs(3);

/// The decisions made before the first process starts.
#[derive(Debug)]
pub(crate) struct Blueprint {
    pub(crate) config: Config,
    pub(crate) config_file: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) nats_server: PathBuf,
    /// The program of the workers.
    pub(crate) worker: String,
    pub(crate) free_ports: bool,
    pub(crate) separation: Separation,
    /// Whether the broker acknowledges messages before they are on the disk.
    pub(crate) relaxed: bool,
    /// The password of the broker's user who may do everything in the account of the streams. Only stacks of tests have one.
    pub(crate) admin: Option<String>,
    /// Extra environment variables: process name prefix, variable, value.
    pub(crate) variables: Vec<(String, String, String)>,
}

/// A process to start, with its reserved ports.
pub(crate) type PlannedProcess = (ProcessSpec, Vec<ReservedPort>);

/// The addresses of one process.
pub(crate) struct Addresses {
    public: SocketAddr,
    internal: SocketAddr,
    reserved: Vec<ReservedPort>,
}

impl Blueprint {
    /// Plans the broker. Sets `nats.url` to its address.
    pub(crate) fn nats(&mut self) -> anyhow::Result<PlannedProcess> {
        let Addresses { public, internal, reserved } = if self.free_ports {
            Addresses::free()?
        } else {
            let ports = self.ports()?;
            Addresses::fixed(loopback(ports.nats), loopback(ports.monitor))
        };
        if self.free_ports {
            self.config.nats.url = format!("nats://{public}");
        }
        let data = self.dir.join("nats");
        let ports = (public.port(), internal.port());
        let data = data.display().to_string();
        let text = broker::configuration(&self.config, ports, &data, self.admin.as_deref(), self.separation)?;
        let text = if self.relaxed { broker::relaxed(&text)? } else { text };
        let file = self.dir.join("nats.conf");
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let spec = ProcessSpec {
            name: "nats".to_owned(),
            kind: Kind::Nats,
            program: self.nats_server.clone(),
            args: vec!["--config".to_owned(), file.display().to_string()],
            variables: self.variables_of("nats"),
            public,
            internal,
            health: "/healthz?js-enabled-only=true",
            grace: BROKER_GRACE,
        };
        Ok((spec, reserved))
    }

    /// Plans the gateway or worker with this number, counted from 1, or the purger.
    pub(crate) fn process(&self, kind: Kind, number: usize) -> anyhow::Result<PlannedProcess> {
        let name = if kind == Kind::Purger { kind.to_string() } else { format!("{kind}-{number}") };
        let Addresses { public, internal, reserved } = self.place(kind, number)?;
        let mut variables = self.common_variables();
        let mut args = vec!["--config".to_owned(), self.config_file.display().to_string()];
        let grace = match kind {
            Kind::Gateway => {
                variables.push(("TIDEGATE_GATEWAY__LISTEN".to_owned(), public.to_string()));
                variables.push(("TIDEGATE_GATEWAY__INTERNAL".to_owned(), internal.to_string()));
                self.config.gateway.drain.settle + self.config.gateway.drain.window
            }
            Kind::Worker => {
                variables.push(("TIDEGATE_WORKER__INTERNAL".to_owned(), internal.to_string()));
                args.extend(["--name".to_owned(), name.clone()]);
                self.config.worker.drain
            }
            Kind::Purger => {
                variables.push(("TIDEGATE_PURGER__INTERNAL".to_owned(), internal.to_string()));
                Duration::ZERO
            }
            Kind::Nats => bail!("a stack has one nats"),
        };
        variables.extend(self.variables_of(&name));
        let spec = ProcessSpec {
            program: program(&self.program_of(kind))?,
            name,
            kind,
            args,
            variables,
            public,
            internal,
            health: "/readyz",
            grace: grace + MARGIN,
        };
        Ok((spec, reserved))
    }

    /// Each kind has the program that is named after it; the workers may have another one.
    fn program_of(&self, kind: Kind) -> String {
        if kind == Kind::Worker { self.worker.clone() } else { format!("tidegate-{kind}") }
    }

    /// Chooses addresses: free ports, or the configured port and the following ones that no other process has.
    fn place(&self, kind: Kind, number: usize) -> anyhow::Result<Addresses> {
        let at = |first: SocketAddr, port: Option<u16>| -> anyhow::Result<SocketAddr> {
            let port = port.context("no port is left for so many processes: configure a lower port")?;
            Ok(SocketAddr::new(first.ip(), port))
        };
        let (gateway, worker) = (&self.config.gateway, &self.config.worker);
        Ok(match (self.free_ports, kind) {
            (true, Kind::Gateway) => Addresses::free()?,
            (true, _) => Addresses::free_internal()?,
            (false, Kind::Gateway) => {
                let row = self.ports()?.row(number);
                Addresses::fixed(at(gateway.listen, row.listen)?, at(gateway.internal, row.internal)?)
            }
            (false, Kind::Purger) => {
                Addresses::fixed(self.config.purger.internal, self.config.purger.internal)
            }
            (false, _) => {
                let internal = at(worker.internal, self.ports()?.row(number).worker)?;
                Addresses::fixed(internal, internal)
            }
        })
    }

    fn ports(&self) -> anyhow::Result<PortPlan> {
        PortPlan::new(&self.config, local_port(&self.config.nats.url)?)
    }

    fn common_variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("TIDEGATE_NATS__URL".to_owned(), self.config.nats.url.clone()),
            ("TIDEGATE_LOG__FORMAT".to_owned(), "text".to_owned()),
            ("NO_COLOR".to_owned(), "1".to_owned()),
        ];
        if self.free_ports {
            // Stacks side by side must not share a database file.
            let database = self.dir.join("quakes.db").display().to_string();
            variables.push(("TIDEGATE_QUAKES__DATABASE".to_owned(), database));
        }
        variables
    }

    fn variables_of(&self, name: &str) -> Vec<(String, String)> {
        let ours = self.variables.iter().filter(|(prefix, ..)| name.starts_with(prefix.as_str()));
        ours.map(|(_, key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Addresses {
    fn free() -> std::io::Result<Self> {
        let (public, internal) = (ReservedPort::draw()?, ReservedPort::draw()?);
        Ok(Self {
            public: public.address()?,
            internal: internal.address()?,
            reserved: vec![public, internal],
        })
    }

    fn free_internal() -> std::io::Result<Self> {
        let internal = ReservedPort::draw()?;
        let address = internal.address()?;
        Ok(Self { public: address, internal: address, reserved: vec![internal] })
    }

    fn fixed(public: SocketAddr, internal: SocketAddr) -> Self {
        Self { public, internal, reserved: Vec::new() }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Returns the broker's port from a loopback URL.
fn local_port(url: &str) -> anyhow::Result<u16> {
    let address = url.strip_prefix("nats://").unwrap_or(url);
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "4222"));
    if !matches!(host, "127.0.0.1" | "localhost" | "[::1]") {
        bail!("nats.url is {url}, but the local stack runs its own broker, at nats://127.0.0.1:<port>");
    }
    port.parse().with_context(|| format!("nats.url is {url}, which has no port"))
}

/// Finds a program of the workspace: beside this one, or one directory up, because tests run from `target/<profile>/deps`.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let this = env::current_exe().context("finding this program")?;
    let dirs = this.ancestors().skip(1).take(2);
    let Some(path) = dirs.map(|dir| dir.join(name)).find(|path| path.is_file()) else {
        let beside = this.parent().unwrap_or(Path::new("."));
        bail!("there is no {name} beside {}: run `cargo build --workspace --bins`", beside.display());
    };
    Ok(path)
}
