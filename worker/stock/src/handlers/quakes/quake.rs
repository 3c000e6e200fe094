//! One earthquake as it is reported.
//!
//! It is read field by field, so that an error can name the field. Unknown fields are ignored: seismic feeds add fields.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// The longest text of a field, in bytes.
const MAX_TEXT_LEN: usize = 255;

/// An earthquake.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quake {
    pub(crate) id: String,
    pub(crate) time_ms: i64,
    /// Not always known, and negative for the weakest.
    pub(crate) mag: Option<f64>,
    pub(crate) place: Option<String>,
    /// The seismic network that reported it.
    pub(crate) net: String,
    pub(crate) lon: f64,
    pub(crate) lat: f64,
    /// Negative above sea level.
    pub(crate) depth_km: Option<f64>,
}

/// Why a report is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidReport {
    #[error("not a JSON object")]
    NotAnObject,
    #[error("{0}: missing")]
    Missing(&'static str),
    #[error("{0}: {1}")]
    Wrong(&'static str, &'static str),
}

impl Quake {
    pub(crate) fn read(body: &[u8]) -> Result<Self, InvalidReport> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
            return Err(InvalidReport::NotAnObject);
        };
        Ok(Self {
            id: plain(&fields, "id")?,
            time_ms: time(&fields, "time_ms")?,
            mag: optional(&fields, "mag", |name| number(&fields, name, -10.0..=12.0))?,
            place: optional(&fields, "place", |name| text(&fields, name))?,
            net: plain(&fields, "net")?,
            lon: number(&fields, "lon", -180.0..=180.0)?,
            lat: number(&fields, "lat", -90.0..=90.0)?,
            depth_km: optional(&fields, "depth_km", |name| number(&fields, name, -20.0..=1000.0))?,
        })
    }
}

fn field<'a>(fields: &'a Map<String, Value>, name: &'static str) -> Result<&'a Value, InvalidReport> {
    fields.get(name).filter(|value| !value.is_null()).ok_or(InvalidReport::Missing(name))
}

fn optional<T>(
    fields: &Map<String, Value>,
    name: &'static str,
    read: impl FnOnce(&'static str) -> Result<T, InvalidReport>,
) -> Result<Option<T>, InvalidReport> {
    if field(fields, name).is_err() { Ok(None) } else { read(name).map(Some) }
}

fn text(fields: &Map<String, Value>, name: &'static str) -> Result<String, InvalidReport> {
    let text = field(fields, name)?.as_str().ok_or(InvalidReport::Wrong(name, "not a text"))?;
    if text.len() > MAX_TEXT_LEN {
        return Err(InvalidReport::Wrong(name, "longer than 255 bytes"));
    }
    Ok(text.to_owned())
}

/// A text that can be part of a key or of a channel's name.
fn plain(fields: &Map<String, Value>, name: &'static str) -> Result<String, InvalidReport> {
    let text = text(fields, name)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(InvalidReport::Wrong(name, "use letters, digits, `_` and `-`"));
    }
    Ok(text)
}

fn number(
    fields: &Map<String, Value>,
    name: &'static str,
    range: RangeInclusive<f64>,
) -> Result<f64, InvalidReport> {
    let number = field(fields, name)?.as_f64().ok_or(InvalidReport::Wrong(name, "not a number"))?;
    if range.contains(&number) { Ok(number) } else { Err(InvalidReport::Wrong(name, "out of range")) }
}

fn time(fields: &Map<String, Value>, name: &'static str) -> Result<i64, InvalidReport> {
    let time = field(fields, name)?.as_i64().ok_or(InvalidReport::Wrong(name, "not a whole number"))?;
    if time > 0 { Ok(time) } else { Err(InvalidReport::Wrong(name, "not after 1970")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(name: &str, value: Value) -> Result<Quake, InvalidReport> {
        let mut report = json!({"id": "a-1", "time_ms": 1, "mag": -0.3, "net": "us", "lon": 1.5, "lat": 2, "depth_km": -2.1});
        report[name] = value;
        Quake::read(report.to_string().as_bytes())
    }

    #[test]
    fn every_earthquake_of_the_example_is_read() {
        let file = include_str!("../../../../../examples/quakes/earthquakes.ndjson");
        for line in file.lines() {
            assert!(Quake::read(line.as_bytes()).is_ok(), "{line}: {:?}", Quake::read(line.as_bytes()));
        }
        assert_eq!(file.lines().count(), 1707);
    }

    #[test]
    fn a_magnitude_may_be_unknown_or_negative() {
        assert_eq!(with("mag", Value::Null).unwrap().mag, None);
        assert_eq!(with("mag", json!(-1.2)).unwrap().mag, Some(-1.2));
    }

    #[test]
    fn an_error_names_the_field_and_the_problem() {
        for (name, value, message) in [
            ("id", json!(""), "id: use letters, digits, `_` and `-`"),
            ("id", json!(7), "id: not a text"),
            ("net", json!("u s"), "net: use letters, digits, `_` and `-`"),
            ("net", Value::Null, "net: missing"),
            ("lat", json!(90.1), "lat: out of range"),
            ("lon", json!("1"), "lon: not a number"),
            ("time_ms", json!(1.5), "time_ms: not a whole number"),
            ("mag", json!("5"), "mag: not a number"),
            ("place", json!("x".repeat(256)), "place: longer than 255 bytes"),
        ] {
            assert_eq!(with(name, value).unwrap_err().to_string(), message);
        }
        assert_eq!(Quake::read(b"[]"), Err(InvalidReport::NotAnObject));
    }
}
