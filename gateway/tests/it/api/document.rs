//! The `OpenAPI` document of the server API, and checks of answers against it.

use serde_json::{Map, Value};

pub(super) struct Document(Value);

impl Document {
    pub(super) fn read(page: &str) -> Self {
        let this = Self(serde_json::from_str(page).unwrap());
        this.is_sound();
        this
    }

    /// Panics if a method's answer does not match its schema.
    pub(super) fn check(&self, method: &str, answer: &Value) {
        let schema = format!("/paths/~1api~1{method}/post/responses/200/content/application~1json/schema");
        let problem = self.problem(self.0.pointer(&schema).unwrap(), answer);
        assert_eq!(problem, None, "{method}: {answer}");
    }

    /// Checks the document against the parts of the `OpenAPI` specification that it uses: every required part exists, every
    /// reference resolves, and every schema uses only keywords that `problem` knows.
    fn is_sound(&self) {
        assert!(self.0["openapi"].as_str().unwrap().starts_with("3.1."));
        assert!(self.0["info"]["title"].is_string() && self.0["info"]["version"].is_string());
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (verb, operation) in item.as_object().unwrap() {
                assert!(["get", "post"].contains(&verb.as_str()), "{path} {verb}");
                assert!(operation["operationId"].is_string() && operation["responses"]["200"].is_object());
            }
        }
        self.references(&self.0);
        for (name, schema) in self.0["components"]["schemas"].as_object().unwrap() {
            words(name, schema);
        }
    }

    fn references(&self, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref") {
                    assert!(self.target(target).is_some(), "{target} does not exist");
                }
                fields.values().for_each(|value| self.references(value));
            }
            Value::Array(items) => items.iter().for_each(|value| self.references(value)),
            _ => {}
        }
    }

    fn target(&self, reference: &Value) -> Option<&Value> {
        self.0.pointer(reference.as_str()?.strip_prefix('#')?)
    }

    /// Returns why a value does not match, or `None`.
    fn problem(&self, schema: &Value, value: &Value) -> Option<String> {
        if let Some(reference) = schema.get("$ref") {
            return self.problem(self.target(reference)?, value);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let fitting = choices.iter().filter(|choice| self.problem(choice, value).is_none()).count();
            return (fitting != 1).then(|| format!("{value} fits {fitting} of the choices"));
        }
        let fits = match schema["type"].as_str() {
            None => true,
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("boolean") => value.is_boolean(),
            Some(other) => panic!("{other} is not a type this test knows"),
        };
        if !fits {
            return Some(format!("{value} is no {}", schema["type"]));
        }
        let too_small =
            value.as_i64().zip(schema["minimum"].as_i64()).is_some_and(|(value, least)| value < least);
        if too_small {
            return Some(format!("{value} is too small"));
        }
        let mut items = value.as_array().into_iter().flatten();
        let wrong_item = items.find_map(|item| self.problem(&schema["items"], item));
        wrong_item.or_else(|| value.as_object().and_then(|fields| self.problem_of_fields(schema, fields)))
    }

    fn problem_of_fields(&self, schema: &Value, fields: &Map<String, Value>) -> Option<String> {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
            return Some(format!("{missing} is missing"));
        }
        let count = fields.len() as u64;
        if schema["minProperties"].as_u64().is_some_and(|least| count < least)
            || schema["maxProperties"].as_u64().is_some_and(|most| count > most)
        {
            return Some(format!("{count} fields"));
        }
        fields.iter().find_map(|(name, value)| {
            let part = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
            match part {
                Value::Bool(false) => Some(format!("{name} is too much")),
                part if part.is_object() => self.problem(part, value),
                _ => None,
            }
        })
    }
}

/// Asserts that `problem` knows every keyword of a schema.
fn words(name: &str, schema: &Value) {
    const KNOWN: [&str; 15] = [
        "$ref",
        "additionalProperties",
        "default",
        "description",
        "items",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minProperties",
        "minimum",
        "oneOf",
        "properties",
        "required",
        "type",
    ];
    for (word, value) in schema.as_object().unwrap() {
        assert!(KNOWN.contains(&word.as_str()), "{name}: {word}");
        match word.as_str() {
            "properties" => value.as_object().unwrap().values().for_each(|part| words(name, part)),
            "oneOf" => value.as_array().unwrap().iter().for_each(|part| words(name, part)),
            "items" => words(name, value),
            "additionalProperties" if value.is_object() => words(name, value),
            _ => {}
        }
    }
}
