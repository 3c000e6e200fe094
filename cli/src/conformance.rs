//! Tests a worker of one route: sends it awkward requests, and says for each whether it kept the contract.
//!
//! The tester takes the place of a gateway at the broker, so it can send what no gateway sends, be silent where a gateway
//! answers, and look at what the worker has stored. docs/worker-contract.md says what a worker under test must do with a request.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use tidegate_shared::config::{Config, Match, Route};

pub use self::case::Case;
use self::{case::Needs, rig::Rig};

mod case;
mod cases;
mod desk;
mod program;
mod rig;

/// What is tested, and how.
#[derive(Debug)]
pub struct Options {
    /// The configuration of the deployment, with the passwords of the gateway, of workers and of `ops`.
    pub config: Config,
    /// The route whose worker is tested. Nothing else may use it meanwhile.
    pub route: String,
    /// The command that runs the worker: the tester starts it, ends it and starts it again. Empty if the worker runs already.
    pub program: Vec<String>,
    /// Whether something else restarts the worker when it ends.
    pub supervised: bool,
    /// A shell command that kills the worker.
    pub kill_command: Option<String>,
    /// The cases to try; empty for all.
    pub only: Vec<Case>,
    /// The cases to leave out.
    pub skip: Vec<Case>,
    /// How long the worker may take for one step, beyond the waits that the configuration makes necessary.
    pub patience: Duration,
    /// Whether the headers of requests are ASCII, because the worker's client library reads no others.
    pub ascii: bool,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The worker did what the contract says.
    Pass,
    /// It did not.
    Fail,
    /// The case was not tried.
    Skip,
}

/// What was found in one case.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The case.
    pub case: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What the contract says.
    pub expected: &'static str,
    /// What was seen, or why the case was not tried.
    pub seen: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Tries the cases one after the other. `found` is called with each finding. The worker that was started is ended.
pub async fn run(options: Options, mut found: impl FnMut(&Finding)) -> anyhow::Result<Vec<Finding>> {
    let route =
        options.config.routes.iter().find(|route| route.name == options.route).with_context(|| {
            format!("the configuration has no [[route]] {:?}: declare one for the test", options.route)
        })?;
    let Match::Rpc(_) = route.matches else {
        bail!("the route {:?} takes no rpc: the test needs one with match = \"rpc...\"", route.name);
    };
    if route.max_attempts < LEAST_ATTEMPTS {
        bail!("the route {:?} needs max_attempts of {LEAST_ATTEMPTS} at least for the test", route.name);
    }
    let rig = Rig::new(&options, route.clone()).await?;
    rig.unused().await?;
    let mut findings = Vec::new();
    for case in Case::ALL {
        let chosen = options.only.is_empty() || options.only.contains(&case);
        if !chosen || options.skip.contains(&case) {
            continue;
        }
        let finding = try_case(&rig, case, &options).await;
        found(&finding);
        findings.push(finding);
    }
    rig.end().await;
    Ok(findings)
}

/// The fewest attempts that the cases of retries need.
const LEAST_ATTEMPTS: u32 = 3;

async fn try_case(rig: &Rig, case: Case, options: &Options) -> Finding {
    let started = Instant::now();
    let (outcome, seen) = match missing(case, options, &rig.route) {
        Some(why) => (Outcome::Skip, why.to_owned()),
        None => match cases::attempt(rig, case).await {
            Ok(seen) => (Outcome::Pass, seen),
            Err(seen) => (Outcome::Fail, seen),
        },
    };
    let seconds = started.elapsed().as_secs_f64();
    Finding { case: case.name(), outcome, expected: case.expected(), seen, seconds }
}

/// Why a case cannot be tried.
fn missing(case: Case, options: &Options, route: &Route) -> Option<&'static str> {
    let starts = !options.program.is_empty();
    match case.needs() {
        Needs::Lanes if !route.has_lanes() => {
            Some("the route has one lane: order = \"strict\" and max_running leave no second one")
        }
        Needs::Restart if !starts && !options.supervised => Some(
            "it ends the worker: give the worker's command behind --, or --supervised if something restarts it",
        ),
        Needs::Kill if !starts && options.kill_command.is_none() => {
            Some("it kills the worker: give the worker's command behind --, or --kill-command")
        }
        Needs::Program if !starts => Some("it stops the worker: give the worker's command behind --"),
        _ => None,
    }
}
