//! Several answers in one message: those that a worker hands to one gateway at the same time.
//!
//! Of each, one after the other: a line with two numbers, the lengths of its headers and of its body; its headers, each
//! `<name>: <value>` and a line feed; its body.

use bytes::Bytes;

use super::Answer;

/// The longest first line: two numbers.
const LONGEST_LINE: usize = 24;

/// Several answers.
#[derive(Debug, Default)]
pub struct Together {
    text: Vec<u8>,
    headers: String,
    count: usize,
}

impl Together {
    /// The most answers that a message should have.
    pub const MOST: usize = 256;

    /// Adds an answer.
    pub fn add(&mut self, answer: &Answer) {
        let Self { text, headers, count } = self;
        headers.clear();
        answer.each_header(|name, value| {
            for part in [name, ": ", value, "\n"] {
                headers.push_str(part);
            }
        });
        let body = answer.body();
        text.extend_from_slice(format!("{} {}\n", headers.len(), body.len()).as_bytes());
        text.extend_from_slice(headers.as_bytes());
        text.extend_from_slice(&body);
        *count += 1;
    }

    /// How many answers there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bytes so far.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The body of the message.
    pub fn into_body(self) -> Bytes {
        self.text.into()
    }

    /// Reads such a body. `None` if it is malformed, or has more answers than a message should. An answer that cannot be read is
    /// none.
    pub fn read(mut body: &[u8]) -> Option<Vec<Option<Answer>>> {
        let mut answers = Vec::new();
        while !body.is_empty() {
            let end = body.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n')?;
            let (line, rest) = body.split_at_checked(end)?;
            let (headers, length) = std::str::from_utf8(line).ok()?.split_once(' ')?;
            let (headers, rest) = rest.get(1..)?.split_at_checked(headers.parse().ok()?)?;
            let (answer, rest) = rest.split_at_checked(length.parse().ok()?)?;
            if answers.len() == Self::MOST {
                return None;
            }
            // A copy: a caller that takes its answer late must not keep those of all others in memory.
            answers.push(read_one(std::str::from_utf8(headers).ok()?, Bytes::copy_from_slice(answer)));
            body = rest;
        }
        Some(answers)
    }
}

fn read_one(headers: &str, body: Bytes) -> Option<Answer> {
    let headers: Vec<_> = headers.lines().filter_map(|line| line.split_once(": ")).collect();
    let value = |name| headers.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
    Answer::read_from(value, body).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        envelope::Outcome,
        id::{GatewayId, RequestId},
        trace::Trace,
    };

    fn answer(ok: bool, user: Option<String>, message: String, body: Vec<u8>) -> Answer {
        let outcome = if ok {
            Outcome::Ok(body.into())
        } else {
            Outcome::Error { code: 400, message, data: Bytes::new() }
        };
        Answer {
            re: RequestId::plain(&GatewayId::random()),
            user,
            digest: None,
            attempt: 1,
            worker: "w".to_owned(),
            letter: (!ok).then_some(3),
            redriven: None,
            trace: Some(Trace::random()),
            outcome,
        }
    }

    proptest! {
        #[test]
        fn answers_survive_the_journey_together(all in prop::collection::vec((any::<bool>(), prop::option::of("[!-~]{1,9}"), "[!-~]([ -~]{0,20}[!-~])?", any::<Vec<u8>>()), 0..9)) {
            let answers: Vec<_> = all.into_iter().map(|(ok, user, message, body)| answer(ok, user, message, body)).collect();
            let mut together = Together::default();
            for answer in &answers {
                together.add(answer);
            }
            prop_assert_eq!(together.count(), answers.len());
            let read = Together::read(&together.into_body()).unwrap();
            prop_assert_eq!(read, answers.into_iter().map(Some).collect::<Vec<_>>());
        }

        #[test]
        fn whatever_a_worker_sends_is_read_or_refused(body: Vec<u8>, text in "([0-9]{1,3} [0-9]{1,2}\n.{0,30}){0,4}") {
            let _ = (Together::read(&body), Together::read(text.as_bytes()));
        }
    }

    #[test]
    fn what_is_malformed_is_none_and_an_answer_that_cannot_be_read_costs_no_other() {
        for wrong in ["x", "1\n", "1 \n", "9 9\nshort", "18446744073709551615 1\nx", "-1 0\n"] {
            assert_eq!(Together::read(wrong.as_bytes()), None, "{wrong}");
        }
        let mut together = Together::default();
        together.add(&answer(true, None, String::new(), b"1".to_vec()));
        let mut body = b"5 1\nA: b\n1".to_vec();
        body.extend_from_slice(&together.into_body());
        let read = Together::read(&body).unwrap();
        assert!(matches!(&read[..], [None, Some(_)]), "{read:?}");
        assert_eq!(Together::read(&b"0 0\n".repeat(Together::MOST + 1)), None);
    }
}
