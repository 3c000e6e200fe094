//! Tells the service manager (systemd) that this process is ready, that it is alive, and that it ends. Where there is none, nothing is
//! said.

use sd_notify::NotifyState;

use crate::lifecycle::Lifecycle;

/// The process serves now. From now on the service manager hears in time that its tasks still run (`WatchdogSec`), and when it drains.
/// Must be called within the runtime whose tasks are meant.
pub fn ready(lifecycle: &Lifecycle) {
    say(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        let watched = lifecycle.clone();
        lifecycle.spawn(async move {
            let mut beats = tokio::time::interval(limit / 2);
            loop {
                tokio::select! {
                    _ = beats.tick() => say(&[NotifyState::Watchdog]),
                    () = watched.finishing() => return,
                }
            }
        });
    }
    let ends = lifecycle.clone();
    lifecycle.spawn(async move {
        tokio::select! {
            biased;
            () = ends.draining() => say(&[NotifyState::Stopping]),
            () = ends.finishing() => {}
        }
    });
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told the state");
    }
}
