//! Reading the configuration from its layers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Format, Toml},
    value::Value,
};

use super::{
    Audience, Config, ConfigError, DEFAULT_TOML, ENV_PREFIX, FILE_VARIABLE, Namespace, Role,
    layers::{Named, explain, merge_variable},
    place::Places,
    stock, validate, variable,
};
use crate::{channel::USER_NAMESPACE, failure};

/// The configuration file that is read if it exists and no other is named.
const USUAL_FILE: &str = "tidegate.toml";

/// Returns the file to read: the named one, or `tidegate.toml` of the working directory if it exists.
pub fn usual_file(named: Option<PathBuf>) -> Option<PathBuf> {
    let usual = PathBuf::from(USUAL_FILE);
    named.or_else(|| usual.is_file().then_some(usual))
}

/// Logs where the configuration came from. Programs call it before they log anything else.
pub fn log_source(file: Option<&Path>) {
    if let Some(file) = file {
        tracing::info!(file = %file.display(), "configuration read");
    } else {
        tracing::warn!(
            "no configuration file was read: the built-in defaults and the environment apply; name a file with --config or \
             {FILE_VARIABLE}, or put {USUAL_FILE} into the working directory"
        );
    }
}

impl Config {
    /// Reads the configuration of a whole deployment: the defaults, then `file` if given, then the environment, then `flags`
    /// (`key.path`, value).
    pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, ConfigError> {
        Self::load_as(Role::All, file, flags)
    }

    /// The same for one reader, which is asked for its own secrets only.
    pub fn load_as(role: Role, file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, ConfigError> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let name = name.into_string().ok()?;
            if !name.to_ascii_uppercase().starts_with(ENV_PREFIX) && name != variable::KUBERNETES {
                return None;
            }
            Some(
                value
                    .into_string()
                    .map(|value| (name.clone(), value))
                    .map_err(|_| ConfigError(format!("{name} is not UTF-8 text: set it again, or unset it"))),
            )
        };
        let variables = std::env::vars_os().filter_map(text).collect::<Result<_, _>>()?;
        Self::from_sources_as(role, file, variables, flags)
    }

    /// Reads the configuration of a worker from this file, or from `tidegate.toml` of the working directory if it exists, and from
    /// the environment.
    pub fn for_worker(file: Option<PathBuf>) -> Result<Self, ConfigError> {
        Self::load_as(Role::Worker, usual_file(file).as_deref(), &[])
    }

    /// Like [`Config::load`], with the environment as an argument.
    pub fn from_sources(
        file: Option<&Path>,
        variables: BTreeMap<String, String>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        Self::from_sources_as(Role::All, file, variables, flags)
    }

    /// Like [`Config::load_as`], with the environment as an argument.
    pub fn from_sources_as(
        role: Role,
        file: Option<&Path>,
        variables: BTreeMap<String, String>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let figment = layers(role, file, variables, flags)?;
        let places = Places::new(&figment, file);
        let mut config: Self = figment.extract().map_err(|error| explain(&error, &places))?;
        personal_defaults(&mut config.namespaces, &figment);
        config.apps = std::mem::take(&mut config.apps).read_from(figment.clone(), file.map(Path::to_owned));
        let read = if role.serves() { validate::tokens::read_files(&mut config) } else { Ok(()) };
        let read =
            read.and_then(|()| if role.works() { stock::read_secrets(&mut config, role) } else { Ok(()) });
        read.and_then(|()| validate::validate(&config, role))
            .map_err(|(key, problem)| ConfigError(format!("`{key}`{}: {problem}", places.of(&key))))?;
        Ok(config)
    }
}

fn layers(
    role: Role,
    file: Option<&Path>,
    mut variables: BTreeMap<String, String>,
    flags: &[(&str, String)],
) -> Result<Figment, ConfigError> {
    let mut figment = Figment::from(Toml::string(DEFAULT_TOML));
    if let Some(path) = file {
        readable(path)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    let in_kubernetes = variables.contains_key(variable::KUBERNETES);
    let mut keys = Vec::new();
    for name in variables.keys() {
        keys.extend(variable::key(name, in_kubernetes)?.map(|key| (name.clone(), key)));
    }
    variable::once(&keys)?;
    for (name, key) in keys {
        if key.starts_with("app.") && !role.works() {
            // Secrets of applications are the workers' alone.
            continue;
        }
        let value = variables.remove(&name).unwrap_or_default();
        figment = merge_variable(figment, role, &name, &key, &value)?;
    }
    for (key, value) in flags {
        figment = figment.merge(Named::new(format!("--{}", key.replace(['.', '_'], "-")), key, value));
    }
    Ok(figment)
}

/// Fails with the next step if the configuration file cannot be read.
fn readable(path: &Path) -> Result<(), ConfigError> {
    let problem = if path.is_dir() {
        "it is a directory".to_owned()
    } else {
        match std::fs::read_to_string(path) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ConfigError(format!(
                    "no configuration file at {}: name another with --config or {FILE_VARIABLE}, or write one from \
                     `tidegate default-config`",
                    path.display()
                )));
            }
            Err(error) => failure::reason(&error),
        }
    };
    Err(ConfigError(format!(
        "the configuration file {} cannot be read: {problem}; --config or {FILE_VARIABLE} name it",
        path.display()
    )))
}

/// Gives the namespace `user` its own defaults where its table leaves keys out: personal channels stay closed and keep their
/// history when the table sets something else.
fn personal_defaults(namespaces: &mut [Namespace], figment: &Figment) {
    let Ok(Value::Array(_, tables)) = figment.find_value("namespace") else { return };
    for (namespace, table) in namespaces.iter_mut().zip(tables) {
        if namespace.name != USER_NAMESPACE {
            continue;
        }
        let given = |key: &str| table.as_dict().is_some_and(|table| table.contains_key(key));
        if !given("allow_subscribe") {
            namespace.allow_subscribe = Audience::Nobody;
        }
        if !given("history_size") {
            namespace.history_size = Namespace::user().history_size;
        }
    }
}
