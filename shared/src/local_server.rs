//! Finds a nats-server on this machine that is recent enough: for the local stack, and for the tests of applications.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::broker::MIN_SERVER;

/// The variable that names the program.
pub const VARIABLE: &str = "NATS_SERVER";
/// The program's name.
pub const PROGRAM: &str = "nats-server";

/// Why a named program cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// Finds the program: the named one, else one in `tools/bin`, else one on the PATH. `None` if there is none. Starts programs and
/// waits for them, so it blocks.
pub fn find(named: Option<&Path>, tools: &Path) -> Result<Option<PathBuf>, Unusable> {
    if let Some(path) = named.map(Path::to_owned).or_else(|| env::var_os(VARIABLE).map(PathBuf::from)) {
        return match version(path.as_os_str()) {
            Some(version) if recent(version) => Ok(Some(path)),
            Some((a, b, c)) => {
                Err(Unusable(format!("{} is nats-server {a}.{b}.{c}; {}", path.display(), needed())))
            }
            None => {
                Err(Unusable(format!("{} is not a nats-server that runs on this machine", path.display())))
            }
        };
    }
    let on_path = || version(OsStr::new(PROGRAM)).is_some_and(recent).then(|| PathBuf::from(PROGRAM));
    Ok(fetched(tools).or_else(on_path))
}

/// The program in `tools/bin`, if it is there.
pub fn fetched(tools: &Path) -> Option<PathBuf> {
    let path = tools.join("bin").join(PROGRAM);
    version(path.as_os_str()).is_some_and(recent).then_some(path)
}

/// Which versions can be used.
pub fn needed() -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(recent((2, 15, 1)) && recent((2, 14, 3)) && recent((3, 0, 0)));
        assert!(!recent((2, 9, 10)) && !recent((2, 14, 2)));
    }
}
