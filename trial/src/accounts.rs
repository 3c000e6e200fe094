//! What the broker's accounts cost: round trips and throughput with an account for each kind of program, and with permissions in
//! one account alone. Both take turns, each time with a new stack, so that a machine that becomes slower affects both.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;
use tidegate_cli::{output, stack::Separation};

use crate::{
    open_loop, report::Verdict, request_path::RequestPath, stats::median, target::Target, throughput,
};

/// The load of the round trips.
const CLIENTS: usize = 10;
const RATE: u32 = 100;
const WARM_UP: Duration = Duration::from_secs(2);
const SLICE: Duration = Duration::from_secs(5);
/// How much slower the accounts may make either figure.
const TARGET: f64 = 1.1;

/// The load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How often each side takes its turn
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Requests of one turn's throughput
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
}

/// The results.
#[derive(Debug, Serialize)]
pub(crate) struct AccountsCost {
    turns: usize,
    with: Side,
    without: Side,
}

/// What one side reached, turn by turn.
#[derive(Debug, Default, Serialize)]
struct Side {
    /// Milliseconds.
    round_trip_p50: Vec<f64>,
    requests_per_second: Vec<f64>,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args) -> anyhow::Result<AccountsCost> {
    ensure!(args.turns > 0, "nothing to measure");
    let (mut with, mut without) = (Side::default(), Side::default());
    for turn in 0..args.turns {
        // The side that begins alternates.
        let mut sides = [(Separation::Accounts, &mut with), (Separation::Permissions, &mut without)];
        if turn % 2 == 1 {
            sides.reverse();
        }
        for (separation, side) in sides {
            output::note(format!("turn {} of {}: {separation:?}", turn + 1, args.turns));
            side.measure(separation, args).await?;
        }
    }
    Ok(AccountsCost { turns: args.turns, with, without })
}

impl Side {
    async fn measure(&mut self, separation: Separation, args: &Args) -> anyhow::Result<()> {
        let target = Target::separated(separation).await?;
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            clients.push(target.connect(number).await?);
        }
        let path = Arc::new(RequestPath::Server { clients, method: "echo".to_owned() });
        open_loop::slice(&path, RATE, WARM_UP).await?;
        self.round_trip_p50.push(open_loop::slice(&path, RATE, SLICE).await?.series.times().p50);
        let load = throughput::Args::of(args.requests);
        self.requests_per_second.push(throughput::measure(&target, &load).await?.rate());
        target.end().await;
        Ok(())
    }
}

impl Verdict for AccountsCost {
    /// Prints the table.
    fn print(&self) {
        match self.table() {
            Ok(table) => output::line(table),
            Err(error) => output::note(format!("error: {error:#}")),
        }
    }
}

impl AccountsCost {
    fn table(&self) -> anyhow::Result<String> {
        let middle = |values: &[f64]| median(values.iter().copied()).context("nothing was measured");
        let (with, without) = (middle(&self.with.round_trip_p50)?, middle(&self.without.round_trip_p50)?);
        let time = with / without;
        let mut lines = vec![format!("accounts: medians of {} turns of each side", self.turns)];
        lines.push(line("round trip p50", &format!("{with:.2} ms, {without:.2} ms without"), time));
        let (with, without) =
            (middle(&self.with.requests_per_second)?, middle(&self.without.requests_per_second)?);
        lines.push(line("throughput", &format!("{with:.0}/s, {without:.0}/s without"), without / with));
        Ok(lines.join("\n"))
    }
}

fn line(what: &str, figures: &str, slower: f64) -> String {
    let word = if slower <= TARGET { "PASS" } else { "MISSED" };
    format!("  {what:<16}{figures}: {slower:.2}x  {word} (target <= {TARGET}x)")
}
