//! The generator processes of one run, which are told what to do together.

use std::process::Stdio;

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Duration, timeout},
};

use crate::{
    generator::{Answer, Channels, Host, Order, Tally},
    process,
};

/// A process may hold 20,000 descriptors.
const CLIENTS_OF_ONE: usize = 18_000;
/// The longest order.
const LIMIT: Duration = Duration::from_mins(5);

/// All generators.
#[derive(Debug)]
pub(crate) struct Crew {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Crew {
    /// Starts enough processes for so many clients, on a core.
    pub(crate) fn start(clients: usize, core: usize) -> anyhow::Result<Self> {
        let count = clients.div_ceil(CLIENTS_OF_ONE).max(1);
        let members = (0..count).map(|_| Member::start(core)).collect::<anyhow::Result<_>>()?;
        Ok(Self { members })
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter_map(|member| member.child.id())
    }

    /// All carry out the order; what they count is added up.
    pub(crate) async fn order(&mut self, order: &Order) -> anyhow::Result<Tally> {
        let answers = try_join_all(self.members.iter_mut().map(|member| member.order(order))).await?;
        sum(answers)
    }

    /// Connects clients, divided among the processes.
    pub(crate) async fn connect(
        &mut self,
        host: &Host,
        count: usize,
        at_once: usize,
        channels: &Channels,
    ) -> anyhow::Result<Tally> {
        let parts = shares(count, self.members.len());
        let orders: Vec<Order> = parts
            .map(|(first, count)| Order::Connect {
                host: host.clone(),
                first,
                count,
                at_once,
                channels: channels.clone(),
            })
            .collect();
        let both = self.members.iter_mut().zip(&orders);
        let tally = sum(try_join_all(both.map(|(member, order)| member.order(order))).await?)?;
        let wanted = u64::try_from(count)?;
        if tally.up != wanted {
            let why: Vec<_> = tally.failures.lines().take(3).collect();
            bail!("{} of {count} clients are connected: {}", tally.up, why.join("; "));
        }
        Ok(tally)
    }
}

/// The first client and the number of clients of each process.
fn shares(count: usize, members: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = move |member| count * member / members.max(1);
    (0..members).map(move |member| (end(member), end(member + 1) - end(member)))
}

fn sum(tallies: Vec<Tally>) -> anyhow::Result<Tally> {
    let mut all = Tally::default();
    for tally in tallies {
        all.add(tally)?;
    }
    Ok(all)
}

impl Member {
    fn start(core: usize) -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(this)
            .arg("generate")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a generator")?;
        process::pin(child.id().context("a generator without an id")?, core)?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { child, orders, answers })
    }

    async fn order(&mut self, order: &Order) -> anyhow::Result<Tally> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.orders.write_all(&line).await?;
        let answer = timeout(LIMIT, self.answers.next_line()).await.context("the generator is stuck")??;
        let answer = answer.context("the generator has ended")?;
        match serde_json::from_str(&answer).context("reading a generator's answer")? {
            Answer::Done(tally) => Ok(*tally),
            Answer::Failed(why) => bail!("{why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_belongs_to_one_process() {
        assert_eq!(shares(19_001, 2).collect::<Vec<_>>(), [(0, 9500), (9500, 9501)]);
        assert_eq!(shares(5, 1).collect::<Vec<_>>(), [(0, 5)]);
    }
}
