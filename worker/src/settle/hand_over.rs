//! Handing the answer to a plain request to the gateway whose client waits. Nothing is stored if the gateway confirms it.
//!
//! If it does not, the answer is stored, so that the gateway finds it when it is back or when the caller's time is over; and the
//! gateway is asked again. If no gateway says a word until the caller's time is over, the worker brings the answer to the user's
//! personal channel. The request is acknowledged after that only: if this worker dies meanwhile, another one goes on with the
//! stored answer.

use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind};
use tidegate_shared::{confirmation::Confirmation, envelope::Answer};
use tokio::time::Instant;

use super::Settlement;
use crate::{backoff::Pauses, store::Rejected};

/// How long a gateway may take for its word.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// The pause before the gateway is asked again, doubled each time up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How much later than the caller's deadline the gateway is asked for the last time.
const MARGIN: Duration = Duration::from_millis(500);

/// What a gateway said about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Word(Confirmation),
    /// No gateway has this subject.
    Nobody,
    /// No word in time.
    Silence,
}

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
        let headers = answer.headers();
        self.engine.broker.check_size(&headers, answer.body().len()).map_err(Rejected::of)?;
        let over = Instant::now() + self.caller_waits() + MARGIN;
        let (mut pauses, mut stored, mut waiting) = (Pauses::new(FIRST_PAUSE), stored, None);
        for asked in 1.. {
            let heard = self.ask(&answer, &headers).await;
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
                stored = fits && matches!(self.try_to_keep(&answer, &headers).await, Ok(Some(_)));
            }
            tokio::time::sleep(pauses.failed()).await;
        }
        Ok(())
    }

    async fn ask(&self, answer: &Answer, headers: &HeaderMap) -> Heard {
        // While disconnected the library would keep the question, and the gateway would get it long after the answer.
        if !self.engine.broker.is_connected() {
            return Heard::Silence;
        }
        let subject = self.engine.subjects.answer(&answer.re);
        let question =
            Request::new().headers(headers.clone()).payload(answer.body()).timeout(Some(ASK_LIMIT));
        match self.engine.broker.client().send_request(subject, question).await {
            Ok(reply) => Confirmation::read(&reply.payload).map_or(Heard::Silence, Heard::Word),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Heard::Nobody,
            Err(error) => {
                tracing::debug!(request.id = %answer.re, trace.id = %self.trace, %error, "no gateway has confirmed an answer");
                Heard::Silence
            }
        }
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
