//! The secrets that production needs: of your own, long enough, and only those of the reader.

use super::{Problem, problem};
use crate::config::{Config, Role, Secret};

/// The least bytes of a secret that signs tokens or opens the server API: whoever guesses it offline has it.
const LONG: usize = 32;
/// The least bytes of a NATS password, which can only be guessed by asking the broker.
const SHORT: usize = 16;

pub(super) fn production(config: &Config, role: Role) -> Result<(), Problem> {
    for (key, secret) in config.secrets().into_iter().filter(|(key, _)| role.uses(key)) {
        let variable = format!("TIDEGATE_{}", key.replace('.', "__").to_uppercase());
        let otherwise = match key {
            "auth.hmac_secret" => "; or leave it empty (\"\") and declare an [[issuer]]",
            "api.key" => "; or switch the server API off over HTTP with api.key = \"\"",
            _ => "",
        };
        let may_be_empty = match key {
            "auth.hmac_secret" => !config.issuers.is_empty() || role == Role::Signer,
            "api.key" => true,
            _ => false,
        };
        if secret.is_empty() && may_be_empty {
            continue;
        }
        if secret.is_empty() || secret.is_built_in() {
            return problem(
                key,
                format!(
                    "env = \"production\" needs a secret of your own: set {variable} or {variable}_FILE{otherwise}"
                ),
            );
        }
        long_enough(key, secret, if key.starts_with("nats.") { SHORT } else { LONG })?;
    }
    if role.serves() {
        token_life(config)?;
        of_issuers(config)?;
        origins(config)?;
    }
    Ok(())
}

fn token_life(config: &Config) -> Result<(), Problem> {
    if config.auth.max_token_life.is_zero() {
        return problem(
            "auth.max_token_life",
            "env = \"production\" needs a limit, because a token without an expiry that leaks is valid for ever: \
             set TIDEGATE_AUTH__MAX_TOKEN_LIFE, for example to 24h",
        );
    }
    Ok(())
}

fn of_issuers(config: &Config) -> Result<(), Problem> {
    for (index, issuer) in config.issuers.iter().enumerate() {
        let Some(secret) = &issuer.hmac_secret else { continue };
        let key = format!("issuer.{index}.hmac_secret");
        if secret.is_built_in() {
            return problem(key, "env = \"production\" needs a secret of your own");
        }
        long_enough(&key, secret, LONG)?;
    }
    Ok(())
}

fn origins(config: &Config) -> Result<(), Problem> {
    if config.gateway.origins.iter().any(|origin| origin.trim() == "*") {
        return problem(
            "gateway.origins",
            "\"*\" lets every web page connect as its visitor: list the allowed origins in production",
        );
    }
    Ok(())
}

fn long_enough(key: &str, secret: &Secret, least: usize) -> Result<(), Problem> {
    let length = secret.expose().len();
    if length >= least {
        return Ok(());
    }
    let text = format!(
        "must have at least {least} bytes in production, and has {length}: `openssl rand -hex {least}` prints a good one"
    );
    problem(key, text)
}
