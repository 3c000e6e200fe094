//! The JSON schemas of routes: reading them, looking whether they are schemas, and making them parts of a document.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use serde_json::{Map, Value};
use tidegate_shared::config::{Config, Schema};

/// The types of JSON.
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];
/// Keywords whose value is a schema.
const ONE: [&str; 8] =
    ["items", "additionalItems", "additionalProperties", "contains", "propertyNames", "not", "if", "then"];
/// Keywords whose value is a list of schemas, or for `items` may be one.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "items"];
/// Keywords whose value has named schemas.
const NAMED: [&str; 4] = ["properties", "patternProperties", "definitions", "$defs"];

/// The schemas of all routes, by the name that they have in the document: `request.<route>` and `answer.<route>`.
#[derive(Debug, Default)]
pub struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Reads the schemas that the routes of a configuration name. The error names the key and what is wrong.
    pub fn read(config: &Config) -> anyhow::Result<Self> {
        let mut schemas = BTreeMap::new();
        for (index, route) in config.routes.iter().enumerate() {
            for (what, key, schema) in
                [("request", "schema", &route.schema), ("answer", "answer_schema", &route.answer_schema)]
            {
                let Some(schema) = schema else { continue };
                let name = format!("{what}.{}", route.name);
                let read = load(schema).and_then(|schema| {
                    check(&schema, &schema, "")?;
                    Ok(schema)
                });
                let schema =
                    read.with_context(|| format!("`route.{index}.{key}` (route {:?})", route.name))?;
                schemas.insert(name.clone(), moved(schema, &format!("#/components/schemas/{name}")));
            }
        }
        Ok(Self(schemas))
    }

    /// Whether a route has the schema of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// All of them, for the components of a document.
    pub(super) fn components(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect()
    }
}

fn load(schema: &Schema) -> anyhow::Result<Value> {
    match schema {
        Schema::Inline(schema) => Ok(schema.clone()),
        Schema::File(path) => read_file(path),
    }
}

fn read_file(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

/// Looks whether a value is a schema. What no validator could use is refused, unknown keywords are not.
fn check(root: &Value, schema: &Value, place: &str) -> anyhow::Result<()> {
    let at = || if place.is_empty() { "the schema".to_owned() } else { format!("the schema at {place}") };
    let members = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(members) => members,
        _ => bail!("{} is neither an object nor true or false", at()),
    };
    if let Some(kind) = members.get("type") {
        let known = |kind: &Value| kind.as_str().is_some_and(|kind| TYPES.contains(&kind));
        let right = kind.as_array().map_or_else(|| known(kind), |kinds| kinds.iter().all(known));
        if !right {
            bail!("{} has the type {kind}; there are {}", at(), TYPES.join(", "));
        }
    }
    if let Some(required) = members.get("required")
        && !required.as_array().is_some_and(|names| names.iter().all(Value::is_string))
    {
        bail!("{}: `required` is no list of names", at());
    }
    if let Some(reference) = members.get("$ref") {
        let target = reference.as_str().and_then(|text| text.strip_prefix('#'));
        if target.and_then(|target| root.pointer(target)).is_none() {
            bail!("{}: `$ref` is {reference}, which leads nowhere in this schema", at());
        }
    }
    for (name, value) in members {
        let below = |rest: &str| format!("{place}/{name}{rest}");
        if let (true, Some(list)) = (LIST.contains(&name.as_str()), value.as_array()) {
            for (index, schema) in list.iter().enumerate() {
                check(root, schema, &below(&format!("/{index}")))?;
            }
        } else if ONE.contains(&name.as_str()) {
            check(root, value, &below(""))?;
        } else if NAMED.contains(&name.as_str()) {
            let Some(named) = value.as_object() else { bail!("{}: `{name}` is no object", at()) };
            for (key, schema) in named {
                check(root, schema, &below(&format!("/{key}")))?;
            }
        }
    }
    Ok(())
}

/// The schema with its references as they have to be where it is a part of a document.
fn moved(schema: Value, to: &str) -> Value {
    match schema {
        Value::Object(members) => {
            let member = |(name, value): (String, Value)| match &value {
                Value::String(text) if name == "$ref" && text.starts_with('#') => {
                    (name, format!("{to}{}", text.trim_start_matches('#')).into())
                }
                _ => (name, moved(value, to)),
            };
            Value::Object(members.into_iter().map(member).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(|value| moved(value, to)).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_validator_could_use_is_refused_with_its_place() {
        for (schema, says) in [
            (json!({"type": "text"}), "the schema has the type \"text\"; there are array, boolean"),
            (json!({"properties": {"a": {"type": 1}}}), "the schema at /properties/a has the type 1"),
            (json!({"properties": {"a": 1}}), "the schema at /properties/a is neither an object"),
            (json!({"required": "a"}), "`required` is no list of names"),
            (
                json!({"items": [{"$ref": "#/definitions/a"}]}),
                "/items/0: `$ref` is \"#/definitions/a\", which leads nowhere",
            ),
            (json!([]), "the schema is neither an object"),
        ] {
            let error = check(&schema, &schema, "").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let right = json!({
            "type": ["object", "null"], "required": ["a"], "properties": {"a": {"$ref": "#/definitions/a"}},
            "definitions": {"a": {"anyOf": [true, {"type": "string"}]}}, "x-own": 1,
        });
        check(&right, &right, "").unwrap();
        assert_eq!(moved(right, "#/x")["properties"]["a"]["$ref"], "#/x/definitions/a");
    }
}
