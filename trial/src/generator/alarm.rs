//! Wakes the loop at a time, to the microsecond. The wait of epoll counts in milliseconds, which is longer than the times that are
//! measured.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer of the kernel.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    set: u64,
}

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> anyhow::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set: 0 })
    }

    /// Sets it to a time of the monotonic clock, in nanoseconds.
    pub(super) fn set(&mut self, at: u64) -> anyhow::Result<()> {
        if at == self.set {
            return Ok(());
        }
        let it_value = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000)?,
            // Zero would mean never.
            tv_nsec: i64::try_from(at % 1_000_000_000)?.max(1),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        self.set = at;
        Ok(())
    }
}
