//! Handing the answer to a plain request to the gateway whose client waits. Nothing is stored if the gateway confirms it.
//!
//! If it does not, the answer is stored, so that the gateway finds it when it is back or when the caller's time is over; and the
//! gateway is asked again. If no gateway says a word until the caller's time is over, the worker brings the answer to the user's
//! personal channel. The request is acknowledged after that only: if this worker dies meanwhile, another one goes on with the
//! stored answer.

use std::{sync::Arc, time::Duration};

use tidegate_shared::{broker::HEADERS_LIMIT, confirmation::Confirmation, envelope::Answer};
use tokio::time::Instant;

use super::Settlement;
use crate::{
    backoff::Pauses,
    hand_overs::{Heard, ask_alone},
    store::Rejected,
};

/// The pause before the gateway is asked again, doubled each time up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How much later than the caller's deadline the gateway is asked for the last time.
const MARGIN: Duration = Duration::from_millis(500);

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The caller has its answer.
    Done,
    /// Nobody waits any more: the answer goes to the user's personal channel.
    ToUser,
    /// Ask again later.
    Again,
}

/// `asked` is how often the gateway was asked, `over` whether the caller's time is over. The first silence is never the last
/// word: a gateway may be cut off for a moment.
fn next(heard: Heard, asked: u32, over: bool) -> Next {
    match heard {
        Heard::Word(Confirmation::Taken | Confirmation::Known) => Next::Done,
        Heard::Word(Confirmation::Late) => Next::ToUser,
        Heard::Nobody | Heard::Silence if over && asked > 1 => Next::ToUser,
        Heard::Nobody | Heard::Silence => Next::Again,
    }
}

impl Settlement {
    /// Hands an answer over, and returns when it is certain where it went. `stored` says that it was stored by an earlier
    /// delivery.
    pub(super) async fn hand_over(&self, answer: Answer, stored: bool) -> Result<(), Rejected> {
        let (engine, answer) = (&self.engine, Arc::new(answer));
        // A short answer fits whatever its headers are.
        if answer.body().len() + HEADERS_LIMIT > engine.broker.client().max_payload() {
            engine.broker.check_size(&answer.headers(), answer.body().len()).map_err(Rejected::of)?;
        }
        let over = Instant::now() + self.caller_waits() + MARGIN;
        let (mut pauses, mut stored, mut waiting) = (Pauses::new(FIRST_PAUSE), stored, None);
        for asked in 1.. {
            let first = if asked == 1 { engine.hand_overs.ask(Arc::clone(&answer)).await } else { None };
            let heard = match first {
                Some(heard) => heard,
                None => ask_alone(&engine.broker, &engine.subjects, &answer).await,
            };
            match next(heard, asked, Instant::now() >= over) {
                Next::Done => return Ok(()),
                Next::ToUser => {
                    self.publish_on_personal_channel(&answer).await;
                    return Ok(());
                }
                Next::Again => {}
            }
            self.stop_working(&answer);
            waiting.get_or_insert_with(|| self.engine.metrics.unconfirmed());
            if !stored {
                // Too long for the result cache, or no room in it: the gateway is asked again all the same.
                let fits = answer.body().len() as u64 <= self.engine.config.streams.answer_max_bytes;
                stored = fits && matches!(self.try_to_keep(&answer, &answer.headers()).await, Ok(Some(_)));
            }
            tokio::time::sleep(pauses.failed()).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_gateways_word() {
        for (heard, asked, over, follows) in [
            (Heard::Word(Confirmation::Taken), 1, false, Next::Done),
            (Heard::Word(Confirmation::Known), 1, true, Next::Done),
            (Heard::Word(Confirmation::Late), 1, false, Next::ToUser),
            (Heard::Nobody, 1, false, Next::Again),
            (Heard::Silence, 9, false, Next::Again),
            (Heard::Nobody, 1, true, Next::Again),
            (Heard::Nobody, 2, true, Next::ToUser),
            (Heard::Silence, 2, true, Next::ToUser),
        ] {
            assert_eq!(next(heard, asked, over), follows, "{heard:?} {asked} {over}");
        }
    }
}
