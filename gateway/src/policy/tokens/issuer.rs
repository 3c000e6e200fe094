//! One issuer: its algorithms, its audience and its keys. Pure.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, crypto, errors::ErrorKind};
use tidegate_shared::config::{Issuer, KeySource, TokenAlgorithm};

use super::{
    claims::Parts,
    key_set::{FetchedKeys, Lookup, is_kid},
    public_key,
    refusals::Reason,
};

/// A configured issuer.
pub(super) struct Trusted {
    name: String,
    iss: String,
    /// The only accepted `aud`; empty for any.
    audience: String,
    algorithms: Vec<Algorithm>,
    keys: Keys,
}

enum Keys {
    One(DecodingKey),
    Fetched(Arc<FetchedKeys>),
}

/// Why a token is not accepted.
pub(super) enum NotAccepted {
    For(Reason),
    /// It names a missing key.
    UnknownKey,
    /// It names a key that a fetch since has not brought.
    WithdrawnKey,
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
        let (iss, audience) = (config.issuer.clone(), config.audience.clone());
        Ok(Self { name: config.name.clone(), iss, audience, algorithms, keys })
    }

    /// Its name in the configuration.
    pub(super) fn name(&self) -> &str {
        &self.name
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

    /// Checks the signature and the `aud` of a token whose `iss` has selected this issuer.
    pub(super) fn check(&self, parts: &Parts<'_>) -> Result<(), NotAccepted> {
        let header = &parts.header;
        // `crit` names extensions that a verifier has to understand, and none is supported.
        if header.crit.is_some() || !header.kid.as_deref().is_none_or(is_kid) {
            return Err(NotAccepted::For(Reason::Malformed));
        }
        if !self.algorithms.contains(&header.alg) {
            return Err(NotAccepted::For(Reason::Algorithm));
        }
        match &self.keys {
            Keys::One(key) => verify(parts, key)?,
            Keys::Fetched(keys) => {
                // The key is never guessed: with several keys the token has to name one.
                let kid = header.kid.as_deref().ok_or(NotAccepted::For(Reason::Key))?;
                let set = keys.current();
                match set.as_ref().map_or(Lookup::Unknown, |set| set.find(kid, header.alg)) {
                    Lookup::Key(key) => verify(parts, key)?,
                    Lookup::OtherAlgorithm => return Err(NotAccepted::For(Reason::Algorithm)),
                    Lookup::Unknown if keys.is_withdrawn(kid) && set.is_some() => {
                        return Err(NotAccepted::WithdrawnKey);
                    }
                    Lookup::Unknown => return Err(NotAccepted::UnknownKey),
                }
            }
        }
        if self.audience.is_empty() || parts.claims.is_for(&self.audience) {
            Ok(())
        } else {
            Err(NotAccepted::For(Reason::Audience))
        }
    }
}

fn verify(parts: &Parts<'_>, key: &DecodingKey) -> Result<(), NotAccepted> {
    let reason = match crypto::verify(parts.signature, parts.message.as_bytes(), key, parts.header.alg) {
        Ok(true) => return Ok(()),
        Ok(false) => Reason::Signature,
        Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => Reason::Malformed,
        Err(_) => Reason::Algorithm,
    };
    Err(NotAccepted::For(reason))
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
