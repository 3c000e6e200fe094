//! `[app.<name>]`: the sections of applications. Tidegate reads nothing in them; a worker hands each to the application as a value
//! of its own type.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::Serialized,
    value::{Dict, Value},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::{
    Config, ConfigError,
    layers::{Fixed, explain},
    place::Places,
    typed,
};

/// The key of all sections of applications.
pub(super) const APP: &str = "app";

/// The sections of applications, with what is known of their sources. [`Config::app`] reads one.
#[derive(Clone, Default)]
pub struct Apps {
    names: Vec<String>,
    layers: Option<Arc<(Figment, Option<PathBuf>)>>,
}

impl Apps {
    /// The same sections, which can be read now.
    pub(super) fn read_from(self, figment: Figment, file: Option<PathBuf>) -> Self {
        Self { layers: Some(Arc::new((figment, file))), ..self }
    }
}

impl fmt::Debug for Apps {
    /// The names alone: Tidegate does not know which values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

impl<'de> Deserialize<'de> for Apps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sections: BTreeMap<String, Dict> = BTreeMap::deserialize(deserializer)?;
        Ok(Self { names: sections.into_keys().collect(), layers: None })
    }
}

impl Config {
    /// Reads the section `[app.<name>]`, which belongs to the application, as a value of the application's type. A section that is
    /// not there is an empty one, so a type whose keys all have defaults needs none. The error names the key and its source, as
    /// for every other key.
    ///
    /// The text of an environment variable becomes what the type needs: a number, a truth value, a list, or the text itself.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// #[derive(serde::Deserialize)]
    /// #[serde(deny_unknown_fields)]
    /// struct Billing {
    ///     currency: String,
    ///     #[serde(default)]
    ///     retries: u32,
    /// }
    ///
    /// # let file = std::env::temp_dir().join(format!("tidegate-app-{}.toml", std::process::id()));
    /// # std::fs::write(&file, "[app.billing]\ncurrency = 'EUR'\n")?;
    /// # let config = tidegate_shared::config::Config::for_worker(Some(file.clone()))?;
    /// // tidegate.toml has: [app.billing]
    /// //                    currency = "EUR"
    /// let billing: Billing = config.app("billing")?;
    /// assert_eq!(billing.currency, "EUR");
    /// # std::fs::remove_file(&file)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn app<T: DeserializeOwned>(&self, name: &str) -> Result<T, ConfigError> {
        let key = format!("{APP}.{name}");
        let (figment, file) = match self.apps.layers.as_deref() {
            Some((figment, file)) => (figment.clone(), file.as_deref()),
            None => (Figment::new(), None),
        };
        let source = figment.find_metadata(&key).cloned();
        let mut figment = figment.join(Serialized::default(&key, Dict::new()));
        loop {
            let mut error = match figment.focus(&key).extract() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            error.path.splice(0..0, [APP.to_owned(), name.to_owned()]);
            if matches!(error.kind, Kind::MissingField(_)) {
                error.metadata.clone_from(&source);
            }
            let Some(typed) = retyped(&figment, &error) else {
                return Err(explain(&error, &Places::new(&figment, file)));
            };
            figment = figment.merge(typed);
        }
    }
}

/// The value that an error is about as the application's type needs it, if a variable has set it. `None` if its text is no such
/// value. A value is never a text again, so there are only so many.
fn retyped(figment: &Figment, error: &figment::Error) -> Option<Fixed> {
    let (Kind::InvalidType(Actual::Str(text), wanted) | Kind::InvalidValue(Actual::Str(text), wanted)) =
        &error.kind
    else {
        return None;
    };
    let key = error.path.join(".");
    let source = figment.find_metadata(&key)?.name.clone();
    if !source.starts_with(super::ENV_PREFIX) {
        return None;
    }
    let value = match wanted.as_str() {
        "a boolean" => typed::truth(text),
        "a sequence" => Some(typed::texts(text)),
        "f32" | "f64" => text.trim().parse::<f64>().ok().map(Value::from),
        _ => typed::number(text),
    };
    Some(Fixed::new(source.into_owned(), &key, value?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Role;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Billing {
        currency: String,
        #[serde(default)]
        retries: u32,
        #[serde(default)]
        rate: f64,
        #[serde(default)]
        dry_run: Option<bool>,
        #[serde(default)]
        shops: Vec<String>,
    }

    /// What a worker reads from a file and variables, or why it does not.
    fn read(toml: &str, variables: &[(&str, &str)]) -> Result<Billing, String> {
        with(toml, variables, |file, variables| {
            let config = Config::from_sources_as(Role::Worker, Some(file), variables, &[]);
            config.and_then(|config| config.app("billing"))
        })
    }

    #[expect(clippy::unwrap_in_result, reason = "the result is what is tested, the files around it are not")]
    fn with<T>(
        toml: &str,
        variables: &[(&str, &str)],
        load: impl FnOnce(&Path, BTreeMap<String, String>) -> Result<T, ConfigError>,
    ) -> Result<T, String> {
        let file = std::env::temp_dir().join(format!("tidegate-{}.toml", crate::id::random_token::<8>()));
        std::fs::write(&file, toml).unwrap();
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let loaded = load(&file, variables).map_err(|error| error.to_string());
        std::fs::remove_file(&file).unwrap();
        loaded
    }

    #[test]
    fn an_application_reads_its_section_from_the_file_and_from_variables_of_any_type() {
        let variables = [
            ("TIDEGATE_APP__BILLING__RETRIES", "7"),
            ("TIDEGATE_APP__BILLING__RATE", "1.5"),
            ("TIDEGATE_APP__BILLING__DRY_RUN", "true"),
            ("TIDEGATE_APP__BILLING__SHOPS", "a, b"),
            ("TIDEGATE_APP__OTHER__X", "y"),
        ];
        let found = read("[app.billing]\ncurrency = '007'\nretries = 3\n", &variables).unwrap();
        let expected = Billing {
            currency: "007".to_owned(),
            retries: 7,
            rate: 1.5,
            dry_run: Some(true),
            shops: vec!["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(found, expected);
        assert_eq!(read("", &[("TIDEGATE_APP__BILLING__CURRENCY", "12")]).unwrap().currency, "12");
    }

    #[test]
    fn an_error_in_a_section_names_the_key_and_its_source() {
        for (toml, variables, expected) in [
            (
                "[app.billing]\ncurency = 'EUR'\n",
                &[][..],
                &["`app.billing.curency`", ".toml line 2", "did you mean `currency`?"][..],
            ),
            (
                "[app.billing]\nretries = 1\n",
                &[],
                &["`app.billing.currency`", ".toml line 1", "is missing: set it"],
            ),
            ("", &[], &["`app.billing.currency` is missing: set it"]),
            (
                "[app.billing]\ncurrency = 1\n",
                &[],
                &["`app.billing.currency`", ".toml line 2", "is 1, and has to be a text"],
            ),
            (
                "[app.billing]\ncurrency = 'EUR'\n",
                &[("TIDEGATE_APP__BILLING__RETRIES", "many")],
                &[
                    "`app.billing.retries` (from TIDEGATE_APP__BILLING__RETRIES): is the text \"many\", and has to be a whole number",
                ],
            ),
            (
                "[app]\ncurrency = 'EUR'\n",
                &[],
                &["`app.currency`", ".toml line 2", "is the text \"EUR\", and has to be a section"],
            ),
            (
                "",
                &[("TIDEGATE_APP__BILLING", "x")],
                &["TIDEGATE_APP__BILLING sets no key", "APP__<SECTION>__<KEY>"],
            ),
            ("[apps.billing]\ncurrency = 'EUR'\n", &[], &["`apps`", "is not a key: did you mean `app`?"]),
        ] {
            let error = read(toml, variables).unwrap_err();
            assert!(expected.iter().all(|part| error.contains(part)), "{toml} {variables:?}: {error}");
        }
    }

    #[test]
    fn a_secret_of_an_application_comes_from_a_file_which_no_gateway_opens_and_is_never_shown() {
        let file = std::env::temp_dir().join(format!("tidegate-{}.secret", crate::id::random_token::<8>()));
        std::fs::write(&file, "EUR\n").unwrap();
        let variable = "TIDEGATE_APP__BILLING__CURRENCY_FILE";
        assert_eq!(read("", &[(variable, file.to_str().unwrap())]).unwrap().currency, "EUR");
        std::fs::remove_file(&file).unwrap();
        let missing = [(variable, file.to_str().unwrap())];
        assert!(read("", &missing).unwrap_err().contains(variable));
        let toml = "[app.billing]\ncurrency = 'never-shown'\n";
        let as_role = |role| {
            with(toml, &missing, |file, variables| Config::from_sources_as(role, Some(file), variables, &[]))
        };
        let gateway = as_role(Role::Gateway).unwrap();
        assert!(!format!("{gateway:?}").contains("never-shown"));
    }
}
