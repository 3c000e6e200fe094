//! Signatures of Standard Webhooks: HMAC-SHA256 over id, time and the bytes of the body. Pure.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use data_encoding::BASE64;
use tidegate_shared::config::Secret;

/// The secrets of a webhook. Each of them signs, so that a receiver may know either while they are changed.
pub(super) struct Signer(Vec<Key>);

impl Signer {
    /// Reads secrets, `whsec_` and base64. The configuration has checked their form.
    pub(super) fn new(secrets: &[Secret]) -> Option<Self> {
        let key = |secret: &Secret| {
            let text = secret.expose().strip_prefix("whsec_")?;
            Some(Key::new(HMAC_SHA256, &BASE64.decode(text.as_bytes()).ok()?))
        };
        Some(Self(secrets.iter().map(key).collect::<Option<_>>()?))
    }

    /// The value of `webhook-signature`. `None` without secrets.
    pub(super) fn signature(&self, id: &str, timestamp: u64, body: &[u8]) -> Option<String> {
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        let signatures: Vec<String> =
            self.0.iter().map(|key| format!("v1,{}", BASE64.encode(sign(key, &signed).as_ref()))).collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} secrets)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specifications_reference_libraries() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let of = |secrets: &[Secret]| {
            let signer = Signer::new(secrets).unwrap();
            signer.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#)
        };
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(of(std::slice::from_ref(&secret)).unwrap(), expected);
        let both = of(&[secret, Secret::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")]).unwrap();
        let signatures: Vec<_> = both.split(' ').collect();
        assert_eq!((signatures.len(), signatures[0]), (2, expected));
        assert_eq!(of(&[]), None);
    }
}
