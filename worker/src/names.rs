//! The names by which the publications of one attempt are told apart, and its follow-ups. Their ids are made of these names, so
//! that a repeated attempt stores each once.

use std::collections::{BTreeMap, BTreeSet};

/// The longest name, in bytes.
const MAX_NAME_LEN: usize = 64;

/// The names that an attempt has used.
#[derive(Debug)]
pub(crate) struct Names {
    /// What they are names of.
    what: &'static str,
    given: BTreeSet<String>,
    /// How many without a name went where.
    counts: BTreeMap<String, u32>,
}

impl Names {
    pub(crate) fn of(what: &'static str) -> Self {
        Self { what, given: BTreeSet::new(), counts: BTreeMap::new() }
    }

    /// The name of the next one: the given one, or where it goes and how many without a name went there before. No two are the
    /// same. The error is the reason why it has none.
    pub(crate) fn next(&mut self, given: Option<&str>, to: &str) -> Result<String, String> {
        if let Some(name) = given {
            check(name)?;
            if !self.given.insert(name.to_owned()) {
                return Err(format!(
                    "two {} of one attempt have the name {name:?}: only one of them would be stored",
                    self.what
                ));
            }
            return Ok(name.to_owned());
        }
        let count = self.counts.entry(to.to_owned()).or_insert(0);
        *count += 1;
        // No name that is given has a `#`.
        Ok(format!("{to}#{}", *count - 1))
    }
}

/// Checks a name that an application has given. The error is what is wrong.
fn check(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=MAX_NAME_LEN).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    let shown: String = name.chars().take(MAX_NAME_LEN).collect();
    Err(format!("{shown:?} is no name: a name has 1 to {MAX_NAME_LEN} letters, digits, `_`, `-` and `.`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[(&str, Option<&str>)]) -> Result<Vec<String>, String> {
        let mut names = Names::of("publications");
        wanted.iter().map(|(to, given)| names.next(*given, to)).collect()
    }

    #[test]
    fn what_has_no_name_is_named_by_where_it_goes_and_its_place_there() {
        let usual = names(&[("a:x", None), ("a:y", None), ("a:x", Some("own")), ("a:x", None)]).unwrap();
        assert_eq!(usual, ["a:x#0", "a:y#0", "own", "a:x#1"]);
        // One that goes elsewhere does not change it, nor does one with a name.
        assert_eq!(names(&[("a:x", None), ("a:x", None)]).unwrap(), ["a:x#0", "a:x#1"]);
    }

    #[test]
    fn two_of_one_attempt_with_one_name_are_refused() {
        let error = names(&[("a:x", Some("n")), ("a:y", Some("n"))]).unwrap_err();
        assert!(error.contains("two publications of one attempt have the name \"n\""), "{error}");
    }

    #[test]
    fn a_name_that_could_not_be_part_of_an_id_is_refused() {
        for name in ["", "a:x#0", "a b", "\r\n", &"n".repeat(65)] {
            assert!(names(&[("a:x", Some(name))]).unwrap_err().contains("is no name"), "{name:?}");
        }
    }
}
