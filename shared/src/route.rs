//! Methods and the patterns of routes.
//!
//! A method is dot-separated words. A pattern's word is literal, `{name}` (any one word) or, at the end, `>` (one or more words).
//! This module is pure.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::header;

/// The longest method without its key, in bytes.
pub const MAX_METHOD_LEN: usize = 255;
/// The longest idempotency key, in bytes.
pub const MAX_KEY_LEN: usize = 128;

/// A method as a client writes it: dot-separated words, and optionally `#` and an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method<'a> {
    /// The part before the `#`.
    pub name: &'a str,
    /// The part after the `#`.
    pub key: Option<&'a str>,
}

/// Why a method is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// A word is missing: the method is empty, or dots lead, trail or follow each other.
    #[error("a method is words separated by single dots")]
    EmptyWord,
    /// The method is too long.
    #[error("a method has at most {MAX_METHOD_LEN} bytes")]
    TooLong,
    /// The key after the `#` is empty or too long.
    #[error("an idempotency key has 1 to {MAX_KEY_LEN} bytes")]
    Key,
    /// The method contains control characters.
    #[error("a method has no control characters")]
    Control,
    /// The method begins or ends with white space. It would not reach the worker as the client wrote it.
    #[error("a method has no white space at its ends")]
    Space,
}

impl<'a> Method<'a> {
    /// Parses a method.
    pub fn parse(text: &'a str) -> Result<Self, MethodError> {
        let (name, key) = match text.split_once('#') {
            Some((name, key)) => (name, Some(key)),
            None => (text, None),
        };
        if name.len() > MAX_METHOD_LEN {
            return Err(MethodError::TooLong);
        }
        if name.split('.').any(str::is_empty) {
            return Err(MethodError::EmptyWord);
        }
        if key.is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_LEN) {
            return Err(MethodError::Key);
        }
        if text.chars().any(char::is_control) {
            return Err(MethodError::Control);
        }
        if !header::carries(name) {
            return Err(MethodError::Space);
        }
        Ok(Self { name, key })
    }
}

/// Which of the two lanes of its route a request goes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// In the order of arrival.
    #[default]
    Normal,
    /// Before the normal requests, as far as those are not held up for ever.
    High,
}

/// One word of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Exactly this word.
    Literal(String),
    /// Any one word, captured under this name.
    Any(String),
}

/// A pattern of methods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    words: Vec<Word>,
    open: bool,
}

impl Pattern {
    /// Returns the words, without the `>` at the end.
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// The names of its words that stand for any word.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.words.iter().filter_map(|word| match word {
            Word::Any(name) => Some(name.as_str()),
            Word::Literal(_) => None,
        })
    }

    /// Whether the pattern ends in `>`.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the first word of the methods is this one and no other.
    pub fn begins_with(&self, word: &str) -> bool {
        matches!(self.words.first(), Some(Word::Literal(first)) if first == word)
    }

    /// The only method that matches the pattern. `None` if there are more.
    pub fn only_method(&self) -> Option<String> {
        let literal = |word: &Word| matches!(word, Word::Literal(_));
        (!self.open && self.words.iter().all(literal)).then(|| self.to_string())
    }

    /// Whether a method matches the pattern.
    pub fn matches(&self, method: &str) -> bool {
        let mut words = method.split('.');
        let all = self.words.iter().all(|word| match (word, words.next()) {
            (Word::Literal(literal), Some(word)) => literal == word,
            (Word::Any(_), Some(_)) => true,
            (_, None) => false,
        });
        all && words.next().is_some() == self.open
    }

    /// Returns the word of a matching method that `{name}` stands for.
    pub fn capture<'a>(&self, method: &'a str, name: &str) -> Option<&'a str> {
        let index = self.words.iter().position(|word| matches!(word, Word::Any(any) if any == name))?;
        method.split('.').nth(index)
    }

    /// Whether a method exists that matches both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        let words = self.words.iter().zip(&other.words);
        let compatible = words.into_iter().all(|pair| match pair {
            (Word::Literal(a), Word::Literal(b)) => a == b,
            _ => true,
        });
        let long_enough = |open: &Self, other: &Self| {
            open.open && open.words.len() < other.words.len() + usize::from(other.open)
        };
        compatible
            && (long_enough(self, other)
                || long_enough(other, self)
                || (!self.open && !other.open && self.words.len() == other.words.len()))
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, open) = match text.strip_suffix(".>") {
            Some(head) => (head, true),
            None => (text, false),
        };
        let mut words = Vec::new();
        for word in text.split('.') {
            let any = word.strip_prefix('{').and_then(|word| word.strip_suffix('}'));
            let name = any.unwrap_or(word);
            if name.is_empty()
                || name.contains(['{', '}', '*', '>', '#'])
                || name.chars().any(|c| c.is_control() || c == ' ')
            {
                return Err(format!(
                    "`{word}` is not a valid word of a pattern: use plain words, `{{name}}` for any one word, and `>` at the end for the rest"
                ));
            }
            words.push(if any.is_some() {
                Word::Any(name.to_owned())
            } else {
                Word::Literal(name.to_owned())
            });
        }
        Ok(Self { words, open })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.words.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            match word {
                Word::Literal(word) => write!(f, "{dot}{word}")?,
                Word::Any(name) => write!(f, "{dot}{{{name}}}")?,
            }
        }
        f.write_str(if self.open { ".>" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_method_may_carry_a_key() {
        assert_eq!(
            Method::parse("orders.place#7f#3c"),
            Ok(Method { name: "orders.place", key: Some("7f#3c") })
        );
        assert_eq!(Method::parse("echo"), Ok(Method { name: "echo", key: None }));
    }

    #[test]
    fn methods_with_missing_words_are_refused() {
        for text in ["", ".", ".a", "a.", "a..b", "#key"] {
            assert_eq!(Method::parse(text), Err(MethodError::EmptyWord), "{text:?}");
        }
        assert_eq!(Method::parse("a#"), Err(MethodError::Key));
        assert_eq!(Method::parse(&"a".repeat(256)), Err(MethodError::TooLong));
        assert_eq!(Method::parse("a\u{0}"), Err(MethodError::Control));
        for text in [" a", "a ", "a. ", "a\u{3000}", "\u{a0}a", "a #key"] {
            assert_eq!(Method::parse(text), Err(MethodError::Space), "{text:?}");
        }
        assert!(Method::parse("a b. c").is_ok());
    }

    #[test]
    fn patterns_match_word_by_word() {
        let orders = pattern("orders.{user}.place");
        assert!(orders.matches("orders.42.place") && orders.matches("orders.*.place"));
        assert!(!orders.matches("orders.place") && !orders.matches("orders.42.place.now"));
        assert_eq!(orders.capture("orders.42.place", "user"), Some("42"));
        let rest = pattern("orders.>");
        assert!(rest.matches("orders.a") && rest.matches("orders.a.b") && !rest.matches("orders"));
    }

    #[test]
    fn invalid_patterns_are_refused() {
        for text in ["", "a..b", ">", "a.*", "{}", "a.>.b", "a b"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        (proptest::collection::vec(prop_oneof!["[ab]", Just("{x}".to_owned())], 1..4), any::<bool>())
            .prop_map(|(words, open)| {
                pattern(&format!("{}{}", words.join("."), if open { ".>" } else { "" }))
            })
    }

    proptest! {
        #[test]
        fn patterns_overlap_exactly_when_a_method_matches_both(a in any_pattern(), b in any_pattern()) {
            let mut methods = vec![String::new()];
            let mut shared = false;
            for _ in 0..5 {
                methods = methods.iter().flat_map(|m| ["a", "b", "c"].map(|w| if m.is_empty() { w.to_owned() } else { format!("{m}.{w}") })).collect();
                shared |= methods.iter().any(|m| a.matches(m) && b.matches(m));
            }
            prop_assert_eq!(a.overlaps(&b), shared);
        }

        #[test]
        fn a_pattern_reads_back_as_it_is_written(p in any_pattern()) {
            prop_assert_eq!(pattern(&p.to_string()), p);
        }
    }
}
