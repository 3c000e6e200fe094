//! Runs scenarios: every side in turn, disturbed turns again, and what cannot be had is said and left out.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use tidegate_cli::output;
use tokio::time::timeout;

use super::{
    results::{Results, Row},
    scenario::{Case, Measured, Scale, Scenario, cases, stand::Field},
    server::{Absent, Outside, Peer, Tools},
};
use crate::{
    process::{self, Cores, NOISY},
    report::{Conditions, chart, markdown},
};

/// The longest turn of one side.
const LIMIT: Duration = Duration::from_mins(4);

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Scenarios, separated by commas; without them all
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Sides, separated by commas; without them Tidegate and what it is compared with on its own broker
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// All sides: those that are not here are fetched and built first
    #[arg(long, conflicts_with = "peers")]
    all_peers: bool,
    #[command(flatten)]
    outside: OutsideArgs,
    /// Only cases whose name has this in it
    #[arg(long, default_value = "")]
    case: String,
    /// How often each side takes its turn
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// How often a turn that other processes disturbed is repeated
    #[arg(long, default_value_t = 2)]
    repeats: usize,
    /// Stop beginning new turns after this time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
    /// Where peers are fetched to
    #[arg(long, default_value = ".tools/peers")]
    tools: PathBuf,
    /// The same load for a shorter time
    #[arg(long)]
    short: bool,
    /// A handful of clients for a second, to see that everything works
    #[arg(long)]
    small: bool,
    /// Write the tables to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw a chart into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// A server that runs already.
#[derive(Debug, Clone, clap::Args)]
struct OutsideArgs {
    /// Measure this server of the Centrifuge protocol, with namespaces `live` and `kept` (history): <ws://127.0.0.1:8000/path>
    #[arg(long, requires = "pid")]
    url: Option<String>,
    /// Its process on this machine, which is bound to a core
    #[arg(long, requires = "url")]
    pid: Option<u32>,
    /// Signs the tokens of its clients (HS256); without it they have none
    #[arg(long, requires = "url")]
    secret: Option<String>,
}

impl OutsideArgs {
    fn read(&self) -> Option<Outside> {
        let (url, pid) = (self.url.clone()?, self.pid?);
        Some(Outside { url, pid, secret: self.secret.clone() })
    }
}

/// Runs what is asked for, and writes the results after every case.
pub(crate) async fn run(args: &Args, json: Option<&Path>) -> anyhow::Result<()> {
    ensure!(args.turns > 0, "nothing to measure");
    process::raise_descriptors()?;
    // Before this process is bound to one of them.
    let (cores, conditions) = (Cores::of_this_machine()?, Conditions::here(args.turns, args.small)?);
    process::pin(std::process::id(), cores.others)?;
    let field = Field { tools: Tools { dir: args.tools.clone(), cores, outside: args.outside.read() } };
    let mut results = Results { conditions, rows: Vec::new(), missing: Vec::new() };
    let mut bench = Bench { args, field, started: Instant::now(), absent: BTreeSet::new() };
    let all = bench.cases();
    for (number, case) in all.iter().enumerate() {
        output::note(format!(
            "[{}/{}] {} s: {}, {}",
            number + 1,
            all.len(),
            bench.started.elapsed().as_secs(),
            case.scenario.title(),
            case.name
        ));
        if bench.is_over() {
            results.missing.push(format!("{}, {}: no time was left", case.scenario.title(), case.name));
            continue;
        }
        Box::pin(bench.case(case, &mut results)).await;
        if let Some(json) = json {
            write(json, &(serde_json::to_string_pretty(&results)? + "\n"))?;
        }
    }
    output::line(markdown::render(&results));
    show(&results, args.markdown.as_deref(), args.svg.as_deref())
}

/// Writes the tables and the chart of results.
pub(crate) fn show(results: &Results, markdown: Option<&Path>, svg: Option<&Path>) -> anyhow::Result<()> {
    if let Some(file) = markdown {
        write(file, &markdown::render(results))?;
    }
    if let Some(file) = svg {
        write(file, &chart::render(results))?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

struct Bench<'a> {
    args: &'a Args,
    field: Field,
    started: Instant,
    /// Peers that do not start here.
    absent: BTreeSet<Peer>,
}

impl Bench<'_> {
    /// The cases that are asked for, each with the sides that are.
    fn cases(&self) -> Vec<Case> {
        let named = &self.args.scenarios;
        let scenarios = Scenario::value_variants().iter().copied();
        let scenarios = scenarios.filter(|scenario| named.is_empty() || named.contains(scenario));
        let scale = match (self.args.small, self.args.short) {
            (true, _) => Scale::Small,
            (false, true) => Scale::Short,
            (false, false) => Scale::Whole,
        };
        let all = scenarios.flat_map(|scenario| cases(scenario, scale));
        let wanted = all.filter(|case| case.name.contains(&self.args.case)).map(|mut case| {
            // What one server of the protocol can do any other one can.
            if self.field.tools.outside.is_some() && case.peers.contains(&Peer::CentrifugoMemory) {
                case.peers.push(Peer::Outside);
            }
            case.peers.retain(|peer| *peer == Peer::Outside || self.takes_part(*peer));
            case
        });
        wanted.filter(|case| case.peers.iter().any(|peer| !peer.is_baseline())).collect()
    }

    fn takes_part(&self, peer: Peer) -> bool {
        match (self.args.all_peers, self.args.peers.is_empty()) {
            (true, _) => true,
            (false, true) => peer.is_own(),
            (false, false) => self.args.peers.contains(&peer),
        }
    }

    fn is_over(&self) -> bool {
        self.args.within.is_some_and(|limit| self.started.elapsed() > limit)
    }

    async fn case(&mut self, case: &Case, results: &mut Results) {
        for turn in 0..self.args.turns {
            if turn > 0 && self.is_over() {
                return;
            }
            let mut peers = case.peers.clone();
            // The side that begins alternates, so that a drift favours none.
            if turn % 2 == 1 {
                peers.reverse();
            }
            for peer in peers {
                if self.absent.contains(&peer) {
                    continue;
                }
                match Box::pin(self.turn(case, peer)).await {
                    Ok((measured, repeated)) => {
                        output::note(line(peer, turn, &measured));
                        results.rows.push(row(case, peer, turn, (measured, repeated)));
                    }
                    Err(error) => {
                        let why =
                            format!("{}, {}, {}: {error:#}", case.scenario.title(), case.name, peer.title());
                        output::note(format!("  not measured: {why}"));
                        if error.is::<Absent>() {
                            self.absent.insert(peer);
                        }
                        results.missing.push(why);
                    }
                }
            }
        }
    }

    /// One side once, again if others have disturbed it. The least disturbed one counts.
    async fn turn(&self, case: &Case, peer: Peer) -> anyhow::Result<(Measured, usize)> {
        let mut best: Option<Measured> = None;
        for repeated in 0..=self.args.repeats {
            let measured = timeout(LIMIT, Box::pin(case.run(peer, &self.field)))
                .await
                .context("it takes too long")??;
            let foreign = measured.foreign_cpu_percent;
            if best.as_ref().is_none_or(|best| foreign < best.foreign_cpu_percent) {
                best = Some(measured);
            }
            if foreign < NOISY || self.args.small || repeated == self.args.repeats {
                return Ok((best.context("nothing was measured")?, repeated));
            }
            output::note(format!(
                "  {}: other processes used {foreign:.0} % of the machine; again",
                peer.title()
            ));
        }
        anyhow::bail!("nothing was measured")
    }
}

fn row(case: &Case, peer: Peer, turn: usize, (measured, repeated): (Measured, usize)) -> Row {
    Row {
        scenario: case.scenario,
        case: case.name.clone(),
        peer,
        turn,
        figures: measured.figures,
        keeps: case.keeps(),
        remarks: measured.remarks,
        foreign_cpu_percent: measured.foreign_cpu_percent,
        repeated,
    }
}

fn line(peer: Peer, turn: usize, measured: &Measured) -> String {
    let figures =
        measured.figures.iter().map(|figure| format!("{} {}", markdown::number(figure.value), figure.name));
    let figures: Vec<_> = figures.collect();
    let remarks = if measured.remarks.is_empty() {
        String::new()
    } else {
        format!(" ({})", measured.remarks.join("; "))
    };
    format!("  turn {}, {}: {}{remarks}", turn + 1, peer.title(), figures.join(", "))
}
