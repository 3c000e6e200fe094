//! One issuer: its algorithms, each with its validation rule, and its keys. Pure.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use tidegate_shared::config::{Issuer, KeySource, TokenAlgorithm};

use super::{
    key_set::{FetchedKeys, Lookup, is_kid},
    public_key,
};

/// A configured issuer.
pub(super) struct Trusted {
    iss: String,
    /// Its algorithms with one validation rule each: one rule for several would require one family.
    rules: Vec<(Algorithm, Validation)>,
    keys: Keys,
}

enum Keys {
    One(DecodingKey),
    Fetched(Arc<FetchedKeys>),
}

/// Why a token is not accepted.
pub(super) enum NotAccepted {
    Forged,
    /// It names a missing key.
    UnknownKey,
}

/// A configured key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the issuer {issuer:?} has an unusable public_key: {reason}")]
pub(crate) struct BadKey {
    issuer: String,
    reason: String,
}

impl Trusted {
    pub(super) fn new(config: &Issuer) -> Result<Self, BadKey> {
        let bad = |reason: String| BadKey { issuer: config.name.clone(), reason };
        let algorithms: Vec<Algorithm> = config.algorithms.iter().copied().map(algorithm).collect();
        let keys = match config.key_source().map_err(|(_, reason)| bad(reason))? {
            KeySource::Hmac(secret) => Keys::One(DecodingKey::from_secret(secret.expose().as_bytes())),
            KeySource::Public(pem) => Keys::One(public_key::read(pem, &algorithms).map_err(bad)?),
            KeySource::Jwks(url) => {
                Keys::Fetched(Arc::new(FetchedKeys::new(&config.name, url, algorithms.clone())))
            }
        };
        let rules = algorithms.into_iter().map(|algorithm| (algorithm, rule(config, algorithm))).collect();
        Ok(Self { iss: config.issuer.clone(), rules, keys })
    }

    /// The `iss` of its tokens; empty for the one that takes every other.
    pub(super) fn iss(&self) -> &str {
        &self.iss
    }

    pub(super) fn fetched_keys(&self) -> Option<&Arc<FetchedKeys>> {
        match &self.keys {
            Keys::One(_) => None,
            Keys::Fetched(keys) => Some(keys),
        }
    }

    /// Checks a token's signature, `iss` and `aud`, and reads its claims.
    pub(super) fn open<T: DeserializeOwned>(&self, token: &str, header: &Header) -> Result<T, NotAccepted> {
        // `crit` names extensions that a verifier has to understand, and none is supported.
        if header.crit.is_some() || !header.kid.as_deref().is_none_or(is_kid) {
            return Err(NotAccepted::Forged);
        }
        let (algorithm, rule) =
            self.rules.iter().find(|(algorithm, _)| *algorithm == header.alg).ok_or(NotAccepted::Forged)?;
        match &self.keys {
            Keys::One(key) => read(token, key, rule),
            Keys::Fetched(keys) => {
                // The key is never guessed: with several keys the token has to name one.
                let kid = header.kid.as_deref().ok_or(NotAccepted::Forged)?;
                let set = keys.current().ok_or(NotAccepted::UnknownKey)?;
                match set.find(kid, *algorithm) {
                    Lookup::Key(key) => read(token, key, rule),
                    Lookup::OtherAlgorithm => Err(NotAccepted::Forged),
                    Lookup::Unknown => Err(NotAccepted::UnknownKey),
                }
            }
        }
    }
}

fn read<T: DeserializeOwned>(token: &str, key: &DecodingKey, rule: &Validation) -> Result<T, NotAccepted> {
    jsonwebtoken::decode(token, key, rule).map(|data| data.claims).map_err(|_| NotAccepted::Forged)
}

fn rule(config: &Issuer, algorithm: Algorithm) -> Validation {
    let mut rule = Validation::new(algorithm);
    rule.required_spec_claims.clear();
    // The caller checks the time.
    rule.validate_exp = false;
    rule.validate_nbf = false;
    if !config.issuer.is_empty() {
        rule.set_issuer(&[&config.issuer]);
        rule.required_spec_claims.insert("iss".to_owned());
    }
    if config.audience.is_empty() {
        rule.validate_aud = false;
    } else {
        rule.set_audience(&[&config.audience]);
        rule.required_spec_claims.insert("aud".to_owned());
    }
    rule
}

fn algorithm(configured: TokenAlgorithm) -> Algorithm {
    match configured {
        TokenAlgorithm::HS256 => Algorithm::HS256,
        TokenAlgorithm::HS384 => Algorithm::HS384,
        TokenAlgorithm::HS512 => Algorithm::HS512,
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::RS384 => Algorithm::RS384,
        TokenAlgorithm::RS512 => Algorithm::RS512,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::ES384 => Algorithm::ES384,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}
