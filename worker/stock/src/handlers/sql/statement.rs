//! Statements whose `:names` are fields of a request. Each becomes a bound parameter, never a part of the text. Pure.

use std::sync::Arc;

use crate::input::Field;

/// How a database writes the parameter with this number, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// A statement, cut at its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pieces: Vec<Piece>,
    /// The fields, in the order of the parameters' numbers.
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Parameter(usize),
}

impl Statement {
    pub(crate) fn parse(sql: &str, dialect: Dialect, params: &[String]) -> Result<Self, String> {
        let sql = sql.trim().trim_end_matches(|c: char| c == ';' || c.is_whitespace());
        let mut statement = Self { pieces: Vec::new(), fields: Vec::new() };
        let (mut plain, mut rest) = (String::new(), sql);
        while let Some(letter) = rest.chars().next() {
            let length = quoted(rest, dialect).unwrap_or_else(|| cast(rest).unwrap_or(0));
            if length > 0 {
                let (text, behind) = rest.split_at(length);
                plain.push_str(text);
                rest = behind;
                continue;
            }
            let after = rest.get(letter.len_utf8()..).unwrap_or_default();
            if letter == ';' {
                return Err("has several statements: make each an entry of `statements`".to_owned());
            }
            if letter != ':' || !after.starts_with(|next: char| next.is_ascii_lowercase()) {
                plain.push(letter);
                rest = after;
                continue;
            }
            let end =
                after.find(|c: char| !(c.is_ascii_alphanumeric() || "_.".contains(c))).unwrap_or(after.len());
            let name = after.get(..end).unwrap_or_default().trim_end_matches('.');
            let field = Field::parse(name, params)?;
            let known = statement.fields.iter().position(|known| *known == field);
            let place = known.unwrap_or(statement.fields.len());
            if known.is_none() {
                statement.fields.push(field);
            }
            statement.pieces.push(Piece::Text(std::mem::take(&mut plain)));
            statement.pieces.push(Piece::Parameter(place));
            rest = after.get(name.len()..).unwrap_or_default();
        }
        statement.pieces.push(Piece::Text(plain));
        if statement.pieces.len() == 1
            && matches!(statement.pieces.first(), Some(Piece::Text(text)) if text.is_empty())
        {
            return Err("is empty: write a statement".to_owned());
        }
        Ok(statement)
    }

    /// The text for the database. `parameter` writes the parameter at this place, counted from 0.
    pub(crate) fn text(&self, parameter: impl Fn(usize) -> String) -> Arc<str> {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Parameter(place) => parameter(*place),
        };
        self.pieces.iter().map(piece).collect::<String>().into()
    }
}

/// The length of a quoted text or a comment at the beginning of `rest`.
fn quoted(rest: &str, dialect: Dialect) -> Option<usize> {
    let until = |open: &str, close: &str| {
        let inner = rest.strip_prefix(open)?;
        Some(inner.find(close).map_or(rest.len(), |at| open.len() + at + close.len()))
    };
    until("'", "'")
        .or_else(|| until("\"", "\""))
        .or_else(|| until("--", "\n"))
        .or_else(|| until("/*", "*/"))
        .or_else(|| {
            let tag = rest.strip_prefix('$').filter(|_| dialect == Dialect::Postgres)?.split_once('$')?.0;
            let is_tag = tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !tag.starts_with(|c: char| c.is_ascii_digit());
            let quote = format!("${tag}$");
            if is_tag { until(&quote, &quote) } else { None }
        })
}

/// The length of `::`, which converts a value in PostgreSQL.
fn cast(rest: &str) -> Option<usize> {
    rest.starts_with("::").then_some(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> (String, usize) {
        let statement = Statement::parse(sql, Dialect::Postgres, &["order".to_owned()]).unwrap();
        (statement.text(|place| format!("${}", place + 1)).to_string(), statement.fields.len())
    }

    #[test]
    fn names_become_numbered_parameters_and_quoted_text_stays() {
        let (text, fields) = read("INSERT INTO t VALUES (:id, :user, :body.a.b, :id, :param.order::int);\n");
        assert_eq!(text, "INSERT INTO t VALUES ($1, $2, $3, $1, $4::int)");
        assert_eq!(fields, 4);
        for same in [
            "SELECT ':id', \":user\" -- :id;\n FROM t /* ; :x */",
            "SELECT 'it''s :id', $$ :id; $$, $a$ ; :id $a$",
            "SELECT a::text, '2020-01-01 10:00'::timestamptz",
        ] {
            assert_eq!(read(same), (same.to_owned(), 0));
        }
        assert_eq!(read("SELECT :user, ':id").0, "SELECT $1, ':id");
    }

    #[test]
    fn a_statement_that_cannot_work_is_refused() {
        for (sql, says) in [
            ("SELECT :usr", "no field"),
            ("SELECT 1; SELECT 2", "several"),
            (" ; ", "empty"),
            ("SELECT :param.x", "no {x}"),
        ] {
            let error = Statement::parse(sql, Dialect::Sqlite, &[]).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
