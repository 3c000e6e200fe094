//! Reads JSON from outside the way the encoders of many languages write it and Go's decoder, which our peers use, reads it:
//!
//! - `null` for a field is the field's zero value, as if the field were absent.
//! - A key given twice has its last value.
//! - Half of a surrogate pair in a text becomes the replacement character.
//!
//! Payloads are not touched: `null` is a payload. The strict reader goes first, so a document without such oddities costs
//! nothing more. Only a document it refuses is read a second time, one object at a time.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Error, value::RawValue};

/// The deepest structure that is read a second time. Each level scans its text again, so the depth bounds the work.
const MAX_DEPTH: usize = 32;

/// Reads a document.
pub fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Error> {
    serde_json::from_str(text).or_else(|strict| {
        let read = serde_json::from_str::<&RawValue>(text)
            .and_then(|document| T::deserialize(Node { text: document.get(), depth: 0 }));
        // What is not JSON is described best by the strict reader, which knows the place.
        read.map_err(|lenient| if strict.is_data() { lenient } else { strict })
    })
}

/// Reads a document.
pub fn from_slice<'de, T: Deserialize<'de>>(document: &'de [u8]) -> Result<T, Error> {
    match std::str::from_utf8(document) {
        Ok(text) => from_str(text),
        Err(_) => serde_json::from_slice(document),
    }
}

/// One value of a document.
#[derive(Clone, Copy)]
struct Node<'de> {
    text: &'de str,
    depth: usize,
}

impl<'de> Node<'de> {
    fn is_null(self) -> bool {
        self.text == "null"
    }

    fn below(self, text: &'de str) -> Self {
        Self { text, depth: self.depth + 1 }
    }

    fn strict(self) -> serde_json::Deserializer<serde_json::de::StrRead<'de>> {
        serde_json::Deserializer::from_str(self.text)
    }

    fn check_depth(self) -> Result<(), Error> {
        if self.depth < MAX_DEPTH { Ok(()) } else { Err(de::Error::custom("nested too deeply")) }
    }

    fn map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.check_depth()?;
        let entries =
            if self.is_null() { BTreeMap::new() } else { self.strict().deserialize_map(Collect)? };
        visitor.visit_map(Fields { of: self, entries: entries.into_iter(), value: None })
    }

    fn seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.check_depth()?;
        let elements: Vec<&'de RawValue> =
            if self.is_null() { Vec::new() } else { serde_json::from_str(self.text)? };
        visitor.visit_seq(Elements { of: self, elements: elements.into_iter() })
    }
}

/// Reads the entries of an object. Of several with one key the last stays.
struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = BTreeMap<Cow<'de, str>, &'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            entries.insert(string(key.get()).map_err(de::Error::custom)?, value.get());
        }
        Ok(entries)
    }
}

struct Fields<'de> {
    of: Node<'de>,
    entries: std::collections::btree_map::IntoIter<Cow<'de, str>, &'de str>,
    value: Option<(Cow<'de, str>, &'de str)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let read = seed.deserialize(de::value::CowStrDeserializer::new(key.clone()))?;
        self.value = Some((key, value));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, text) = self.value.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        seed.deserialize(self.of.below(text)).map_err(|error| {
            let error = error.to_string();
            // The place is one in the value's text, which says nothing about the document.
            let problem = error.rsplit_once(" at line ").map_or(error.as_str(), |(problem, _)| problem);
            de::Error::custom(format_args!("{key}: {problem}"))
        })
    }
}

struct Elements<'de> {
    of: Node<'de>,
    elements: std::vec::IntoIter<&'de RawValue>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.elements.next().map(|raw| seed.deserialize(self.of.below(raw.get()))).transpose()
    }
}

/// For each type of value that has a zero: `null` is the zero.
macro_rules! zero {
    ($($method:ident => $visit:ident($zero:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            if self.is_null() { visitor.$visit($zero) } else { self.strict().$method(visitor) }
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Error;

    zero! {
        deserialize_bool => visit_bool(false);
        deserialize_i8 => visit_i8(0);
        deserialize_i16 => visit_i16(0);
        deserialize_i32 => visit_i32(0);
        deserialize_i64 => visit_i64(0);
        deserialize_i128 => visit_i128(0);
        deserialize_u8 => visit_u8(0);
        deserialize_u16 => visit_u16(0);
        deserialize_u32 => visit_u32(0);
        deserialize_u64 => visit_u64(0);
        deserialize_u128 => visit_u128(0);
        deserialize_f32 => visit_f32(0.0);
        deserialize_f64 => visit_f64(0.0);
        deserialize_bytes => visit_bytes(&[]);
        deserialize_byte_buf => visit_bytes(&[]);
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.strict().deserialize_any(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.strict().deserialize_char(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() {
            return visitor.visit_borrowed_str("");
        }
        if !self.text.starts_with('"') {
            return self.strict().deserialize_str(visitor);
        }
        match string(self.text)? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.strict().deserialize_unit(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.strict().deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        // serde_json gives its own types, such as a raw value, a name that begins with a dollar.
        if name.starts_with('$') {
            return self.strict().deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.seq(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // serde reads a list as the fields in their order.
        if self.text.starts_with('[') { self.seq(visitor) } else { self.map(visitor) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.strict().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// Reads a JSON string.
fn string(text: &str) -> Result<Cow<'_, str>, Error> {
    if let Ok(read) = serde_json::from_str::<&str>(text) {
        return Ok(Cow::Borrowed(read));
    }
    serde_json::from_str::<String>(text)
        .or_else(|_| serde_json::from_str(&without_lone_surrogates(text)))
        .map(Cow::Owned)
}

/// Replaces each escape of half a surrogate pair.
fn without_lone_surrogates(text: &str) -> String {
    let mut repaired = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        repaired.push_str(before);
        let length = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                repaired.push(char::REPLACEMENT_CHARACTER);
                rest = escape.get(6..).unwrap_or_default();
                continue;
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
        let (kept, behind) = escape.split_at_checked(length).unwrap_or((escape, ""));
        repaired.push_str(kept);
        rest = behind;
    }
    repaired.push_str(rest);
    repaired
}

/// Reads the escape of one UTF-16 unit, `\u` and four digits, at the beginning of a text.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        filter::FilterNode,
        protocol::{Command, SubscribeRequest},
    };

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        for (text, read) in [
            (r#""a\ud800b""#, "a\u{fffd}b"),
            (r#""\udc00""#, "\u{fffd}"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""\ud83d\ud83d\ude00\ud83d""#, "\u{fffd}\u{1f600}\u{fffd}"),
            (r#""\\ud800\"\n\u00e9\ud800""#, "\\ud800\"\n\u{e9}\u{fffd}"),
        ] {
            assert_eq!(
                from_str::<SubscribeRequest>(&format!(r#"{{"channel":{text}}}"#)).unwrap().channel,
                read
            );
        }
    }

    #[test]
    fn payloads_are_left_as_they_were_written() {
        let odd = r#"{"a":null,"a":[1.0,null,"\ud800"],  "b":{"x":1,"x":2}}"#;
        let text = format!(r#"{{"id":7,"id":8,"publish":{{"channel":null,"channel":"c","data":{odd}}}}}"#);
        let command = from_str::<Command>(&text).unwrap();
        let publish = command.publish.unwrap();
        assert_eq!((command.id, publish.channel.as_str(), &publish.data[..]), (8, "c", odd.as_bytes()));
        let nothing = from_str::<Command>(r#"{"id":null,"publish":{"data":null}}"#).unwrap();
        assert_eq!(&nothing.publish.unwrap().data[..], b"null");
    }

    #[test]
    fn an_error_names_the_field_or_the_place() {
        let error = |text: &str| from_str::<Command>(text).unwrap_err().to_string();
        let odd = error(r#"{"id":null,"subscribe":{"channel":42}}"#);
        assert_eq!(odd, "subscribe: channel: invalid type: integer `42`, expected a string");
        assert!(error(r#"{"id":null"#).contains("at line 1"));
        assert!(error(r#""null""#).contains("expected"));
    }

    #[test]
    fn a_structure_without_end_is_refused_at_a_bounded_cost() {
        let deep = |levels: usize| {
            format!("{}{{\"op\":null}}{}", r#"{"op":null,"nodes":["#.repeat(levels), "]}".repeat(levels))
        };
        assert!(from_str::<FilterNode>(&deep(10)).is_ok());
        for levels in [40, 3_000] {
            assert!(from_str::<FilterNode>(&deep(levels)).is_err(), "{levels}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_strict_reader_reads_is_read_the_same(document in r#"[\[\]{}":,a-c0-2nul\\ ]{0,30}"#) {
            if let Ok(strict) = serde_json::from_str::<Value>(&document) {
                prop_assert_eq!(from_str::<Value>(&document).unwrap(), strict);
            }
            if let Ok(strict) = serde_json::from_str::<Command>(&document) {
                prop_assert_eq!(from_str::<Command>(&document).unwrap(), strict);
            }
        }

        #[test]
        fn a_repaired_text_differs_in_lone_surrogates_only(units in any::<Vec<u16>>()) {
            let escaped = units.iter().fold(String::new(), |text, unit| text + &format!("\\u{unit:04x}"));
            let command = json!({"channel": "?"}).to_string().replace('?', &escaped);
            let read = from_str::<SubscribeRequest>(&command).unwrap();
            prop_assert_eq!(read.channel, String::from_utf16_lossy(&units));
        }
    }
}
