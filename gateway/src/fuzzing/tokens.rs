//! Tokens: as they are sent, with any claims under a valid signature, and key sets.

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::Value;

use super::cut;
use crate::policy::tokens::{Identity, Invalid, Permit, Verifier};

/// The time of every check, in seconds since 1970.
const NOW: u32 = 1_800_000_000;
/// How far clocks may differ, as the defaults have it.
const LEEWAY: u32 = 10;

/// The public keys of RFC 7515 (A.3) and RFC 8037 (A.2).
const PUBLISHED: &[u8] = br#"{"keys":[
    {"kty":"EC","crv":"P-256","kid":"ec","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

struct Bench {
    verifier: Verifier,
    secret: EncodingKey,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| Bench::new(PUBLISHED));

/// As the other, but its key set is the input.
static OPEN: LazyLock<Bench> = LazyLock::new(|| Bench::new(PUBLISHED));

impl Bench {
    fn new(keys: &[u8]) -> Self {
        let config = super::backend::deployment(&[]);
        let secret = EncodingKey::from_secret(config.auth.hmac_secret.expose().as_bytes());
        let verifier =
            Verifier::new(&config).unwrap_or_else(|_| unreachable!("the issuers of fuzz/gateway.toml"));
        for (_, set) in verifier.fetched_keys() {
            let _ = set.replace(keys);
        }
        Self { verifier, secret }
    }

    /// A token of this header and these claims with a true signature of the shared secret.
    fn signed(&self, header: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", BASE64URL_NOPAD.encode(header), BASE64URL_NOPAD.encode(claims));
        let signature =
            crypto::sign(message.as_bytes(), &self.secret, Algorithm::HS256).expect("it is signed");
        format!("{message}.{signature}")
    }

    fn both(&self, token: &str) -> (Result<Identity, Invalid>, Result<Permit, Invalid>) {
        let checked =
            (self.verifier.verify(token, NOW.into()), self.verifier.verify_subscription(token, NOW.into()));
        assert!(
            checked.0.is_err() || checked.1.is_err(),
            "no token opens a connection and a channel: {token}"
        );
        checked
    }
}

/// Any bytes in the place of a token. None has a signature.
pub(super) fn token(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (identity, permit) = BENCH.both(&text);
    assert!(identity.is_err() && permit.is_err(), "nobody has signed it: {text}");
}

/// A header and claims, separated by NUL, under a true signature: what they say is checked all the same.
pub(super) fn claims(input: &[u8]) {
    let plain = &br#"{"alg":"HS256","typ":"JWT"}"#[..];
    let (header, claims) = cut(input, b"\0").unwrap_or((plain, input));
    let token = BENCH.signed(header, claims);
    let (identity, permit) = BENCH.both(&token);
    let said = serde_json::from_slice::<Value>(claims).ok();
    let user = match (&identity, &permit) {
        (Ok(identity), _) => identity.user.as_deref(),
        (_, Ok(permit)) => permit.user.as_deref(),
        _ => return,
    };
    assert!(token.len() <= 8 * 1024);
    assert!(user.is_none_or(|user| !user.is_empty() && !user.chars().any(char::is_control)));
    // A value that is given twice or has half a surrogate pair is not for the strict reader.
    let Some(said) = said.filter(Value::is_object) else { return };
    let time = |name: &str| said.get(name).and_then(Value::as_f64);
    assert!(
        time("exp").is_none_or(|exp| exp + f64::from(LEEWAY) + 1.0 > f64::from(NOW)),
        "it is over: {said}"
    );
    assert!(time("nbf").is_none_or(|nbf| nbf < f64::from(NOW + LEEWAY) + 1.0), "it has not begun: {said}");
    assert_eq!(user.unwrap_or_default(), said.get("sub").and_then(Value::as_str).unwrap_or_default());
    if let Ok(permit) = &permit {
        assert_eq!(Some(permit.channel.as_str()), said.get("channel").and_then(Value::as_str));
    }
}

/// A published key set. Its shared secrets are no secrets, and a broken document changes nothing.
pub(super) fn key_set(input: &[u8]) {
    let bench = &*OPEN;
    let Some((_, set)) = bench.verifier.fetched_keys().next() else {
        unreachable!("an issuer has a key set")
    };
    set.replace(PUBLISHED).expect("it is a key set");
    let before = set.current().map(|keys| std::sync::Arc::as_ptr(&keys));
    match set.replace(input) {
        Ok(keys) => assert!(keys <= 50),
        Err(_) => assert_eq!(set.current().map(|keys| std::sync::Arc::as_ptr(&keys)), before),
    }
    let claims = br#"{"iss":"https://ids","sub":"42"}"#;
    for algorithm in ["HS256", "HS384", "HS512", "none", "ES256", "EdDSA", "RS256"] {
        let header = format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#);
        let message =
            format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(claims));
        let known = EncodingKey::from_secret(b"secret");
        let signature = crypto::sign(message.as_bytes(), &known, Algorithm::HS256).expect("it is signed");
        for token in [format!("{message}.{signature}"), format!("{message}.")] {
            let (identity, permit) = bench.both(&token);
            assert!(identity.is_err() && permit.is_err(), "{token}");
        }
    }
}
