//! Environment variables and flags as layers of the configuration, and errors that name the key and the layer.

use figment::{Figment, error::Kind, value::Value};

use super::{ConfigError, Role, place::Places, typed, words};
use crate::failure;

/// One value together with its source, for error messages.
pub(super) struct Named {
    source: String,
    key: String,
    value: String,
}

impl Named {
    pub(super) fn new(source: String, key: &str, value: &str) -> Self {
        Self { source, key: key.to_owned(), value: value.to_owned() }
    }
}

impl figment::Provider for Named {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        let value = typed::value(&self.key, &self.value);
        Ok(figment::Profile::Default.collect(typed::dict(&self.key, value)))
    }
}

/// A value that is typed already, together with its source.
pub(super) struct Fixed {
    source: String,
    key: String,
    value: Value,
}

impl Fixed {
    pub(super) fn new(source: String, key: &str, value: Value) -> Self {
        Self { source, key: key.to_owned(), value }
    }
}

impl figment::Provider for Fixed {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        Ok(figment::Profile::Default.collect(typed::dict(&self.key, self.value.clone())))
    }
}

/// Sets `key` to the value of a variable, or, if the key ends with `_file`, to the content of the file that it names.
pub(super) fn merge_variable(
    figment: Figment,
    role: Role,
    variable: &str,
    key: &str,
    value: &str,
) -> Result<Figment, ConfigError> {
    let Some(key) = key.strip_suffix("_file") else {
        return Ok(figment.merge(Named::new(variable.to_owned(), key, value)));
    };
    if !role.uses(key) {
        // The file may be closed to this program, which does not use the secret.
        return Ok(figment);
    }
    if value.is_empty() {
        return Err(ConfigError(format!("{variable} names no file: set it to a path, or unset it")));
    }
    let secret = std::fs::read_to_string(value).map_err(|error| {
        ConfigError(format!("{variable} names {value}, which cannot be read: {}", failure::reason(&error)))
    })?;
    let secret = secret.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        // Most likely a secret that was not mounted or not written yet.
        let name = variable.trim_end_matches("_FILE");
        return Err(ConfigError(format!(
            "{variable} names {value}, which is empty: write the value into it; {name}= sets an empty value"
        )));
    }
    Ok(figment.merge(Named::new(variable.to_owned(), key, secret)))
}

/// What replaces a key of earlier versions.
pub(super) fn removed(key: &str) -> Option<&'static str> {
    let replaced = [(
        "streams.in_max_bytes",
        "every route has a stream of its own now; set `max_bytes` in its [[route]], whose default is 64 MiB",
    )];
    replaced.into_iter().find_map(|(old, instead)| (old == key).then_some(instead))
}

pub(super) fn explain(error: &figment::Error, places: &Places<'_>) -> ConfigError {
    let key = error.path.join(".");
    let place = |key: &str| places.with(key, error.metadata.as_ref());
    ConfigError(match &error.kind {
        Kind::UnknownField(name, known) => {
            let full = if key.ends_with(name.as_str()) || key.is_empty() {
                key.clone()
            } else {
                format!("{key}.{name}")
            };
            let full = if full.is_empty() { name.clone() } else { full };
            if let Some(instead) = removed(&full) {
                return ConfigError(format!("`{full}`{} is not a key any more: {instead}", place(&full)));
            }
            let nearest = known
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let hint = match nearest {
                Some(nearest) if strsim::jaro_winkler(nearest, name) > 0.7 => {
                    format!("did you mean `{nearest}`?")
                }
                _ => format!("known here: {}", known.join(", ")),
            };
            format!("`{full}`{} is not a key: {hint}", place(&full))
        }
        Kind::MissingField(name) => {
            let full = if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
            format!("`{full}`{} is missing: set it", place(&full))
        }
        // The text itself is no TOML.
        kind if key.is_empty() => format!("the configuration{}: {kind}", place("")),
        Kind::Message(text) => format!("`{key}`{}: {text}", place(&key)),
        kind => format!("`{key}`{}: {}", place(&key), words::mismatch(kind)),
    })
}
