//! How deep arrays and objects lie inside each other in a message in JSON. Pure.
//!
//! Payloads are handed on as they are, so the parser never sees how deep they are; those who read them may fall over it.

/// Whether arrays and objects lie deeper than `most`. Text that is no JSON is for the parser to refuse.
pub(super) fn exceeds(text: &[u8], most: usize) -> bool {
    // Most messages are too short to be that deep.
    if text.len() <= most {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
            Value::Object(all) => 1 + all.values().map(depth).max().unwrap_or(0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<bool>().prop_map(Value::from), "[\\[\\]{}\"\\\\a]{0,8}".prop_map(Value::from)];
        leaf.prop_recursive(8, 64, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[\\[{\"\\\\]{0,4}", inner), 0..4)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn exactly_the_depth_is_allowed(value in value()) {
            let (text, depth) = (value.to_string(), depth(&value));
            prop_assert!(!exceeds(text.as_bytes(), depth));
            prop_assert_eq!(exceeds(text.as_bytes(), depth.saturating_sub(1)), depth > 0);
        }

        #[test]
        fn no_text_is_too_strange(text: Vec<u8>) {
            prop_assert!(!exceeds(&text, text.len()));
        }
    }
}
