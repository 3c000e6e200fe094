//! The machine's monotonic clock, which all processes share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine's start.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or_default() * 1_000_000_000 + nanos.unwrap_or_default()
}

/// Nanoseconds of so many milliseconds.
pub(crate) const fn millis(count: u64) -> u64 {
    count * 1_000_000
}
