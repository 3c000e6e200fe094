//! What differs between what a test expects and what it found, in words. Pure.

use serde_json::Value;

/// The most letters of a value that are shown.
const SHOWN: usize = 300;

/// Compares texts: as JSON if both are, else letter by letter. One line for each difference.
pub(super) fn texts(what: &str, expected: &str, found: &str, differences: &mut Vec<String>) {
    match (json(expected), json(found)) {
        (Some(expected), Some(found)) => values(what, &expected, &found, differences),
        _ if expected == found => {}
        _ => differences.push(differs(what, &format!("{expected:?}"), &format!("{found:?}"))),
    }
}

/// Compares a part of what is called something, if the test says what it expects there.
pub(super) fn optional(what: &str, expected: Option<&str>, found: &str, differences: &mut Vec<String>) {
    if let Some(expected) = expected {
        texts(what, expected, found, differences);
    }
}

/// Checks that a text contains words.
pub(super) fn contains(what: &str, words: &str, found: &str, differences: &mut Vec<String>) {
    if !found.contains(words) {
        differences.push(differs(what, &format!("a text with {words:?}"), &format!("{found:?}")));
    }
}

/// Says what was expected and what was found.
pub(super) fn differs(what: &str, expected: &str, found: &str) -> String {
    format!("{what}:\n  expected {}\n  found    {}", short(expected), short(found))
}

fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

fn values(what: &str, expected: &Value, found: &Value, differences: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(wanted), Value::Object(there)) => {
            for (name, value) in wanted {
                let place = format!("{what}/{name}");
                match there.get(name) {
                    Some(found) => values(&place, value, found, differences),
                    None => differences.push(differs(&place, &value.to_string(), "nothing")),
                }
            }
            for (name, value) in there.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
                differences.push(differs(&format!("{what}/{name}"), "nothing", &value.to_string()));
            }
        }
        (Value::Array(wanted), Value::Array(there)) if wanted.len() == there.len() => {
            for (place, (wanted, there)) in wanted.iter().zip(there).enumerate() {
                values(&format!("{what}/{place}"), wanted, there, differences);
            }
        }
        _ if expected == found => {}
        _ => differences.push(differs(what, &expected.to_string(), &found.to_string())),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} ... ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_of_two_json_texts_is_named_by_its_place() {
        let mut differences = Vec::new();
        let expected = r#"{"id": 7, "items": [{"sku": "a"}, 2], "gone": null}"#;
        texts("answer", expected, r#"{"items": [{"sku": "b"}, 2], "id": 7, "more": 1}"#, &mut differences);
        assert_eq!(
            differences,
            [
                "answer/gone:\n  expected null\n  found    nothing",
                "answer/items/0/sku:\n  expected \"a\"\n  found    \"b\"",
                "answer/more:\n  expected nothing\n  found    1",
            ]
        );
    }

    #[test]
    fn texts_that_are_no_json_are_compared_as_they_are() {
        let mut differences = Vec::new();
        texts("body", "a=1", "a=1", &mut differences);
        texts("body", "1", "1.0 ", &mut differences);
        contains("reason", "answered 500", "the webhook answered 500: no", &mut differences);
        assert_eq!(differences.len(), 1, "{differences:?}");
        texts("body", "a=1", "a=2", &mut differences);
        assert_eq!(differences.last().unwrap(), "body:\n  expected \"a=1\"\n  found    \"a=2\"");
    }
}
