//! The encoding of names that other programs have to know too: these vectors are tested against the documented one as well.

use std::collections::BTreeMap;

use tidegate_shared::token::Token;

#[test]
fn names_become_these_tokens() {
    let vectors: BTreeMap<String, String> = serde_json::from_str(include_str!("tokens.json")).unwrap();
    for (name, token) in vectors {
        assert_eq!(Token::encode(&name).as_str(), token, "{name:?}");
    }
}
