//! Encoding of names as subject tokens.
//!
//! Applications choose the names of channels, users and methods freely, but NATS gives `.`, `*` and `>` a meaning and forbids
//! white space. The encoding is injective, reversible for names that stay short, and leaves `[A-Za-z0-9_-]` unchanged. It never
//! normalises: two names are equal only if their bytes are.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE32_DNSSEC;

/// The maximum length of a token. A name with a longer encoding becomes a digest.
const MAX_LEN: usize = 120;

/// One token of a NATS subject: never empty, free of `.`, `*`, `>`, `$` and white space.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(Box<str>);

impl Token {
    /// Encodes a name. Plain names stay unchanged, every other byte becomes `=` and two hex digits, and the empty name becomes
    /// `=`. If the result is longer than 120 bytes, the token is `=h` and the SHA-256 of the name instead.
    pub fn encode(name: &str) -> Self {
        if name.is_empty() {
            return Self("=".into());
        }
        let mut token = String::with_capacity(name.len());
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
                token.push(byte as char);
            } else {
                token.push('=');
                token.extend([to_hex(byte >> 4), to_hex(byte & 15)]);
            }
            if token.len() > MAX_LEN {
                return Self(
                    format!("=h{}", BASE32_DNSSEC.encode(digest(&SHA256, name.as_bytes()).as_ref())).into(),
                );
            }
        }
        Self(token.into())
    }

    /// Returns the name, or `None` if the token is a digest or was not made by [`Token::encode`].
    pub fn decode(token: &str) -> Option<String> {
        if token == "=" {
            return Some(String::new());
        }
        let mut name = Vec::with_capacity(token.len());
        let mut bytes = token.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'=' => name.push(from_hex(bytes.next()?)? << 4 | from_hex(bytes.next()?)?),
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte),
                _ => return None,
            }
        }
        (!name.is_empty()).then(|| String::from_utf8(name).ok()).flatten()
    }

    /// Returns the token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn to_hex(digit: u8) -> char {
    char::from(if digit < 10 { b'0' + digit } else { b'A' + digit - 10 })
}

fn from_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_stay_readable() {
        assert_eq!(Token::encode("lobby_2-b").as_str(), "lobby_2-b");
        assert_eq!(Token::encode("a.*>").as_str(), "a=2E=2A=3E");
        assert_eq!(Token::encode("").as_str(), "=");
    }

    #[test]
    fn a_long_name_becomes_a_digest_that_no_other_name_encodes_to() {
        let token = Token::encode(&"x".repeat(121));
        assert_eq!(token.as_str().len(), 54);
        assert!(token.as_str().starts_with("=h"));
        assert_eq!(Token::decode(token.as_str()), None);
    }

    proptest! {
        #[test]
        fn decoding_gives_the_name_back(name in "\\PC{0,9}") {
            prop_assert_eq!(Token::decode(Token::encode(&name).as_str()), Some(name));
        }

        #[test]
        fn every_name_becomes_one_token(name in any::<String>()) {
            let token = Token::encode(&name);
            prop_assert!(!token.as_str().is_empty() && token.as_str().len() <= MAX_LEN);
            prop_assert!(token.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'=')));
        }

        #[test]
        fn different_names_have_different_tokens(a in any::<String>(), b in any::<String>()) {
            prop_assert_eq!(a == b, Token::encode(&a) == Token::encode(&b));
        }

        #[test]
        fn decoding_never_panics(token in any::<String>()) {
            let _ = Token::decode(&token);
        }
    }
}
