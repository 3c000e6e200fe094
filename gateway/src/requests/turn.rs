//! Turns: what a connection sends reaches the broker in the order it was sent, though a keyed request first looks for its
//! answer.

use tokio::sync::oneshot;

/// Hands out the turns of one connection.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: Option<oneshot::Receiver<()>>,
}

/// The right to send once everything before it is sent. Dropping it passes the turn on.
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

    /// Nothing is under way: the next turn has nothing to wait for, and an idle connection keeps nothing.
    pub(crate) fn rest(&mut self) {
        self.last = None;
    }
}

impl Turn {
    /// Waits until everything before it is sent, or given up.
    pub(crate) async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // An error is a turn that was dropped: that is how turns are passed on.
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
        let (mut first, mut second) = (turns.next(), turns.next());
        assert!(first.come().now_or_never().is_some());
        assert!(second.come().now_or_never().is_none());
        drop(first);
        let mut third = turns.next();
        turns.rest();
        assert!(turns.next().come().now_or_never().is_some());
        assert!(third.come().now_or_never().is_none(), "the second still has its turn");
    }
}
