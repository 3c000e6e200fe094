//! Memory and processor time of processes, read from `/proc`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;

/// The kernel counts a machine's processor time in hundredths of a second, whatever its own tick.
const TICK: Duration = Duration::from_millis(10);
/// Words of a `cpu` line that are work: user, nice, system; then, behind idle and iowait, irq and softirq.
const WORK: [usize; 5] = [1, 2, 3, 6, 7];

/// The resident memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// All resident memory.
    pub(crate) rss_kib: u64,
    /// Without pages of files, which the kernel may drop and read again.
    pub(crate) anonymous_kib: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let status = read(format!("/proc/{pid}/status"))?;
        let field = |name| kib(&status, name).with_context(|| format!("/proc/{pid}/status has no {name}"));
        Ok(Self { rss_kib: field("VmRSS")?, anonymous_kib: field("RssAnon")? })
    }
}

/// The processor time a process' threads have used.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanos = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
        // A thread may end between the two reads.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// With this much foreign work, in percent of all processors, a run has to be repeated.
pub(crate) const NOISY: f64 = 12.0;

/// Measures the processor time of other processes, which distorts the results.
#[derive(Debug)]
pub(crate) struct ForeignCpu {
    ours: Vec<u32>,
    started: Instant,
    machine: Duration,
    own: Duration,
}

impl ForeignCpu {
    /// Begins to watch. `ours` are the processes that belong to the measurement.
    pub(crate) fn watch(ours: Vec<u32>) -> anyhow::Result<Self> {
        let (machine, own) = (machine()?, total(&ours));
        Ok(Self { ours, started: Instant::now(), machine, own })
    }

    /// Returns the processor time of other processes since the start, in percent of all processors.
    pub(crate) fn percent(&self) -> anyhow::Result<f64> {
        let busy = machine()?.saturating_sub(self.machine);
        let foreign = busy.saturating_sub(total(&self.ours).saturating_sub(self.own));
        // Of the machine: this process may be bound to one of them.
        let cores = u32::try_from(machine_cores(&read("/proc/stat")?))?;
        let capacity = self.started.elapsed() * cores.max(1);
        Ok(100.0 * foreign.as_secs_f64() / capacity.as_secs_f64())
    }
}

/// Returns the line about other processes for the tables.
pub(crate) fn foreign_line(percent: f64) -> String {
    let remark = if percent < NOISY { "" } else { "  too much: run it again on a quiet machine" };
    format!("  foreign CPU     {percent:.1} %{remark}")
}

/// Allows this process and those it starts as many open sockets as the system permits.
pub(crate) fn raise_descriptors() -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}

/// The cores of the measurement: one for the server, another one for everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) others: usize,
}

impl Cores {
    /// The first and the last core that this process may use. On a single core they are the same.
    pub(crate) fn of_this_machine() -> anyhow::Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let mut all = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let server = all.next().context("no core")?;
        Ok(Self { server, others: all.next_back().unwrap_or(server) })
    }
}

/// Binds all threads of a process to a core. Threads that begin later inherit it.
pub(crate) fn pin(pid: u32, core: usize) -> anyhow::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let tasks = format!("/proc/{pid}/task");
    // Twice: a thread may begin another one between the list and its own turn.
    for _ in 0..2 {
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let id = task?.file_name().to_string_lossy().parse::<i32>()?;
            let id = rustix::process::Pid::from_raw(id);
            // It may have ended.
            let _ = rustix::thread::sched_setaffinity(id, &set);
        }
    }
    Ok(())
}

fn total(pids: &[u32]) -> Duration {
    // One that has ended has no time that could be asked for.
    pids.iter().filter_map(|pid| cpu(*pid).ok()).sum()
}

fn machine() -> anyhow::Result<Duration> {
    let stat = read("/proc/stat")?;
    let ticks = work(&stat).context("/proc/stat has no cpu line")?;
    Ok(TICK * u32::try_from(ticks)?)
}

fn machine_cores(stat: &str) -> usize {
    let words = stat.lines().filter_map(|line| line.strip_prefix("cpu"));
    words.filter(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit())).count()
}

fn work(stat: &str) -> Option<u64> {
    let words: Vec<&str> = stat.lines().next()?.split_whitespace().collect();
    WORK.iter().map(|word| words.get(*word)?.parse::<u64>().ok()).sum()
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_by_its_whole_name() {
        let status = "VmRSS:\t    4012 kB\nRssAnon:\t    1000 kB\nRssFile:\t    3012 kB\n";
        assert_eq!(kib(status, "VmRSS"), Some(4012));
        assert_eq!(kib(status, "RssAnon"), Some(1000));
        assert_eq!(kib(status, "Rss"), None);
    }

    #[test]
    fn idle_and_iowait_do_not_count_as_work() {
        assert_eq!(work("cpu  1 2 4 8000 9000 16 32 64 0 0\ncpu0 1 1 1"), Some(1 + 2 + 4 + 16 + 32));
    }

    #[test]
    fn the_cores_of_the_machine_are_counted_without_their_sum() {
        assert_eq!(machine_cores("cpu  1 2\ncpu0 1 1\ncpu1 1 1\nintr 5\n"), 2);
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let pid = std::process::id();
        let memory = Memory::of(pid).unwrap();
        assert!(memory.rss_kib >= memory.anonymous_kib && memory.anonymous_kib > 0);
        assert!(cpu(pid).unwrap() > Duration::ZERO);
    }
}
