//! Harmless calls that show whether an account has its rights: each is answered without anything being stored, read or changed.

use super::{Access, Account, Kind, Right};

/// A call to try a right with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The subject, as programs write it.
    pub subject: String,
    /// The body: one that changes nothing.
    pub body: &'static str,
    /// Whether a stream is to refuse it, so that it stores nothing.
    pub refused: bool,
    /// Whether it is answered only if its stream exists.
    pub needs_stream: bool,
    /// The right's subject.
    pub right: String,
    /// What the right is for.
    pub why: &'static str,
}

/// The last word of a subject that nobody uses.
const NOBODY: &str = "probe";

impl Access {
    /// The probes of an account. Rights that cannot be tried without an effect have none.
    pub fn probes(&self, account: Account) -> Vec<Probe> {
        let calls =
            self.rights(account).filter(|right| matches!(right.kind, Kind::Call([Account::Store], _)));
        calls.filter_map(|right| self.probe(right)).collect()
    }

    fn probe(&self, right: &Right) -> Option<Probe> {
        let (body, refused, needs_stream) = match right.subject.strip_prefix("$JS.API.") {
            // A deletion cannot be tried. A pull cannot either, but its consumer's INFO is.
            Some(call)
                if ["STREAM.DELETE.", "STREAM.MSG.DELETE.", "CONSUMER.MSG."]
                    .iter()
                    .any(|start| call.starts_with(start)) =>
            {
                return None;
            }
            Some(call) if call.starts_with("STREAM.PURGE.") => (r#"{"seq":1}"#, false, false),
            Some(call) if call.starts_with("DIRECT.GET.") && call.split('.').count() == 3 => {
                (r#"{"last_by_subj":"probe"}"#, false, true)
            }
            Some(call) => ("", false, call.starts_with("DIRECT.GET.")),
            None if right.subject.starts_with("$JS.ACK.") => return None,
            None => ("", true, true),
        };
        let subject = match right.subject.strip_prefix(&format!("{}.", self.prefix)) {
            // Only the requests of a route have a stream.
            Some("in.>" | "first.>") => return None,
            _ => right.subject.replace(['*', '>'], NOBODY),
        };
        let (right, why) = (right.subject.clone(), right.why);
        Some(Probe { subject, body, refused, needs_stream, right, why })
    }
}
