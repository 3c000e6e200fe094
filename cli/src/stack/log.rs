//! The output of a stack's processes: bounded in memory, in files, and printed on request.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use parking_lot::{Mutex, MutexGuard};

use crate::output;

/// The limit of the output kept in memory, for all processes together.
const KEPT_BYTES: usize = 8 * 1024 * 1024;
/// The size at which a file is rotated to `<name>.log.old`.
const FILE_BYTES: usize = 32 * 1024 * 1024;
/// The name of the combined log, whose lines begin with the process name.
pub(crate) const COMBINED: &str = "all";
/// Colours of the names, legible on dark and light terminals.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

/// The output of all processes of one stack.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    echo: bool,
    kept: Mutex<LogBuffer>,
}

#[derive(Debug, Default)]
struct LogBuffer {
    lines: VecDeque<(String, String)>,
    bytes: usize,
    files: HashMap<String, (File, usize)>,
}

impl Logs {
    /// Removes earlier logs in `dir` and starts new ones.
    pub(crate) fn new(dir: &Path, echo: bool) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(dir)?,
        }
        Ok(Self { dir: dir.to_owned(), echo, kept: Mutex::default() })
    }

    /// Logs one line printed by `name`.
    pub(crate) fn line(&self, name: &str, line: &str) {
        if self.echo {
            output::line(shown(name, line, output::is_terminal()));
        }
        let mut kept = self.kept();
        // A full disk must not end the stack: the line is still printed and in memory.
        let _ = kept.write(&self.dir, name, line);
        let _ = kept.write(&self.dir, COMBINED, &shown(name, line, false));
        kept.keep(name, line);
    }

    /// Returns the lines in memory, each with its process name.
    pub(crate) fn all(&self) -> String {
        self.kept().lines.iter().map(|(name, line)| shown(name, line, false) + "\n").collect()
    }

    /// Returns the lines of one process in memory.
    pub(crate) fn of(&self, name: &str) -> String {
        let kept = self.kept();
        let lines = kept.lines.iter().filter(|(n, _)| n == name);
        lines.fold(String::new(), |text, (_, line)| text + line + "\n")
    }

    /// Returns the last 8 lines of one process, for an error message.
    pub(crate) fn tail(&self, name: &str) -> String {
        let kept = self.kept();
        let last: Vec<&str> = kept
            .lines
            .iter()
            .rev()
            .filter(|(n, _)| n == name)
            .take(8)
            .map(|(_, line)| line.as_str())
            .collect();
        last.into_iter().rev().fold(String::new(), |tail, line| tail + "\n    " + line)
    }

    fn kept(&self) -> MutexGuard<'_, LogBuffer> {
        self.kept.lock()
    }
}

impl LogBuffer {
    fn keep(&mut self, name: &str, line: &str) {
        self.bytes += name.len() + line.len();
        self.lines.push_back((name.to_owned(), line.to_owned()));
        while self.bytes > KEPT_BYTES {
            let Some((name, line)) = self.lines.pop_front() else { break };
            self.bytes -= name.len() + line.len();
        }
    }

    fn write(&mut self, dir: &Path, name: &str, line: &str) -> io::Result<()> {
        let path = dir.join(format!("{name}.log"));
        if self.files.get(name).is_some_and(|(_, bytes)| *bytes > FILE_BYTES) {
            self.files.remove(name);
            fs::rename(&path, dir.join(format!("{name}.log.old")))?;
        }
        if !self.files.contains_key(name) {
            self.files.insert(name.to_owned(), (File::create(&path)?, 0));
        }
        if let Some((file, bytes)) = self.files.get_mut(name) {
            file.write_all(format!("{line}\n").as_bytes())?;
            *bytes += line.len() + 1;
        }
        Ok(())
    }
}

fn shown(name: &str, line: &str, coloured: bool) -> String {
    if !coloured {
        return format!("{name:<9} | {line}");
    }
    let hash = name.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let colour = COLOURS.get(hash % COLOURS.len()).unwrap_or(&36);
    format!("\x1b[{colour}m{name:<9} |\x1b[0m {line}")
}
