//! `tidegate scale workers=4`: changes the number of workers or gateways of a running stack.

use std::{process::ExitCode, str::FromStr};

use tidegate_cli::{
    output,
    stack::{
        Kind,
        control::{self, ControlRequest},
    },
};

use crate::command::{DirArgs, status};

/// Arguments of `tidegate scale`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dir: DirArgs,
    /// The new numbers: workers=N, gateways=N.
    #[arg(required = true, value_name = "WHAT=N")]
    targets: Vec<ScaleTarget>,
}

/// The new number of one kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ScaleTarget {
    kind: Kind,
    count: usize,
}

impl FromStr for ScaleTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, count) = text.split_once('=').ok_or("write workers=4 or gateways=2")?;
        let kind = match what {
            "workers" | "worker" => Kind::Worker,
            "gateways" | "gateway" => Kind::Gateway,
            _ => return Err(format!("{what:?} cannot be scaled: workers and gateways can")),
        };
        let count = super::number_of_processes(count)?;
        Ok(Self { kind, count })
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut processes = Vec::new();
    for ScaleTarget { kind, count } in args.targets {
        processes = control::ask(&args.dir.dir, &ControlRequest::Scale { kind, count }).await?.processes;
    }
    output::text(&status::table(&processes));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_parses_into_kind_and_count() {
        assert_eq!("workers=4".parse(), Ok(ScaleTarget { kind: Kind::Worker, count: 4 }));
        assert_eq!("gateways=0".parse(), Ok(ScaleTarget { kind: Kind::Gateway, count: 0 }));
        for count in ["-1", "many", "101", "99999999999999999999", ""] {
            let error = format!("workers={count}").parse::<ScaleTarget>().unwrap_err();
            assert!(error.contains("0 to 100"), "{error}");
        }
        assert!("nats=2".parse::<ScaleTarget>().is_err());
        assert!("workers".parse::<ScaleTarget>().is_err());
    }
}
