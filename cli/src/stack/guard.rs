//! Cleans up a temporary stack whose program was killed, so that an interrupted test run leaves nothing behind.
//!
//! Children are in process groups of their own, so a signal to the program does not reach them. A shell waits for the end
//! of a pipe and kills them: the kernel closes the pipe however the program ends. Stacks with a directory of their own have
//! no guard; the next `up` or `down` finds their processes by the pid files.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context;

/// Waits for the end of its input, kills every process group with a pid file, removes the directory.
const SCRIPT: &str = r#"
read -r _
for record in "$1"/pids/*; do
    [ "${record##*/}" = supervisor ] && continue
    pid=
    read -r pid _ < "$record"
    [ -n "$pid" ] && kill -s KILL -- "-$pid"
done 2> /dev/null
rm -rf -- "$1"
"#;

/// The waiting shell. Dropping it runs the cleanup, which is empty when every process has ended.
#[derive(Debug)]
pub(crate) struct CleanupGuard(Child);

impl CleanupGuard {
    /// Starts the guard of the stack in a temporary directory.
    pub(crate) fn over(dir: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(dir).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).context("starting sh")
    }
}

impl Drop for CleanupGuard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The script ends by itself once its input is closed.
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::pid_file::PidFiles;

    #[test]
    fn when_the_pipe_ends_recorded_processes_and_the_directory_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let records = PidFiles::open(dir.path()).unwrap();
        let guard = CleanupGuard::over(dir.path()).unwrap();
        let mut left = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&left);
        records.add("worker-1", pid);
        records.claim();
        drop(guard);
        // Unless it is killed, it ends after a minute, with success.
        assert!(!left.wait().unwrap().success());
        assert!(!dir.path().exists());
    }
}
