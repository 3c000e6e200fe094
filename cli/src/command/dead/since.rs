//! A point in time as a person writes it: `2h` (ago), or `2026-01-31T12:00:00Z`.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// So long ago.
    Ago(Duration),
    /// At this time.
    At(SystemTime),
}

impl Since {
    /// The time as the server API takes it.
    pub(super) fn before(self, now: SystemTime) -> String {
        let time = match self {
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(time) => time,
        };
        humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string()
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ago = humantime::parse_duration(text).map(Self::Ago);
        ago.or_else(|_| humantime::parse_rfc3339_weak(text).map(Self::At))
            .map_err(|_| "a duration such as 2h or a time such as 2026-01-31T12:00:00Z is needed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_as_such_or_as_so_long_ago() {
        let now = humantime::parse_rfc3339("2026-01-31T12:00:00Z").unwrap();
        for (text, time) in [
            ("2h", "2026-01-31T10:00:00.000Z"),
            ("2026-01-30 00:00:00", "2026-01-30T00:00:00.000Z"),
            ("9000y", "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(text.parse::<Since>().unwrap().before(now), time);
        }
        assert!("yesterday".parse::<Since>().is_err());
    }
}
