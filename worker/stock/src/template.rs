//! Texts with fields in braces. Every value is escaped for the place it stands in, so no request can change the text around it.
//! Pure.

use std::fmt::Write as _;

use serde_json::Value;
use tidegate_worker::Failure;

use crate::input::{Field, Input, UNUSABLE};

/// What a text is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// Path and query of an address, or a form.
    Url,
    /// JSON.
    Json,
    /// Anything else: values are put in as they are.
    Text,
}

/// A text with fields.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    language: Language,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    /// A field. In JSON: whether it stands between the quotation marks of a string.
    Field {
        field: Field,
        in_string: bool,
    },
}

impl Template {
    /// Reads a text. A field is a name in braces that begins with a small letter; other braces stand for themselves.
    pub(crate) fn parse(text: &str, language: Language, params: &[String]) -> Result<Self, String> {
        let (mut parts, mut plain, mut in_string, mut escaped) = (Vec::new(), String::new(), false, false);
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let after = rest.get(letter.len_utf8()..).unwrap_or_default();
            if letter == '{' && after.starts_with(|next: char| next.is_ascii_lowercase()) {
                let Some((name, behind)) = after.split_once('}') else {
                    return Err(format!("a brace is not closed: {{{after}"));
                };
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(Part::Field { field: Field::parse(name, params)?, in_string });
                rest = behind;
                continue;
            }
            if letter == '"' && !escaped {
                in_string = !in_string;
            }
            escaped = in_string && letter == '\\' && !escaped;
            plain.push(letter);
            rest = after;
        }
        parts.push(Part::Text(plain));
        let template = Self { language, parts };
        if language == Language::Json {
            let example = template.fill_with(&|_| Ok(Value::Null)).unwrap_or_default();
            serde_json::from_str::<Value>(&example)
                .map_err(|error| format!("is not JSON once its fields are filled in: {error}"))?;
        }
        Ok(template)
    }

    /// Puts the values of a request in. Rejects a request that has no value for a field of an address.
    pub(crate) fn fill(&self, input: &Input) -> Result<String, Failure> {
        self.fill_with(&|field| input.value(field))
    }

    fn fill_with(&self, value: &dyn Fn(&Field) -> Result<Value, Failure>) -> Result<String, Failure> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Field { field, in_string } => match self.language {
                    Language::Url => url(&mut filled, field, &value(field)?)?,
                    Language::Json if *in_string => json_string(&mut filled, &value(field)?),
                    Language::Json => filled.push_str(&value(field)?.to_string()),
                    Language::Text => filled.push_str(&plain(&value(field)?)),
                },
            }
        }
        Ok(filled)
    }
}

/// A value as text: of a string its content, of `null` nothing.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Escapes everything that means something in an address. A word of dots alone would change the path.
fn url(filled: &mut String, field: &Field, value: &Value) -> Result<(), Failure> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    };
    if text.is_empty() || text == "." || text == ".." {
        return Err(Failure::reject(UNUSABLE, format!("the request has no usable value for {field:?}")));
    }
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            filled.push(char::from(byte));
        } else {
            let _ = write!(filled, "%{byte:02X}");
        }
    }
    Ok(())
}

/// Escapes a value for the inside of a JSON string.
fn json_string(filled: &mut String, value: &Value) {
    let quoted = Value::String(plain(value)).to_string();
    filled.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::tests::input;

    fn template(text: &str, language: Language) -> Template {
        Template::parse(text, language, &["order".to_owned()]).unwrap()
    }

    fn filled(text: &str, language: Language, body: &str) -> Result<String, Failure> {
        template(text, language).fill(&input(body))
    }

    #[test]
    fn a_value_cannot_leave_its_place_in_an_address() {
        let url = |body: &str| filled("/orders/{param.order}?q={body.q}", Language::Url, body);
        assert_eq!(url(r#"{"q": "a/b?c&d=#e ü"}"#).unwrap(), "/orders/7?q=a%2Fb%3Fc%26d%3D%23e%20%C3%BC");
        assert_eq!(url(r#"{"q": 5}"#).unwrap(), "/orders/7?q=5");
        for unusable in ["{}", r#"{"q": ""}"#, r#"{"q": ".."}"#, r#"{"q": {"a": 1}}"#, "not JSON"] {
            assert!(url(unusable).is_err(), "{unusable}");
        }
    }

    #[test]
    fn a_value_cannot_leave_its_place_in_json() {
        let text = r#"{"to": {body.to}, "text": "Hello \"{body.name}\", {user}!", "x": {}}"#;
        let json = filled(text, Language::Json, r#"{"to": ["a"], "name": "\", \"admin\": \"1"}"#).unwrap();
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["to"], serde_json::json!(["a"]));
        assert_eq!(value["text"], "Hello \"\", \"admin\": \"1\", 42!");
        assert_eq!(value.as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_template_that_cannot_work_is_refused() {
        for (text, says) in [
            (r#"{"to": {body.to"#, "not closed"),
            (r#"{"to": {usr}}"#, "no field"),
            (r#"{"to": {param.user}}"#, "no {user}"),
            (r#"{"to" {user}}"#, "not JSON"),
        ] {
            let error = Template::parse(text, Language::Json, &[]).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
