//! Answers to plain requests that are handed to one gateway at the same time go in one message, and so do the gateway's words on
//! them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{Request, RequestErrorKind};
use futures_util::future::join_all;
use tidegate_shared::{
    broker::Broker,
    confirmation::Confirmation,
    envelope::{Answer, Together},
    id::GatewayId,
    subject::Subjects,
};
use tokio::sync::oneshot;

use crate::gather::Gather;

/// How long a gateway may take for its words.
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(1);
/// A longer answer goes alone, as does one that is longer than a part of what the broker takes.
const LONGEST: usize = 16 << 10;
/// As many of the longest go in two messages.
const PART: usize = 8;

/// What a gateway said about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Word(Confirmation),
    /// No gateway has this subject.
    Nobody,
    /// No word in time.
    Silence,
}

/// Who hears what is said about one answer. `None` if that is nothing, but something about others.
type Asks = oneshot::Sender<Option<Heard>>;

/// Hands answers over.
#[derive(Debug)]
pub(crate) struct HandOvers(Gather<HandOver>);

#[derive(Debug)]
struct HandOver {
    answer: Arc<Answer>,
    heard: Asks,
}

impl HandOvers {
    /// Starts on this runtime.
    pub(crate) fn start(broker: &Broker, subjects: &Subjects) -> Self {
        let (broker, subjects) = (broker.clone(), subjects.clone());
        Self(Gather::start(Together::MOST, move |answers| send(broker.clone(), subjects.clone(), answers)))
    }

    /// Hands an answer over, with others that come at the same time. `None` if the gateway has said nothing about this one yet, but
    /// about others.
    pub(crate) async fn ask(&self, answer: Arc<Answer>) -> Option<Heard> {
        let (heard, hears) = oneshot::channel();
        self.0.add(HandOver { answer, heard }).await;
        hears.await.unwrap_or(Some(Heard::Silence))
    }
}

async fn send(broker: Broker, subjects: Subjects, answers: Vec<HandOver>) {
    let (broker, subjects) = (&broker, &subjects);
    let longest = LONGEST.min(broker.client().max_payload() / PART);
    let (mut alone, mut gateways) = (Vec::new(), HashMap::<_, Vec<_>>::new());
    for one in answers {
        if one.answer.body().len() > longest {
            alone.push(one);
        } else {
            gateways.entry(one.answer.re.gateway()).or_default().push(one);
        }
    }
    let alone = alone.into_iter().map(|one| ask_one(broker, subjects, one));
    let together = gateways.into_iter().map(|(gateway, mut answers)| async move {
        if let [_] = answers[..]
            && let Some(one) = answers.pop()
        {
            return ask_one(broker, subjects, one).await;
        }
        let parts = parts(answers, longest * PART / 2).into_iter();
        join_all(parts.map(|part| ask_together(broker, subjects, &gateway, part))).await;
    });
    tokio::join!(join_all(alone), join_all(together));
}

/// Divides answers so that no message is too long.
fn parts(answers: Vec<HandOver>, most_bytes: usize) -> Vec<(Together, Vec<Asks>)> {
    let mut parts = Vec::new();
    let mut part = (Together::default(), Vec::new());
    for HandOver { answer, heard } in answers {
        part.0.add(&answer);
        part.1.push(heard);
        if part.0.len() >= most_bytes {
            parts.push(std::mem::take(&mut part));
        }
    }
    if !part.0.is_empty() {
        parts.push(part);
    }
    parts
}

async fn ask_together(
    broker: &Broker,
    subjects: &Subjects,
    gateway: &GatewayId,
    (together, waiting): (Together, Vec<Asks>),
) {
    let (count, subject) = (together.count(), subjects.answers_together(gateway));
    let question = Request::new().payload(together.into_body());
    let heard = match ask(broker, subject, question).await {
        Ok(words) => {
            let words = Confirmation::read_lines(&words, count).into_iter();
            words.map(|word| word.map(Heard::Word)).collect()
        }
        Err(heard) => vec![Some(heard); count],
    };
    for (one, heard) in waiting.into_iter().zip(heard) {
        // It may have been cut off.
        let _ = one.send(heard);
    }
}

async fn ask_one(broker: &Broker, subjects: &Subjects, one: HandOver) {
    let heard = ask_alone(broker, subjects, &one.answer).await;
    // It may have been cut off.
    let _ = one.heard.send(Some(heard));
}

/// Hands one answer over.
pub(crate) async fn ask_alone(broker: &Broker, subjects: &Subjects, answer: &Answer) -> Heard {
    let question = Request::new().headers(answer.headers()).payload(answer.body());
    match ask(broker, subjects.answer(&answer.re), question).await {
        Ok(word) => Confirmation::read(&word).map_or(Heard::Silence, Heard::Word),
        Err(heard) => heard,
    }
}

async fn ask(broker: &Broker, subject: String, question: Request) -> Result<bytes::Bytes, Heard> {
    // While disconnected the library would keep the question, and the gateway would get it long after the answer.
    if !broker.is_connected() {
        return Err(Heard::Silence);
    }
    match broker.client().send_request(subject, question.timeout(Some(ASK_LIMIT))).await {
        Ok(reply) => Ok(reply.payload),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(Heard::Nobody),
        Err(error) => {
            tracing::debug!(%error, "no gateway has confirmed an answer");
            Err(Heard::Silence)
        }
    }
}
