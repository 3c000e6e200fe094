//! `tidegate-worker test`: runs the `[[test]]` tables of the configuration, without NATS. Webhooks call a receiver of the test's own,
//! statements run in an SQLite of the test's own, and no secret is read.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::Parser;
use tidegate_shared::{
    config::{Config, FILE_VARIABLE, Role, usual_file},
    failure,
};

use self::trial::Outcome;

mod compare;
mod receiver;
mod trial;

/// The exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;
/// The exit code when a test fails.
const FAILED: u8 = 1;

/// Runs the [[test]] tables of the configuration.
#[derive(Debug, Parser)]
#[command(name = "tidegate-worker test", version)]
struct Arguments {
    /// The configuration file [default: tidegate.toml, if it exists]
    #[arg(long, value_name = "PATH", env = FILE_VARIABLE)]
    config: Option<PathBuf>,
    /// Only the tests whose names contain this
    filter: Option<String>,
}

/// Runs the command with the arguments behind its name.
#[expect(clippy::print_stderr, reason = "it is a command for a terminal")]
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = Arguments::parse_from(std::iter::once("tidegate-worker test".into()).chain(arguments));
    let read = Config::load_as(Role::Tester, usual_file(arguments.config.clone()).as_deref(), &[]);
    let ended = read.map_err(Into::into).and_then(|config| try_all(&config, arguments.filter.as_deref()));
    match ended {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("error: {}", failure::text(&error));
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

/// Returns how many tests have failed.
#[expect(clippy::print_stdout, reason = "it is a command for a terminal")]
fn try_all(config: &Config, filter: Option<&str>) -> anyhow::Result<usize> {
    let chosen: Vec<_> =
        config.tests.iter().filter(|test| filter.is_none_or(|part| test.name.contains(part))).collect();
    if chosen.is_empty() {
        anyhow::bail!("{}", nothing_to_do(config, filter));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for test in chosen {
        match runtime.block_on(trial::run(config, test))? {
            Outcome::Passed => {
                passed += 1;
                println!("ok    {}", test.name);
            }
            Outcome::Failed(differences) => {
                failed += 1;
                println!("FAIL  {}", test.name);
                differences.iter().flat_map(|text| text.lines()).for_each(|line| println!("      {line}"));
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                println!("skip  {}: {why}", test.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}

fn nothing_to_do(config: &Config, filter: Option<&str>) -> String {
    match filter {
        Some(part) if !config.tests.is_empty() => {
            let names: Vec<_> = config.tests.iter().map(|test| test.name.as_str()).collect();
            format!("no [[test]] has {part:?} in its name; there are: {}", names.join(", "))
        }
        _ => "the configuration has no [[test]]: docs/stock-handlers.md shows one".to_owned(),
    }
}
