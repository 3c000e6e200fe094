//! When a schedule fires, as the broker is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;

use super::{
    cron,
    record::{milliseconds, time_at},
};
use crate::{envelope::get, header, moment};

/// The shortest interval, which is the broker's.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest interval.
const LONGEST: Duration = Duration::from_hours(24 * 3653);
/// The longest name of a time zone.
const MAX_ZONE: usize = 64;

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// At the times of a cron line, in a time zone; UTC without one.
    Cron {
        /// Six fields, or a word.
        line: String,
        /// An IANA name such as `Europe/Berlin`.
        zone: Option<String>,
    },
    /// Again and again, so long after it was set and after each firing. Whole seconds.
    Every(Duration),
    /// Once, at this time.
    At(SystemTime),
}

impl When {
    /// The times of a cron line. The error is a sentence.
    pub fn cron(line: &str, zone: Option<&str>) -> Result<Self, String> {
        let line = cron::parse(line).map_err(|problem| format!("cron: {problem}"))?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'/');
        if let Some(zone) = zone
            && (zone.is_empty() || zone.len() > MAX_ZONE || !zone.bytes().all(plain))
        {
            return Err(format!("time_zone: {zone:?} is not a time zone: use a name such as Europe/Berlin"));
        }
        Ok(Self::Cron { line, zone: zone.map(str::to_owned) })
    }

    /// An interval. The error is a sentence.
    pub fn every(text: &str) -> Result<Self, String> {
        let interval = humantime::parse_duration(text).map_err(|error| {
            format!("every: {error}: an interval is a duration such as \"5m\" or \"1h 30m\"")
        })?;
        Self::interval(interval)
    }

    /// An interval. The error is a sentence.
    pub fn interval(interval: Duration) -> Result<Self, String> {
        if interval < SHORTEST || interval.subsec_nanos() > 0 {
            return Err("every: an interval has whole seconds, and at least one".to_owned());
        }
        if interval > LONGEST {
            return Err("every: an interval has at most ten years".to_owned());
        }
        Ok(Self::Every(interval))
    }

    /// Once, at this time, in the precision of the broker.
    pub fn once(time: SystemTime) -> Self {
        Self::At(time_at(milliseconds(time)))
    }

    /// Whether it fires once.
    pub fn is_once(&self) -> bool {
        matches!(self, Self::At(_))
    }

    /// When the broker fires next, if it was set or has fired at this time. `None` if only the broker knows: it has the time zones.
    pub fn following(&self, fired: SystemTime) -> Option<SystemTime> {
        let since = fired.duration_since(UNIX_EPOCH).ok()?;
        match self {
            Self::At(time) => Some(*time),
            Self::Every(interval) => {
                let nearest = (since + Duration::from_millis(500)).as_secs();
                UNIX_EPOCH.checked_add(Duration::from_secs(nearest).checked_add(*interval)?)
            }
            Self::Cron { line, zone: None } => {
                cron::next(line, since.as_secs()).map(|next| UNIX_EPOCH + Duration::from_secs(next))
            }
            Self::Cron { zone: Some(_), .. } => None,
        }
    }

    /// The cron line as a person writes it.
    pub fn shown_line(line: &str) -> &str {
        cron::shown(line)
    }

    /// Tells the broker.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let pattern = match self {
            Self::Cron { line, .. } => line.clone(),
            Self::Every(interval) => format!("{EVERY}{}s", interval.as_secs()),
            Self::At(time) => format!("{AT}{}", moment::text(*time)),
        };
        headers.insert(header::SCHEDULE, pattern);
        if let Self::Cron { zone: Some(zone), .. } = self {
            headers.insert(header::SCHEDULE_TIME_ZONE, zone.as_str());
        }
        if !self.is_once() {
            // If a firing still waits for a gateway, the next one takes its place.
            headers.insert(header::SCHEDULE_ROLLUP, ROLLUP_SUBJECT);
        }
    }

    /// Reads what the broker was told.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let pattern = get(headers, header::SCHEDULE)?;
        if let Some(interval) = pattern.strip_prefix(EVERY) {
            return Some(Self::Every(Duration::from_secs(interval.strip_suffix('s')?.parse().ok()?)));
        }
        if let Some(time) = pattern.strip_prefix(AT) {
            return humantime::parse_rfc3339(time).ok().map(Self::At);
        }
        let zone = get(headers, header::SCHEDULE_TIME_ZONE).map(str::to_owned);
        Some(Self::Cron { line: pattern.to_owned(), zone })
    }
}

const EVERY: &str = "@every ";
const AT: &str = "@at ";
/// Replaces the earlier messages of the same subject.
pub(super) const ROLLUP_SUBJECT: &str = "sub";

/// Reads a time of the broker, which may be of another zone than UTC.
pub(super) fn time_of_day(text: &str) -> Option<SystemTime> {
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60;
    let offset = Duration::from_secs(seconds);
    if text.get(text.len() - 6..)?.starts_with('-') {
        local.checked_add(offset)
    } else {
        local.checked_sub(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_whole_seconds_and_at_least_one() {
        assert_eq!(When::every("1h 30m"), Ok(When::Every(Duration::from_mins(90))));
        for (text, words) in [
            ("0s", "at least one"),
            ("500ms", "whole seconds"),
            ("1500ms", "whole seconds"),
            ("11y", "ten years"),
            ("5", "a duration such as"),
            ("", "a duration such as"),
        ] {
            let error = When::every(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_time_zone_is_one_plain_word() {
        assert!(When::cron("0 3 * * *", Some("America/Argentina/Buenos_Aires")).is_ok());
        for zone in ["", "a b", "x\r\ny", "\u{e4}", &"x".repeat(65)] {
            assert!(When::cron("0 3 * * *", Some(zone)).unwrap_err().starts_with("time_zone"), "{zone:?}");
        }
    }

    #[test]
    fn a_schedules_time_is_read_as_it_was_written() {
        let at = humantime::parse_rfc3339("2030-01-01T00:00:00.250Z").unwrap();
        for when in [
            When::cron("0 3 * * *", Some("Europe/Berlin")).unwrap(),
            When::cron("@daily", None).unwrap(),
            When::every("90s").unwrap(),
            When::At(at),
        ] {
            let mut headers = HeaderMap::new();
            when.write(&mut headers);
            assert_eq!(When::read(&headers), Some(when));
        }
    }

    #[test]
    fn an_interval_beyond_all_clocks_has_no_next_time() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SCHEDULE, format!("@every {}s", u64::MAX));
        let when = When::read(&headers).unwrap();
        assert_eq!(when.following(UNIX_EPOCH), None);
        assert_eq!(when.following(SystemTime::now()), None);
    }

    #[test]
    fn times_of_other_zones_are_read() {
        let utc = humantime::parse_rfc3339("2026-11-27T02:05:08Z").unwrap();
        for text in ["2026-11-27T02:05:08Z", "2026-11-27T03:05:08+01:00", "2026-11-26T21:35:08-04:30"] {
            assert_eq!(time_of_day(text), Some(utc), "{text}");
        }
        for text in
            ["", "purge", "2026-11-27T02:05:08+0100", "2026-11-27T02:05:08+xx:00", "\u{e4}\u{e4}\u{e4}"]
        {
            assert_eq!(time_of_day(text), None, "{text}");
        }
    }
}
