//! Reads a configured public key in PEM. Pure. Errors are reported at the start.

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use data_encoding::BASE64;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

/// Reads a key that can verify all of these algorithms.
pub(super) fn read(pem: &str, algorithms: &[Algorithm]) -> Result<DecodingKey, String> {
    let der = der(pem)?;
    for algorithm in algorithms {
        let checked = checker(*algorithm).is_some_and(|checker| ParsedPublicKey::new(checker, &der).is_ok());
        if !checked {
            return Err(format!("it is not a public key for {algorithm:?}"));
        }
    }
    match algorithms.first().map(|algorithm| algorithm.family()) {
        Some(AlgorithmFamily::Rsa) => Ok(DecodingKey::from_rsa_der(&der)),
        Some(AlgorithmFamily::Ec) => Ok(DecodingKey::from_ec_der(&der)),
        Some(AlgorithmFamily::Ed) => Ok(DecodingKey::from_ed_der(&der)),
        Some(AlgorithmFamily::Hmac) | None => Err("its algorithms have no public key".to_owned()),
    }
}

fn checker(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &signature::ED25519,
        _ => return None,
    })
}

/// The bytes between `BEGIN PUBLIC KEY` and its end.
fn der(pem: &str) -> Result<Vec<u8>, String> {
    let Some((_, rest)) = pem.split_once("-----BEGIN PUBLIC KEY-----") else {
        return Err("it does not begin with -----BEGIN PUBLIC KEY-----".to_owned());
    };
    let Some((body, _)) = rest.split_once("-----END PUBLIC KEY-----") else {
        return Err("it does not end with -----END PUBLIC KEY-----".to_owned());
    };
    let body: String = body.split_whitespace().collect();
    BASE64.decode(body.as_bytes()).map_err(|error| format!("it is not base64: {error}"))
}
