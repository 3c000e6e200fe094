//! Which environment variable sets which key.

use std::collections::BTreeSet;

use super::{ConfigError, DEFAULT_TOML, ENV_PREFIX, FILE_VARIABLE, layers};

/// Set in every container of Kubernetes.
pub(super) const KUBERNETES: &str = "KUBERNETES_SERVICE_HOST";
/// The arrays of tables, which one variable sets as a whole.
pub(super) const ARRAYS: [&str; 4] = ["issuer", "namespace", "rate_limit", "route"];
/// Behind a name: the value is the content of a file.
const FILE: &str = "_file";

/// The key that a variable sets, with `_file` behind it if the value is in a file. `None` if it is none of ours.
pub(super) fn key(name: &str, in_kubernetes: bool) -> Result<Option<String>, ConfigError> {
    let Some(rest) = name.strip_prefix(ENV_PREFIX).filter(|_| name != FILE_VARIABLE) else {
        return lower_case(name);
    };
    let key = rest.to_lowercase().replace("__", ".");
    if let Some(app) = of_app(name, &key) {
        return app.map(Some);
    }
    let known = keys();
    if known.contains(&key) || key.strip_suffix(FILE).is_some_and(|key| known.contains(key)) {
        return Ok(Some(key));
    }
    if let Some(instead) = layers::removed(&key) {
        return Err(ConfigError(format!("{name} sets a key that is none any more: {instead}")));
    }
    if in_kubernetes && is_of_kubernetes(rest) {
        return Ok(None);
    }
    Err(ConfigError(format!("{name} sets no key: {}", suggestion(rest, &key, &known))))
}

/// The key of an application's section that a variable sets. Which keys a section has, the application alone knows.
fn of_app(name: &str, key: &str) -> Option<Result<String, ConfigError>> {
    let rest = key.strip_prefix("app.")?;
    let parts: Vec<&str> = rest.split('.').collect();
    let whole = parts.len() > 1 && parts.iter().all(|part| !part.is_empty());
    Some(if whole {
        Ok(key.to_owned())
    } else {
        Err(ConfigError(format!(
            "{name} sets no key: a key of an application's section is set by {ENV_PREFIX}APP__<SECTION>__<KEY>, for example \
             {ENV_PREFIX}APP__BILLING__CURRENCY"
        )))
    })
}

/// Fails for a name of ours in small letters, which nothing else would notice.
fn lower_case(name: &str) -> Result<Option<String>, ConfigError> {
    let upper = name.to_ascii_uppercase();
    if name.starts_with(ENV_PREFIX) || !upper.starts_with(ENV_PREFIX) {
        return Ok(None);
    }
    let key = upper.strip_prefix(ENV_PREFIX).unwrap_or_default().to_lowercase().replace("__", ".");
    if keys().contains(key.strip_suffix(FILE).unwrap_or(&key)) {
        return Err(ConfigError(format!("{name} sets no key: write it in capitals, {upper}")));
    }
    Ok(None)
}

/// Refuses two variables that set the same key.
pub(super) fn once(keys: &[(String, String)]) -> Result<(), ConfigError> {
    let plain = |key: &str| key.strip_suffix(FILE).unwrap_or(key).to_owned();
    for (place, (name, key)) in keys.iter().enumerate() {
        if let Some((other, _)) = keys.iter().take(place).find(|(_, other)| plain(other) == plain(key)) {
            return Err(ConfigError(format!("{other} and {name} set the same key: unset one of them")));
        }
    }
    Ok(())
}

/// Every key. A section is none: its keys are set one by one.
fn keys() -> BTreeSet<String> {
    let mut keys: BTreeSet<String> = ARRAYS.map(str::to_owned).into();
    // The default file is tested to be valid.
    if let Ok(document) = DEFAULT_TOML.parse::<toml_edit::DocumentMut>() {
        collect(document.as_table(), "", &mut keys);
    }
    keys
}

fn collect(table: &toml_edit::Table, prefix: &str, keys: &mut BTreeSet<String>) {
    for (name, item) in table {
        let key = format!("{prefix}{name}");
        if let Some(table) = item.as_table() {
            collect(table, &format!("{key}."), keys);
        } else {
            keys.insert(key);
        }
    }
}

/// Kubernetes sets variables with the names of services in every container: `TIDEGATE_GATEWAY_PORT_8000_TCP` for a service
/// `tidegate-gateway`.
fn is_of_kubernetes(rest: &str) -> bool {
    let is_port = |part: &str| {
        let mut parts = part.split('_');
        let number = parts.next().is_some_and(|number| number.parse::<u16>().is_ok());
        number && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
    };
    let service = |end: &str| rest == end.trim_start_matches('_') || rest.ends_with(end);
    service("_SERVICE_HOST")
        || service("_SERVICE_PORT")
        || rest.contains("SERVICE_PORT_")
        || service("_PORT")
        || rest.match_indices("PORT_").any(|(at, found)| rest.get(at + found.len()..).is_some_and(is_port))
}

fn suggestion(rest: &str, key: &str, known: &BTreeSet<String>) -> String {
    let key = key.trim_matches(['.', '_']);
    if let Some(array) = ARRAYS.iter().find(|array| key.split('.').next() == Some(array)) {
        let name = format!("{ENV_PREFIX}{}", array.to_uppercase());
        return format!(
            "{name} sets all [[{array}]] tables at once, for example {name}='[{{name = \"a\", ...}}]'"
        );
    }
    if let Some(first) =
        known.iter().find(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    {
        let variable = first.replace('.', "__").to_uppercase();
        return format!(
            "[{key}] is a section, whose keys are set one by one, for example {ENV_PREFIX}{variable}"
        );
    }
    let single = |name: &str| {
        name.to_lowercase()
            .replace(['.', '-'], "_")
            .split('_')
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("_")
    };
    let typed = single(rest);
    let nearest = known
        .iter()
        .flat_map(|key| [key.clone(), format!("{key}{FILE}")])
        .map(|key| (strsim::jaro_winkler(&single(&key), &typed), key))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((likeness, key)) if likeness > 0.85 => {
            let variable = key.replace('.', "__").to_uppercase();
            format!("did you mean {ENV_PREFIX}{variable}? Two underscores separate a section from its key")
        }
        _ => format!(
            "a key is set by {ENV_PREFIX}<SECTION>__<KEY>, for example TIDEGATE_GATEWAY__LISTEN; `tidegate default-config` \
             prints every key; unset the variable if it belongs to another program"
        ),
    }
}
