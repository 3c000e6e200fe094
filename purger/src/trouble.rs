//! What is wrong with a route now, and when the log says so: at once, then sparsely, and when it is over. Pure.

use std::time::{Duration, Instant};

/// How often a trouble that lasts is repeated in the log.
const AGAIN: Duration = Duration::from_mins(1);

/// The trouble of one route.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    reason: Option<String>,
    said: Option<Instant>,
}

impl Trouble {
    /// Something failed. Returns whether the log should say so now.
    pub(crate) fn begin(&mut self, reason: &str, now: Instant) -> bool {
        let known = self.reason.as_deref() == Some(reason);
        self.reason = Some(reason.to_owned());
        let say = !known || self.said.is_none_or(|said| now.saturating_duration_since(said) >= AGAIN);
        if say {
            self.said = Some(now);
        }
        say
    }

    /// It works. Returns whether there was trouble before.
    pub(crate) fn end(&mut self) -> bool {
        self.said = None;
        self.reason.take().is_some()
    }

    /// What is wrong now.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_at_once_then_sparsely_and_another_one_at_once() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut trouble = Trouble::default();
        assert!(!trouble.end());
        assert!(trouble.begin("gone", start));
        assert!(!trouble.begin("gone", start + second));
        assert!(trouble.begin("full", start + second));
        assert!(!trouble.begin("full", start + AGAIN));
        assert!(trouble.begin("full", start + second + AGAIN));
        assert_eq!(trouble.reason(), Some("full"));
        assert!(trouble.end());
        assert!(trouble.begin("full", start + second + AGAIN), "it is new again");
    }
}
