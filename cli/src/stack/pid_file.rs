//! Pid files of a stack's processes, so that the leftovers of a killed supervisor can be found.
//!
//! One file per process in `<dir>/pids` with its pid and start time, so that a reused pid is recognized.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};

/// The pid file of the supervisor.
const SUPERVISOR: &str = "supervisor";
/// How long a leftover may take to stop before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// The pid files of the stack in one directory.
#[derive(Debug)]
pub(crate) struct PidFiles(PathBuf);

impl PidFiles {
    /// Opens the pid files of the stack in `dir`.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let pids = dir.join("pids");
        fs::create_dir_all(&pids).with_context(|| format!("creating {}", pids.display()))?;
        Ok(Self(pids))
    }

    /// Writes the pid file of `name`.
    pub(crate) fn add(&self, name: &str, pid: Pid) {
        if let Some(started) = started(pid) {
            // Best effort: without the pid file only the leftovers of a killed supervisor would not be found.
            let _ = fs::write(self.0.join(name), format!("{} {started}\n", pid.as_raw_nonzero()));
        }
    }

    /// Removes the pid file of `name`.
    pub(crate) fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.0.join(name));
    }

    /// Writes the pid file of this process as the supervisor.
    pub(crate) fn claim(&self) {
        self.add(SUPERVISOR, rustix::process::getpid());
    }

    /// Removes the supervisor's pid file.
    pub(crate) fn release(&self) {
        self.remove(SUPERVISOR);
    }

    /// Returns the running supervisor. `None` if there is none or it is this process.
    pub(crate) fn supervisor(&self) -> Option<Pid> {
        self.alive(SUPERVISOR).filter(|pid| *pid != rustix::process::getpid())
    }

    /// Ends the processes a killed supervisor left running, the broker last. Returns their names.
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

    /// Returns the recorded process of `name` if the same process still runs.
    fn alive(&self, name: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.0.join(name)).ok()?;
        let (pid, recorded) = text.split_once(' ')?;
        let pid = Pid::from_raw(pid.parse().ok()?)?;
        (started(pid)? == recorded.trim_end()).then_some(pid)
    }
}

/// Returns the start time of a process in kernel ticks. `None` if it has ended, even as a zombie.
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
    fn a_pid_with_another_start_time_is_another_process() {
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
