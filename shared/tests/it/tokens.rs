//! The encoding of names as tokens, which other programs implement too. The documented implementation is tested with the same
//! vectors.

use std::collections::BTreeMap;

use tidegate_shared::token::Token;

#[test]
fn names_become_these_tokens() {
    let vectors: BTreeMap<String, String> = serde_json::from_str(include_str!("tokens.json")).unwrap();
    for (name, token) in vectors {
        assert_eq!(Token::encode(&name).as_str(), token, "{name:?}");
    }
}
