//! A key set (JWKS): the keys by `kid` and algorithm. Pure: `keys` fetches the bytes.

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;

use super::sightings::Sightings;

/// The longest `kid` in bytes.
const MAX_KID_LEN: usize = 128;

/// The most keys in one set.
const MAX_KEYS: usize = 50;

/// The keys of one issuer, replaced as a whole. Each issuer has its own set: the same `kid` in another set is another
/// key.
pub(crate) struct FetchedKeys {
    /// The issuer's name in the configuration.
    pub(crate) name: String,
    /// The address of the key set, from the configuration.
    pub(crate) url: String,
    algorithms: Vec<Algorithm>,
    current: RwLock<Option<Arc<KeySet>>>,
    missing: Mutex<Sightings>,
}

/// Keys by `kid`, each with the algorithms it may verify.
pub(crate) struct KeySet {
    keys: HashMap<String, Vec<(Algorithm, DecodingKey)>>,
}

/// The result of looking up a `kid`.
pub(super) enum Lookup<'a> {
    Key(&'a DecodingKey),
    /// The key is for other algorithms.
    OtherAlgorithm,
    Unknown,
}

/// Why a document is not a key set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAKeySet {
    #[error("not a JSON key set: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl FetchedKeys {
    pub(super) fn new(name: &str, url: &str, algorithms: Vec<Algorithm>) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            algorithms,
            current: RwLock::default(),
            missing: Mutex::default(),
        }
    }

    /// The keys as last fetched. `None` before the first fetch, and when they are too old.
    pub(crate) fn current(&self) -> Option<Arc<KeySet>> {
        self.current.read().clone()
    }

    /// A fetch begins: what it brings settles which of the keys missed so far are withdrawn.
    pub(crate) fn fetching(&self) {
        self.missing.lock().fetching();
    }

    /// Whether a key that is missing was missing before a fetch too. Otherwise the next fetch may bring it.
    pub(super) fn is_withdrawn(&self, kid: &str) -> bool {
        self.missing.lock().is_withdrawn(kid)
    }

    /// Replaces the keys with a fetched document. An invalid document leaves them unchanged.
    pub(crate) fn replace(&self, document: &[u8]) -> Result<usize, NotAKeySet> {
        let set = KeySet::parse(document, &self.algorithms)?;
        let len = set.keys.len();
        *self.current.write() = Some(Arc::new(set));
        self.missing.lock().fetched();
        Ok(len)
    }

    /// Drops keys that have become too old.
    pub(crate) fn forget(&self) {
        *self.current.write() = None;
    }
}

impl KeySet {
    /// Keys for other algorithms are skipped: a set may serve other purposes too.
    fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, NotAKeySet> {
        let document: Document = serde_json::from_slice(document)?;
        if document.keys.len() > MAX_KEYS {
            return Err(NotAKeySet::TooManyKeys);
        }
        let mut keys: HashMap<String, Vec<_>> = HashMap::new();
        for key in document.keys {
            let Ok(key) = serde_json::from_value::<Jwk>(key) else { continue };
            let Ok(decoding) = DecodingKey::from_jwk(&key) else { continue };
            let usable: Vec<_> = usable(&key).filter(|algorithm| algorithms.contains(algorithm)).collect();
            let Some(kid) = key.common.key_id.filter(|kid| is_kid(kid) && !usable.is_empty()) else {
                continue;
            };
            keys.entry(kid).or_default().extend(usable.into_iter().map(|a| (a, decoding.clone())));
        }
        Ok(Self { keys })
    }

    pub(super) fn find(&self, kid: &str, algorithm: Algorithm) -> Lookup<'_> {
        let Some(keys) = self.keys.get(kid) else { return Lookup::Unknown };
        keys.iter()
            .find(|(of, _)| *of == algorithm)
            .map_or(Lookup::OtherAlgorithm, |(_, key)| Lookup::Key(key))
    }
}

/// The algorithms a key may verify, by its type and its own fields. None for a shared secret: a published one is no
/// secret.
fn usable(key: &Jwk) -> impl Iterator<Item = Algorithm> + use<> {
    let by_type: &[Algorithm] = match &key.algorithm {
        AlgorithmParameters::RSA(_) => &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        _ => &[],
    };
    let common = &key.common;
    let signs = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let only = common.key_algorithm;
    by_type
        .iter()
        .copied()
        .filter(move |algorithm| signs && only.is_none_or(|only| only == KeyAlgorithm::from(*algorithm)))
}

/// Whether a text can be a `kid`. It is only looked up, never used otherwise.
pub(super) fn is_kid(kid: &str) -> bool {
    (1..=MAX_KID_LEN).contains(&kid.len()) && !kid.chars().any(char::is_control)
}
