//! What a gateway replies to a worker that hands it the answer to a plain request.
//!
//! No reply at all means that the gateway is gone, cut off or slow: the worker stores the answer and asks again.

/// A gateway's word on an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The waiting call has it.
    Taken,
    /// The request was answered before: this answer is a copy, or the second of two.
    Known,
    /// No call waits for it any more.
    Late,
}

impl Confirmation {
    /// The payload of the reply.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Known => "known",
            Self::Late => "late",
        }
    }

    /// Reads a reply. `None` for one that says something else.
    pub fn read(payload: &[u8]) -> Option<Self> {
        [Self::Taken, Self::Known, Self::Late].into_iter().find(|word| word.as_str().as_bytes() == payload)
    }

    /// The payload of the reply to several answers: a line for each, which is empty where there is no word.
    pub fn lines(words: &[Option<Self>]) -> String {
        let lines: Vec<_> = words.iter().map(|word| word.map_or("", Self::as_str)).collect();
        lines.join("\n")
    }

    /// Reads the reply to so many answers. One that is malformed has no word at all.
    pub fn read_lines(payload: &[u8], count: usize) -> Vec<Option<Self>> {
        let words: Vec<_> = payload.split(|byte| *byte == b'\n').map(Self::read).collect();
        if words.len() == count { words } else { vec![None; count] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_word_survives_the_journey() {
        for word in [Confirmation::Taken, Confirmation::Known, Confirmation::Late] {
            assert_eq!(Confirmation::read(word.as_str().as_bytes()), Some(word));
        }
        assert_eq!(Confirmation::read(b"perhaps"), None);
    }

    #[test]
    fn so_do_its_words_on_several_answers() {
        let words = [Some(Confirmation::Taken), None, Some(Confirmation::Late), None];
        assert_eq!(Confirmation::read_lines(Confirmation::lines(&words).as_bytes(), 4), words);
        assert_eq!(Confirmation::read_lines(b"", 1), [None]);
        assert_eq!(Confirmation::read_lines(b"taken\ntaken", 3), [None; 3], "whose words are they?");
    }
}
