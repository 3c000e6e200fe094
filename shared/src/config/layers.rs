//! Environment variables and flags as layers of the configuration, and errors that name the key and the layer.

use figment::{Figment, error::Kind};

use super::ConfigError;

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

/// `TIDEGATE_A__B` sets `a.b`. `TIDEGATE_A__B_FILE` sets it to the content of the file.
pub(super) fn merge_variable(
    figment: Figment,
    variable: &str,
    key: &str,
    value: &str,
) -> Result<Figment, ConfigError> {
    let key = key.to_lowercase().replace("__", ".");
    if let Some(key) = key.strip_suffix("_file") {
        let secret = std::fs::read_to_string(value).map_err(|error| {
            ConfigError(format!("{variable} names {value}, which cannot be read: {error}"))
        })?;
        return Ok(figment.merge(Named::new(
            variable.to_owned(),
            key,
            secret.trim_end_matches(['\n', '\r']),
        )));
    }
    Ok(figment.merge(Named::new(variable.to_owned(), &key, value)))
}

pub(super) fn source_of(metadata: &figment::Metadata) -> String {
    match &metadata.source {
        Some(figment::Source::File(path)) => format!(" (from {})", path.display()),
        _ if metadata.name.starts_with("TOML") => " (from the built-in defaults)".to_owned(),
        _ => format!(" (from {})", metadata.name),
    }
}

pub(super) fn explain(error: &figment::Error) -> ConfigError {
    let key = error.path.join(".");
    let source = error.metadata.as_ref().map(source_of).unwrap_or_default();
    ConfigError(match &error.kind {
        Kind::UnknownField(name, known) => {
            let full = if key.ends_with(name.as_str()) || key.is_empty() {
                key.clone()
            } else {
                format!("{key}.{name}")
            };
            let full = if full.is_empty() { name.clone() } else { full };
            let nearest = known
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let hint = match nearest {
                Some(nearest) if strsim::jaro_winkler(nearest, name) > 0.7 => {
                    format!("did you mean `{nearest}`?")
                }
                _ => format!("known here: {}", known.join(", ")),
            };
            format!("`{full}`{source} is not a key: {hint}")
        }
        Kind::MissingField(name) => {
            let full = if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
            format!("`{full}`{source} is missing")
        }
        kind => format!("`{key}`{source}: {kind}"),
    })
}
