//! What is broken in the broker, as a program meets it: which faults are open, for how long, and when one is logged again.
//!
//! Pure: the time is an argument. A fault opens when an operation fails for a reason that other messages will meet too. It closes
//! when that operation succeeds, or when it was not met for [`QUIET`]: an operation that nobody tries any more must not keep a
//! program unready for ever.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use crate::topology::{REPLY, REQUESTS};

/// How long a fault stays open without being met again.
pub const QUIET: Duration = Duration::from_secs(30);
/// The pause before an open fault is logged for the second time. It doubles up to [`LOG_PAUSE_LIMIT`].
const LOG_PAUSE: Duration = Duration::from_mins(1);
/// The longest pause between two log lines of one fault.
const LOG_PAUSE_LIMIT: Duration = Duration::from_hours(1);
/// The most places that are remembered.
const MOST: usize = 256;

/// The operation that fails, and on what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Storing in a stream.
    Store(String),
    /// Reading a stream.
    Read(String),
    /// Pulling from a consumer.
    Pull {
        /// The consumer's stream.
        stream: String,
        /// The consumer's name.
        consumer: String,
    },
    /// Removing from a stream what its consumer has acknowledged.
    Purge(String),
    /// Publishing on a subject.
    Publish(String),
    /// The connection to NATS.
    Connection,
    /// Subscribing to a subject. It stays open until the connection is made anew: NATS does not say when it is allowed again.
    Subscribe(String),
}

/// What is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no room; the text is the broker's.
    Full(String),
    /// It does not exist, or has no leader.
    Missing,
    /// The broker does not answer.
    Silent,
    /// The broker answers with this error.
    Failing(String),
    /// The user may not do this.
    Forbidden,
    /// It ends again and again.
    Breaking,
}

/// One open fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What fails.
    pub place: Place,
    /// Why.
    pub problem: Problem,
    /// For how long.
    pub lasts: Duration,
}

#[derive(Debug)]
struct Entry {
    problem: Problem,
    since: Instant,
    met: Instant,
    open: bool,
    /// When it was last logged, and how long it then stays quiet.
    logged: Instant,
    pause: Duration,
    /// Whether this opening was logged, so that its end is.
    told: bool,
}

/// The faults that a program has met.
#[derive(Debug, Default)]
pub struct Faults {
    entries: BTreeMap<Place, Entry>,
}

impl Faults {
    /// An operation failed. Returns the fault if a warning is due.
    pub fn met(&mut self, place: &Place, problem: Problem, now: Instant) -> Option<Fault> {
        self.close_quiet(now);
        if !self.entries.contains_key(place) && !self.make_room() {
            return None;
        }
        let entry = self.entries.entry(place.clone()).or_insert_with(|| Entry {
            problem: problem.clone(),
            since: now,
            met: now,
            open: false,
            logged: now.checked_sub(LOG_PAUSE).unwrap_or(now),
            pause: Duration::ZERO,
            told: false,
        });
        if !entry.open {
            (entry.open, entry.since, entry.told) = (true, now, false);
        }
        (entry.met, entry.problem) = (now, problem);
        if now < entry.logged + entry.pause {
            return None;
        }
        (entry.logged, entry.told) = (now, true);
        entry.pause = (entry.pause * 2).clamp(LOG_PAUSE, LOG_PAUSE_LIMIT);
        Some(fault(place, entry, now))
    }

    /// An operation succeeded. Returns how long it had failed if the end of a fault has to be logged.
    pub fn works(&mut self, place: &Place, now: Instant) -> Option<Duration> {
        let entry = self.entries.get_mut(place).filter(|entry| entry.open)?;
        entry.open = false;
        entry.told.then(|| now.saturating_duration_since(entry.since))
    }

    /// The connection was made anew: what the user may subscribe to is found out again.
    pub fn connected_anew(&mut self) {
        for (_, entry) in self.entries.iter_mut().filter(|(place, _)| matches!(place, Place::Subscribe(_))) {
            entry.open = false;
        }
    }

    /// The open faults.
    pub fn open(&mut self, now: Instant) -> Vec<Fault> {
        self.close_quiet(now);
        let open = self.entries.iter().filter(|(_, entry)| entry.open);
        open.map(|(place, entry)| fault(place, entry, now)).collect()
    }

    fn close_quiet(&mut self, now: Instant) {
        for (place, entry) in &mut self.entries {
            if now >= entry.met + QUIET && !matches!(place, Place::Subscribe(_)) {
                entry.open = false;
            }
        }
        // A fault that comes and goes keeps its pauses between log lines.
        self.entries.retain(|_, entry| entry.open || now < entry.logged + entry.pause);
    }

    /// Whether there is room for one more place. Closed ones go first.
    fn make_room(&mut self) -> bool {
        if self.entries.len() >= MOST {
            self.entries.retain(|_, entry| entry.open);
        }
        self.entries.len() < MOST
    }
}

fn fault(place: &Place, entry: &Entry, now: Instant) -> Fault {
    Fault {
        place: place.clone(),
        problem: entry.problem.clone(),
        lasts: now.saturating_duration_since(entry.since),
    }
}

impl Place {
    /// What fails, without names from outside: a label of a metric.
    pub fn label(&self) -> &str {
        match self {
            Self::Store(stream) | Self::Read(stream) | Self::Purge(stream) | Self::Pull { stream, .. } => {
                stream
            }
            Self::Publish(_) | Self::Subscribe(_) => "permissions",
            Self::Connection => "connection",
        }
    }
}

impl Problem {
    /// A label of a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Full(_) => "full",
            Self::Missing => "missing",
            Self::Silent => "silent",
            Self::Failing(_) => "failing",
            Self::Forbidden => "forbidden",
            Self::Breaking => "breaking",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(stream) => write!(f, "the stream {stream} stores nothing"),
            Self::Read(stream) => write!(f, "the stream {stream} cannot be read"),
            Self::Purge(stream) => write!(f, "the acknowledged requests of {stream} are not removed"),
            Self::Pull { stream, consumer } => {
                write!(f, "the consumer {consumer} of {stream} delivers nothing")
            }
            Self::Publish(subject) => write!(f, "NATS refuses what is published on {subject}"),
            Self::Subscribe(subject) => write!(f, "NATS refuses the subscription to {subject}"),
            Self::Connection => f.write_str("the connection to NATS ends again and again"),
        }
    }
}

/// What is wrong, for how long, and what to do.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lasts = humantime::format_duration(Duration::from_secs(self.lasts.as_secs()));
        write!(f, "{}, for {lasts}: {}", self.place, self.reason())
    }
}

impl Fault {
    fn reason(&self) -> String {
        match (&self.problem, &self.place) {
            (Problem::Full(text), Place::Store(stream)) => {
                let key = size_key(stream);
                format!("it is full ({text}). Remove messages, or raise {key} and run `tidegate apply`")
            }
            (Problem::Full(text), _) => format!("there is no room ({text})"),
            (Problem::Missing, Place::Purge(_)) => {
                "the stream or its consumer does not exist. If it was deleted, run `tidegate apply`".to_owned()
            }
            (Problem::Missing, Place::Pull { .. }) => {
                "it does not exist, or has no leader. If it was deleted, run `tidegate apply`".to_owned()
            }
            (Problem::Missing, _) => {
                "it does not exist, or has no leader. If it was deleted, run `tidegate apply`; what was in it is lost"
                    .to_owned()
            }
            (Problem::Silent, _) => {
                "the broker does not answer in time. Look at its disk, its load and its log".to_owned()
            }
            (Problem::Failing(text), _) => {
                format!("the broker answers {text:?}. Look at its disk and its log")
            }
            (Problem::Breaking, _) => "look at the broker's log".to_owned(),
            (Problem::Forbidden, _) => "the user has no right to it. Compare the accounts in nats.conf with what `tidegate \
                nats-config` prints"
                .to_owned(),
        }
    }
}

/// The key that says how large a stream may become.
fn size_key(stream: &str) -> Cow<'static, str> {
    match (stream.strip_prefix(REQUESTS), stream) {
        (Some(route), _) => format!("max_bytes of the route {route:?}").into(),
        (None, REPLY) => "streams.reply_max_bytes (or lower streams.result_ttl)".into(),
        (None, _) => "the broker's max_file (nats.conf) or the stream's limits".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Place {
        Place::Store(REPLY.to_owned())
    }

    fn full() -> Problem {
        Problem::Full("maximum bytes exceeded".to_owned())
    }

    fn after(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn a_fault_says_what_is_wrong_for_how_long_and_what_to_do() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        faults.met(&answers(), full(), start);
        faults.met(&answers(), full(), after(start, 20));
        let open: Vec<String> = faults.open(after(start, 45)).iter().map(Fault::to_string).collect();
        assert_eq!(
            open,
            [
                "the stream TIDE_REPLY stores nothing, for 45s: it is full (maximum bytes exceeded). Remove messages, or raise \
              streams.reply_max_bytes (or lower streams.result_ttl) and run `tidegate apply`"
            ]
        );
    }

    #[test]
    fn it_is_logged_at_once_and_then_ever_more_rarely() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        let logged: Vec<u64> = (0..4 * 3600)
            .filter(|second| faults.met(&answers(), full(), after(start, *second)).is_some())
            .collect();
        assert_eq!(logged, [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980]);
    }

    #[test]
    fn success_ends_it_and_is_logged_once() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        assert_eq!(faults.works(&answers(), start), None);
        faults.met(&answers(), full(), start);
        assert_eq!(faults.works(&answers(), after(start, 5)), Some(Duration::from_secs(5)));
        assert_eq!(faults.works(&answers(), after(start, 6)), None);
        assert_eq!(faults.open(after(start, 6)), []);
    }

    #[test]
    fn one_that_comes_and_goes_does_not_fill_the_log() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        let mut lines = 0;
        for second in 0..60 {
            lines += usize::from(faults.met(&answers(), full(), after(start, second)).is_some());
            lines += usize::from(faults.works(&answers(), after(start, second)).is_some());
        }
        assert_eq!(lines, 2);
    }

    #[test]
    fn one_that_is_not_met_again_is_over() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        faults.met(&answers(), Problem::Missing, start);
        assert_eq!(faults.open(after(start, QUIET.as_secs() - 1)).len(), 1);
        assert_eq!(faults.open(start + QUIET).len(), 0);
    }

    #[test]
    fn a_refused_subscription_stays_a_fault_until_the_connection_is_made_anew() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        faults.met(&Place::Subscribe("tide.live.>".to_owned()), Problem::Forbidden, start);
        assert_eq!(faults.open(after(start, 86_400)).len(), 1);
        faults.connected_anew();
        assert_eq!(faults.open(after(start, 86_401)).len(), 0);
    }

    #[test]
    fn subjects_without_number_do_not_fill_the_memory() {
        let (mut faults, start) = (Faults::default(), Instant::now());
        for number in 0..10 * MOST {
            faults.met(&Place::Publish(format!("tide.in.{number}")), Problem::Forbidden, start);
        }
        assert_eq!(faults.open(start).len(), MOST);
        assert!(faults.met(&answers(), full(), start + QUIET).is_some(), "old ones make room");
    }
}
