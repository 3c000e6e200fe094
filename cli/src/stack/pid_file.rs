//! Which processes belong to a stack, on disk: what a supervisor that was killed itself leaves behind can be found.
//!
//! One file a process in `<dir>/pids`: its pid and when it started, so that a pid given to somebody else is not mistaken.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};

/// The record of the supervisor itself.
const SUPERVISOR: &str = "supervisor";
/// How long a leftover may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// The processes of the stack in one directory.
#[derive(Debug)]
pub(crate) struct PidFiles(PathBuf);

impl PidFiles {
    /// Opens the records of the stack in `dir`.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let pids = dir.join("pids");
        fs::create_dir_all(&pids).with_context(|| format!("creating {}", pids.display()))?;
        Ok(Self(pids))
    }

    /// Notes that `pid` runs as `name`.
    pub(crate) fn add(&self, name: &str, pid: Pid) {
        if let Some(started) = started(pid) {
            // Without the record a stack works as well; only its leftovers would not be found.
            let _ = fs::write(self.0.join(name), format!("{} {started}\n", pid.as_raw_nonzero()));
        }
    }

    /// Notes that `name` is gone.
    pub(crate) fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.0.join(name));
    }

    /// Notes that this process supervises the stack.
    pub(crate) fn claim(&self) {
        self.add(SUPERVISOR, rustix::process::getpid());
    }

    /// Notes that nobody supervises it any more.
    pub(crate) fn release(&self) {
        self.remove(SUPERVISOR);
    }

    /// The supervisor that runs now, if there is one and it is not this process.
    pub(crate) fn supervisor(&self) -> Option<Pid> {
        self.alive(SUPERVISOR).filter(|pid| *pid != rustix::process::getpid())
    }

    /// Ends what a killed supervisor left running, the broker last. Returns the names.
    pub(crate) fn end_leftovers(&self) -> Vec<String> {
        let mut found: Vec<(String, Pid)> = fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name != SUPERVISOR)
            .filter_map(|name| self.alive(&name).map(|pid| (name, pid)))
            .collect();
        found.sort_by_key(|(name, _)| (name == "nats", name.clone()));
        for (name, pid) in &found {
            let _ = kill_process_group(*pid, Signal::TERM);
            let _ = kill_process_group(*pid, Signal::CONT);
            let limit = Instant::now() + GRACE;
            while self.alive(name).is_some() && Instant::now() < limit {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = kill_process_group(*pid, Signal::KILL);
            self.remove(name);
        }
        self.remove(SUPERVISOR);
        found.into_iter().map(|(name, _)| name).collect()
    }

    /// The process recorded under `name`, if it still is the same one.
    fn alive(&self, name: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.0.join(name)).ok()?;
        let (pid, recorded) = text.split_once(' ')?;
        let pid = Pid::from_raw(pid.parse().ok()?)?;
        (started(pid)? == recorded.trim_end()).then_some(pid)
    }
}

/// When a process started, in the kernel's ticks; nothing if it has ended, waited for or not.
fn started(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in parentheses may hold anything; state and start time are the 1st and 20th field behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18).map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_with_another_start_time_is_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        let records = PidFiles::open(dir.path()).unwrap();
        let me = rustix::process::getpid();
        records.add("me", me);
        assert_eq!(records.alive("me"), Some(me));
        fs::write(dir.path().join("pids/other"), format!("{} 1", me.as_raw_nonzero())).unwrap();
        assert_eq!(records.alive("other"), None);
        records.claim();
        assert_eq!(records.supervisor(), None);
    }
}
