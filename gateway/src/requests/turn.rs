//! Turns keep the order of a connection's messages on their way to the broker, although a keyed request first looks up
//! its answer.

use tokio::sync::oneshot::{self, error::TryRecvError};

/// Hands out the turns of one connection.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: Option<oneshot::Receiver<()>>,
}

/// The turn of one message. It may be sent once everything before it is sent. Dropping it passes the turn on.
#[derive(Debug)]
pub(crate) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _after: oneshot::Sender<()>,
}

impl Turns {
    /// The turn behind all turns handed out so far.
    pub(crate) fn next(&mut self) -> Turn {
        let (after, last) = oneshot::channel();
        Turn { before: self.last.replace(last), _after: after }
    }

    /// Whether everything before the next turn is sent or dropped.
    pub(crate) fn is_free(&mut self) -> bool {
        // A receiver that has said so once cannot be asked again.
        if self.last.as_mut().is_some_and(|last| matches!(last.try_recv(), Err(TryRecvError::Closed))) {
            self.last = None;
        }
        self.last.is_none()
    }

    /// Resets the turns of an idle connection, which frees their memory.
    pub(crate) fn rest(&mut self) {
        self.last = None;
    }
}

impl Turn {
    /// Waits until everything before it is sent or dropped.
    pub(crate) async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // An error means that the turn before was dropped, which is how turns are passed on.
            let _ = before.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_turn_comes_when_the_one_before_it_is_over() {
        let mut turns = Turns::default();
        assert!(turns.is_free());
        let (mut first, mut second) = (turns.next(), turns.next());
        assert!(first.come().now_or_never().is_some());
        assert!(second.come().now_or_never().is_none());
        drop(first);
        assert!(!turns.is_free(), "the second has its turn");
        let mut third = turns.next();
        turns.rest();
        assert!(turns.next().come().now_or_never().is_some());
        assert!(third.come().now_or_never().is_none(), "the second still has its turn");
        drop((second, third));
        let fourth = turns.next();
        drop(fourth);
        assert!(turns.is_free());
        assert!(turns.next().come().now_or_never().is_some(), "also behind one that was found free");
    }
}
