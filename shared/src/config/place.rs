//! Where a key was set: the name of its namespace, route or issuer, and the file with the line, or the variable.

use std::path::Path;

use figment::{Figment, Source, value::Value};
use toml_edit::{ImDocument, Item};

/// Finds the places of keys, for error messages.
pub(super) struct Places<'a> {
    figment: &'a Figment,
    /// The configuration file and its content.
    file: Option<(&'a Path, String)>,
}

impl<'a> Places<'a> {
    pub(super) fn new(figment: &'a Figment, file: Option<&'a Path>) -> Self {
        let file = file.and_then(|path| Some((path, std::fs::read_to_string(path).ok()?)));
        Self { figment, file }
    }

    /// Returns ` (namespace "chat", from tidegate.toml line 12)`, or as much of it as is known.
    pub(super) fn of(&self, key: &str) -> String {
        // Entries of an array of tables have the source of the whole array.
        let whole = key.split('.').next().unwrap_or_default();
        let metadata = self.figment.find_metadata(key).or_else(|| self.figment.find_metadata(whole));
        self.with(key, metadata)
    }

    /// The same for a key whose source is known.
    pub(super) fn with(&self, key: &str, metadata: Option<&figment::Metadata>) -> String {
        let parts: Vec<_> =
            self.name(key).into_iter().chain(metadata.map(|found| self.source(key, found))).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }

    /// The name of the array's entry that `key` is in: `namespace.0.fanout` is in `namespace "chat"`.
    fn name(&self, key: &str) -> Option<String> {
        let mut parts = key.split('.');
        let (array, index) = (parts.next()?, parts.next()?.parse::<usize>().ok()?);
        let Ok(Value::Array(_, entries)) = self.figment.find_value(array) else { return None };
        let name = entries.get(index)?.as_dict()?.get("name")?.as_str()?.to_owned();
        Some(format!("{array} {name:?}"))
    }

    fn source(&self, key: &str, metadata: &figment::Metadata) -> String {
        match &metadata.source {
            Some(Source::File(path)) => {
                let line = self.file.as_ref().and_then(|(_, text)| line(text, key));
                let line = line.map(|line| format!(" line {line}")).unwrap_or_default();
                // As it was named, not relative to the working directory.
                let path = self.file.as_ref().map_or(path.as_path(), |(named, _)| named);
                format!("from {}{line}", path.display())
            }
            _ if metadata.name.starts_with("TOML") => "from the built-in defaults".to_owned(),
            _ => format!("from {}", metadata.name),
        }
    }
}

/// The line on which a key is set. If it is not set, the line on which its table begins.
fn line(text: &str, key: &str) -> Option<usize> {
    let document = ImDocument::parse(text).ok()?;
    let mut item: &Item = document.as_item();
    let mut found = None;
    for part in key.split('.') {
        // An array of tables, or an array of inline tables.
        let (next, span) = if let Ok(index) = part.parse::<usize>() {
            let table = item.as_array_of_tables().and_then(|tables| tables.get(index));
            let value = item.as_array().and_then(|array| array.get(index));
            let span =
                table.and_then(toml_edit::Table::span).or_else(|| value.and_then(toml_edit::Value::span));
            (item.get(index), span)
        } else {
            let entry = item.as_table_like().and_then(|table| table.get_key_value(part));
            let span = entry.and_then(|(key, value)| key.span().or_else(|| value.span()));
            (entry.map(|(_, value)| value), span)
        };
        found = span.or(found);
        let Some(next) = next else { break };
        item = next;
    }
    let before = text.get(..found?.start)?;
    Some(before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_line_on_which_it_or_its_table_is_set() {
        let text = "env = 'production'\n\n[gateway]\nlisten = 'x'\n\n[[route]]\nname = 'a'\n\n[[route]]\nname = 'b'\n\
                    backoff = { base = '1s' }\n[nats.worker]\npassword = 'x'\n";
        for (key, expected) in [
            ("env", Some(1)),
            ("gateway.listen", Some(4)),
            ("gateway.origins", Some(3)),
            ("route.0.name", Some(7)),
            ("route.1.name", Some(10)),
            ("route.1.match", Some(9)),
            ("route.1.backoff.base", Some(11)),
            ("nats.worker.password", Some(13)),
            ("hooks.cache", None),
        ] {
            assert_eq!(line(text, key), expected, "{key}");
        }
    }
}
