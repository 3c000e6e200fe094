//! The mark in every payload: when it was meant to be sent, and its number in its channel. Pure.
//!
//! Deliveries are counted by finding marks, without reading JSON. The time is that of the machine's monotonic clock, which all
//! processes share.

use memchr::memmem;

/// What no server writes by itself.
const SIGN: &[u8] = b"tidemark:";
/// Hexadecimal digits of the time in nanoseconds and of the number.
const TIME: usize = 16;
const NUMBER: usize = 8;

/// A mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) nanos: u64,
    pub(super) number: u32,
}

/// Returns a payload (JSON) with a mark, of about this many bytes.
pub(super) fn payload(mark: Mark, size: usize) -> String {
    let head = format!(r#"{{"m":"tidemark:{:016x}{:08x}","pad":""#, mark.nanos, mark.number);
    let pad = size.saturating_sub(head.len() + 2);
    format!("{head}{:x<pad$}\"}}", "")
}

/// Finds the marks of a text, with what stands behind each.
pub(super) fn marks(text: &[u8]) -> impl Iterator<Item = (Mark, &[u8])> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let behind = rest.get(memmem::find(rest, SIGN)? + SIGN.len()..)?;
            rest = behind;
            let (time, behind) = behind.split_at_checked(TIME)?;
            let (number, behind) = behind.split_at_checked(NUMBER)?;
            // What only looks like a mark is none.
            if let (Some(nanos), Some(number)) = (hex(time), hex(number)) {
                rest = behind;
                return Some((Mark { nanos, number: u32::try_from(number).ok()? }, behind));
            }
        }
    })
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((value << 4) | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_of_a_joined_message_is_found() {
        let marks_in: Vec<_> =
            (0_u32..5).map(|n| Mark { nanos: u64::MAX - u64::from(n), number: 7 + n }).collect();
        let text: Vec<_> = marks_in.iter().map(|mark| payload(*mark, 100)).collect();
        let text = text.join("\n");
        assert_eq!(marks(text.as_bytes()).map(|(mark, _)| mark).collect::<Vec<_>>(), marks_in);
    }

    #[test]
    fn a_payload_has_its_size_and_is_json() {
        let text = payload(Mark { nanos: 1, number: 2 }, 128);
        assert_eq!(text.len(), 128);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn what_is_cut_off_or_not_hexadecimal_is_no_mark() {
        let text = payload(Mark { nanos: 1, number: 2 }, 64);
        assert_eq!(marks(&text.as_bytes()[..30]).count(), 0);
        assert_eq!(marks(b"tidemark:tidemark:0000000000000001zzzzzzzz").count(), 0);
    }
}
