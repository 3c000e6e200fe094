//! Environment variables and flags as layers of the configuration, and errors that name the key and the layer.

use figment::{Figment, error::Kind};

use super::{ConfigError, Role, place::Places};
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
        let value: figment::value::Value = self.value.parse().unwrap_or_else(|never| match never {});
        let mut dict = figment::value::Dict::new();
        nest(&mut dict, &self.key, value);
        Ok(figment::Profile::Default.collect(dict))
    }
}

fn nest(dict: &mut figment::value::Dict, key: &str, value: figment::value::Value) {
    match key.split_once('.') {
        None => {
            dict.insert(key.to_owned(), value);
        }
        Some((head, rest)) => {
            let mut inner = figment::value::Dict::new();
            nest(&mut inner, rest, value);
            dict.insert(head.to_owned(), inner.into());
        }
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
    let secret = std::fs::read_to_string(value).map_err(|error| {
        ConfigError(format!("{variable} names {value}, which cannot be read: {}", failure::reason(&error)))
    })?;
    Ok(figment.merge(Named::new(variable.to_owned(), key, secret.trim_end_matches(['\n', '\r']))))
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
        kind => format!("`{key}`{}: {kind}", place(&key)),
    })
}
