//! The checks of `[auth]` and the issuers. They look at which keys are given, and never parse one.

use std::time::Duration;

use super::{Problem, plain, problem};
use crate::config::{Config, Issuer, KeySource, SHORT_FORM, issuer::is_fetchable};

/// The longest `auth.max_token_life`.
const LONGEST_LIFE: Duration = Duration::from_hours(365 * 24);

/// Reads the keys that issuers keep in files.
pub(in crate::config) fn read_files(config: &mut Config) -> Result<(), Problem> {
    for (index, issuer) in config.issuers.iter_mut().enumerate() {
        issuer.read_files().map_err(|(field, text)| (format!("issuer.{index}.{field}"), text))?;
    }
    Ok(())
}

pub(super) fn auth(config: &Config) -> Result<(), Problem> {
    if config.auth.leeway > Duration::from_mins(1) {
        return problem(
            "auth.leeway",
            "must be at most 1m: a longer leeway accepts tokens long after their expiry",
        );
    }
    if !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&config.auth.jwks_refresh) {
        return problem(
            "auth.jwks_refresh",
            "must be between 1s and 1h: fetched keys are not used for longer than 1h",
        );
    }
    let life = config.auth.max_token_life;
    if !life.is_zero() && !(Duration::from_secs(1)..=LONGEST_LIFE).contains(&life) {
        return problem(
            "auth.max_token_life",
            "must be between 1s and 8760h (a year), or \"0s\" for no limit",
        );
    }
    Ok(())
}

pub(super) fn issuers(config: &Config) -> Result<(), Problem> {
    let all = config.all_issuers();
    // `all` begins with the issuer of `[auth]`, if there is one. The indices of the table follow.
    let short_forms = all.len() - config.issuers.len();
    for (place, issuer) in all.iter().enumerate().skip(short_forms) {
        let key = |field: &str| format!("issuer.{}.{field}", place - short_forms);
        if !plain(&issuer.name) {
            let text = format!("{:?} is not an issuer's name: use letters, digits, `_` and `-`", issuer.name);
            return problem(key("name"), text);
        }
        for other in all.iter().take(place) {
            if other.name == issuer.name {
                return problem(key("name"), format!("the issuer {:?} is declared twice", issuer.name));
            }
            if other.issuer == issuer.issuer {
                return problem(key("issuer"), same_iss(&other.name, &issuer.issuer));
            }
        }
        issuer_keys(issuer).map_err(|(field, text)| (key(field), text))?;
    }
    Ok(())
}

fn same_iss(other: &str, iss: &str) -> String {
    if iss.is_empty() && other == SHORT_FORM {
        return "auth.hmac_secret takes every `iss` already: give this issuer or auth.issuer one, or set \
                auth.hmac_secret = \"\""
            .to_owned();
    }
    format!("the issuer {other:?} has the same `iss`: give each issuer its own")
}

fn issuer_keys(issuer: &Issuer) -> Result<(), (&'static str, String)> {
    let source = issuer.key_source()?;
    if issuer.algorithms.is_empty() {
        return Err(("algorithms", "name at least one, for example [\"RS256\"]".to_owned()));
    }
    let hmac = matches!(source, KeySource::Hmac(_));
    if let Some(other) = issuer.algorithms.iter().find(|algorithm| algorithm.is_hmac() != hmac) {
        let text = if hmac {
            format!("{other:?} is checked with a public key, not with hmac_secret")
        } else {
            format!("{other:?} needs hmac_secret; otherwise anyone with the public key could sign tokens")
        };
        return Err(("algorithms", text));
    }
    match source {
        KeySource::Hmac(secret) if secret.is_empty() => {
            Err(("hmac_secret", "is empty: set it, or remove the issuer".to_owned()))
        }
        KeySource::Jwks(url) if !is_fetchable(url) => Err((
            "jwks_url",
            "use an https:// address without user and password; http:// only on loopback".to_owned(),
        )),
        KeySource::Hmac(_) | KeySource::Jwks(_) | KeySource::Public(_) => Ok(()),
    }
}
