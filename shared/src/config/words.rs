//! Why a value does not fit its key, in plain words. Pure.

use figment::error::{Actual, Kind};

/// Says what is there and what belongs there.
pub(super) fn mismatch(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            format!("is {}, and has to be {}", is(found), has_to_be(wanted))
        }
        Kind::UnknownVariant(found, known) => {
            let all = known.join(", ");
            let likeness = |word: &str| strsim::jaro_winkler(&word.to_lowercase(), &found.to_lowercase());
            let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            let hint = nearest.filter(|word| likeness(word) > 0.7);
            let hint = hint.map(|word| format!("; did you mean {word:?}?")).unwrap_or_default();
            format!("{found:?} is not a value of this key, which accepts {all}{hint}")
        }
        other => other.to_string(),
    }
}

fn is(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Str(text) => format!("the text {text:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

fn has_to_be(wanted: &str) -> &str {
    match wanted {
        "a boolean" => "true or false",
        "usize" | "u64" | "u32" => "a whole number of 0 or more",
        "a sequence" => "a list: [ ... ]",
        "a string" | "path string" => "a text in quotation marks",
        wanted if wanted.starts_with("enum ") => "one of this key's words, in quotation marks",
        "enum" => "one of this key's words, in quotation marks",
        "a map" => "a section with keys of its own",
        wanted if wanted.starts_with("struct ") => "a section with keys of its own",
        wanted => wanted,
    }
}
