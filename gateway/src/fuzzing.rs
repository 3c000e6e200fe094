//! The bodies of the fuzz targets: what any bytes may do to each decoder and to a session, and which properties hold for all of them.
//!
//! One function a target. `fuzz/` runs them with libFuzzer; the test below runs the kept inputs on each `cargo test`. A target
//! panics when a property does not hold. It is in no build but tests and the feature `fuzzing`, and never does I/O after its start.

mod backend;
mod broker;
mod commands;
mod edge;
mod names;
mod session;
mod tokens;

/// One fuzz target: its name and its body.
type Target = (&'static str, fn(&[u8]));

/// Every target. Its inputs are in `fuzz/corpus/<name>`.
const TARGETS: &[Target] = &[
    ("answer", broker::answer),
    ("command_json", commands::json),
    ("command_protobuf", commands::protobuf),
    ("configuration", backend::configuration),
    ("dead_letter", broker::dead_letter),
    ("delta", commands::delta),
    ("event_id", edge::event_id),
    ("filter", commands::filter),
    ("handshake", edge::handshake),
    ("hook_decision", backend::hook_decision),
    ("key_set", tokens::key_set),
    ("names", names::names),
    ("publication", broker::publication),
    ("request", broker::request),
    ("schedule", broker::schedule),
    ("session", session::session),
    ("token", tokens::token),
    ("token_claims", tokens::claims),
];

/// What is before and behind the first of these bytes. `None` without them.
fn cut<'a>(input: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let place = input.windows(at.len()).position(|window| window == at)?;
    let (before, rest) = input.split_at_checked(place)?;
    Some((before, rest.get(at.len()..)?))
}

/// Runs one input through the target with this name.
///
/// # Panics
/// If a property does not hold, or if there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    body(input);
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::PathBuf};

    use super::*;

    /// The inputs that are kept, all together, in bytes.
    const MOST_BYTES: u64 = 1 << 20;

    fn fuzz() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
    }

    fn entries(folder: &str) -> Vec<PathBuf> {
        let read = fs::read_dir(fuzz().join(folder)).unwrap_or_else(|error| panic!("fuzz/{folder}: {error}"));
        read.map(|entry| entry.unwrap().path()).collect()
    }

    fn names(folder: &str) -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        entries(folder).into_iter().map(stem).collect()
    }

    #[test]
    fn every_kept_input_passes_its_target() {
        let (mut bytes, mut failed) = (0, Vec::new());
        for (name, body) in TARGETS {
            let inputs = entries(&format!("corpus/{name}"));
            assert!(!inputs.is_empty(), "{name} has no input");
            for path in inputs {
                let input = fs::read(&path).unwrap();
                bytes += input.len() as u64;
                if std::panic::catch_unwind(|| body(&input)).is_err() {
                    failed.push(path);
                }
            }
        }
        assert!(failed.is_empty(), "these do not pass, see the panics above: {failed:?}");
        assert!(
            bytes <= MOST_BYTES,
            "the kept inputs have {bytes} bytes: minimise them with `make fuzz-shrink`"
        );
    }

    #[test]
    fn every_target_has_a_program_and_inputs_and_no_other_has() {
        let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("corpus"), known);
        assert_eq!(names("fuzz_targets"), known);
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for name in known {
            assert!(
                manifest.contains(&format!("name = \"{name}\"")),
                "fuzz/Cargo.toml has no program {name}"
            );
            let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(
                program.contains(&format!("run(\"{name}\", ")),
                "fuzz_targets/{name}.rs runs another target"
            );
        }
    }
}
