//! Times of day as text, in the format of the broker and of the server API (RFC 3339). Pure.
//!
//! The format has the years 1970 to 9999. Numbers that others wrote into headers are any times: those beyond are shown as the
//! nearest the format has, since its writer panics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last millisecond of the year 9999, in milliseconds since 1970.
const LAST: u64 = 253_402_300_799_999;

/// A time with milliseconds, such as `2026-11-27T02:05:08.250Z`.
pub fn text(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = since.min(Duration::from_millis(LAST));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_beyond_the_format_is_the_nearest_that_it_has() {
        let at = |milliseconds| text(UNIX_EPOCH + Duration::from_millis(milliseconds));
        assert_eq!(at(1_795_745_108_250), "2026-11-27T02:05:08.250Z");
        assert_eq!(at(LAST), "9999-12-31T23:59:59.999Z");
        assert_eq!(at(LAST + 1), "9999-12-31T23:59:59.999Z");
        assert_eq!(at(u64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(text(UNIX_EPOCH.checked_sub(Duration::from_secs(1)).unwrap()), "1970-01-01T00:00:00.000Z");
    }
}
