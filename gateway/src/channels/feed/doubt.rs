//! Doubt about a channel's position: after the connection to the broker was lost, messages may have been stored, and may have
//! expired, that never reached this gateway. No live message shows those: the broker no longer knows of them when it names the
//! message before. So the position counts again only when it is compared with the stream. Never reads the stream itself.

use std::sync::atomic::Ordering;

use super::Feed;

/// How a channel's position compares with its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The channel has had no message behind it.
    Current,
    /// The stream has this message behind it.
    Behind(u64),
    /// A message behind it may have been stored and have expired.
    Unknown,
}

/// Compares a position with the sequence of the newest message that the stream has of the channel. `whole` says that the stream
/// still has everything that was stored since the position was last known to be current.
pub(crate) fn standing(position: u64, newest: Option<u64>, whole: bool) -> Standing {
    match newest {
        Some(newest) if newest > position => Standing::Behind(newest),
        // What was stored later would expire later.
        Some(_) => Standing::Current,
        None if whole => Standing::Current,
        None => Standing::Unknown,
    }
}

impl Feed {
    /// Notes the number of the connection to the broker over which the channel is received. A newer one than before puts the
    /// position in doubt.
    pub(crate) fn received_on(&self, connection: u64) {
        if self.connection() >= connection {
            return;
        }
        let mut state = self.state.lock();
        let before = self.connection.fetch_max(connection, Ordering::AcqRel);
        if let Some(track) = &mut state.track
            && before < connection
        {
            track.doubted = true;
        }
    }

    /// Notes that the position was compared with the stream, and was current, when the broker was reached over this connection.
    pub(crate) fn trust(&self, connection: u64) {
        let mut state = self.state.lock();
        if let Some(track) = &mut state.track
            && self.connection() == connection
        {
            track.doubted = false;
        }
    }

    /// The number of the connection over which the channel is received.
    pub(super) fn connection(&self) -> u64 {
        self.connection.load(Ordering::Acquire)
    }

    /// Whether the position is in doubt.
    pub(crate) fn is_doubted(&self) -> bool {
        self.state.lock().track.as_ref().is_some_and(|track| track.doubted)
    }
}
