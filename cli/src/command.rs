//! The commands: one file each, with its arguments and an async `run`.

pub(crate) mod access;
pub(crate) mod apply;
pub(crate) mod asyncapi;
pub(crate) mod banner;
pub(crate) mod call;
pub(crate) mod check_config;
pub(crate) mod completion;
pub(crate) mod conformance;
pub(crate) mod dead;
pub(crate) mod default_config;
pub(crate) mod demo;
pub(crate) mod detach;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod enqueue;
pub(crate) mod explain;
pub(crate) mod job;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod nats_config;
pub(crate) mod process;
pub(crate) mod publish;
pub(crate) mod route;
pub(crate) mod scale;
pub(crate) mod schedule;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod sub;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod version;

use std::path::PathBuf;

use anyhow::Context;
use tidegate_shared::config::{self, Config, ConfigError, FILE_VARIABLE, Namespace, Role};

/// Selects the local stack.
#[derive(Debug, clap::Args)]
pub(crate) struct DirArgs {
    /// Directory of the local stack's files.
    #[arg(long, default_value = ".run", value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Selects the configuration file.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file [default: ./tidegate.toml, if it exists].
    #[arg(long, env = FILE_VARIABLE, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// A program that reads the configuration.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Program {
    /// A gateway.
    Gateway,
    /// A worker.
    Worker,
    /// The purger.
    Purger,
    /// `tidegate apply`.
    Apply,
    /// `tidegate pub --as-service`.
    Service,
}

impl From<Program> for Role {
    fn from(program: Program) -> Self {
        match program {
            Program::Gateway => Self::Gateway,
            Program::Worker => Self::Worker,
            Program::Purger => Self::Purger,
            Program::Apply => Self::Setup,
            Program::Service => Self::Service,
        }
    }
}

/// The most workers or gateways of a local stack: each is a process of this machine.
const MOST_PROCESSES: usize = 100;

/// Parses a number of workers or gateways.
pub(crate) fn number_of_processes(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= MOST_PROCESSES);
    number.ok_or_else(|| format!("{text:?} is not a number from 0 to {MOST_PROCESSES}"))
}

/// Returns the namespace of the configuration with this name.
pub(crate) fn namespace_of(config: &Config, name: &str) -> anyhow::Result<Namespace> {
    let all = config.all_namespaces();
    let names = all.iter().map(|namespace| namespace.name.as_str()).collect::<Vec<_>>().join(", ");
    all.into_iter().find(|namespace| namespace.name == name).with_context(|| {
        format!("the configuration has no namespace {name:?}, only {names}: declare it, or choose another with --config")
    })
}

impl ConfigArgs {
    /// Returns the file to read, if any.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        config::usual_file(self.config.clone())
    }

    /// Reads the configuration for a command that needs only its own secrets.
    pub(crate) fn load(&self, role: Role) -> Result<Config, ConfigError> {
        Config::load_as(role, self.file().as_deref(), &[])
    }
}
