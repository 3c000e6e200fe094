//! The frames that the gateway sends (RFC 6455, 5.2): header and payload in one piece, written as they are to every
//! WebSocket that receives them. Pure.
//!
//! Frames that wait for one socket are joined: the client reads one message, the kernel gets one write.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tidegate_shared::protocol::codes::Disconnect;

use super::dialect::Dialect;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The bit of a message's last frame. Every frame here is a whole message.
const FIN: u8 = 0x80;
/// The longest header: server frames have no mask.
const MAX_HEADER: usize = 10;
/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;

/// One whole frame. Cloning it shares its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Frame(Bytes);

/// The bytes of a message that is being written, with room for its header before them.
pub(super) struct Draft(Vec<u8>);

impl Draft {
    pub(super) fn new() -> Self {
        Self(vec![0; MAX_HEADER])
    }

    /// Where the message is written.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Puts the header directly before the message.
    pub(super) fn finish(mut self, dialect: Dialect) -> Frame {
        let (header, size) = header(opcode(dialect), self.0.len().saturating_sub(MAX_HEADER));
        let start = MAX_HEADER - size;
        for (place, byte) in self.0.iter_mut().skip(start).zip(header).take(size) {
            *place = byte;
        }
        Frame(Bytes::from(self.0).split_off(start))
    }
}

impl Frame {
    /// The frame of a message.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn message(dialect: Dialect, payload: &[u8]) -> Self {
        let mut draft = Draft::new();
        draft.bytes().extend_from_slice(payload);
        draft.finish(dialect)
    }

    /// A ping without content.
    pub(crate) fn ping() -> Self {
        Self(Bytes::from_static(&[FIN | PING, 0]))
    }

    /// The answer to a client's ping.
    pub(crate) fn pong(content: &[u8]) -> Self {
        Self::control(PONG, content)
    }

    /// A close frame. A reason that does not fit is cut.
    pub(crate) fn close(disconnect: &Disconnect) -> Self {
        let reason = &disconnect.reason;
        let fits = reason.floor_char_boundary(MAX_CONTROL - 2);
        let reason = reason.get(..fits).unwrap_or_default();
        Self::control(CLOSE, &[&disconnect.code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// The answer to a client's close frame: its code and reason.
    pub(crate) fn closed(content: &[u8]) -> Self {
        Self::control(CLOSE, content)
    }

    fn control(opcode: u8, content: &[u8]) -> Self {
        let (header, size) = header(opcode, content.len());
        let mut bytes = BytesMut::with_capacity(size + content.len());
        bytes.extend(header.into_iter().take(size));
        bytes.extend_from_slice(content);
        Self(bytes.freeze())
    }

    /// The frame as it is written.
    #[cfg(test)]
    fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The frame as it is written.
    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The message in the frame.
    pub(crate) fn payload(&self) -> Bytes {
        self.0.slice(self.header_len()..)
    }

    /// The length of the message in the frame.
    pub(crate) fn len(&self) -> usize {
        self.0.len() - self.header_len()
    }

    fn header_len(&self) -> usize {
        match self.0.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            Some(_) => 2,
            None => 0,
        }
    }

    fn is_control(&self) -> bool {
        self.0.first().is_some_and(|first| first & 0x08 != 0)
    }
}

/// Takes frames of about `most` bytes, and appends what is written for them: replies are joined into one message, where the
/// dialect allows that. Returns the sum of the lengths of the messages taken.
pub(super) fn join(frames: &mut VecDeque<Frame>, dialect: Dialect, most: usize, into: &mut Vec<u8>) -> usize {
    let (begun, mut taken) = (into.len(), 0);
    while !frames.is_empty() && into.len() - begun < most {
        let (count, size) = group(frames, dialect, most);
        let newlines = if dialect == Dialect::Json { count - 1 } else { 0 };
        if count > 1 {
            let (header, len) = header(opcode(dialect), size + newlines);
            into.extend(header.into_iter().take(len));
        }
        for (index, frame) in frames.drain(..count).enumerate() {
            if index > 0 && newlines > 0 {
                into.push(b'\n');
            }
            let begin = if count > 1 { frame.header_len() } else { 0 };
            into.extend_from_slice(frame.0.get(begin..).unwrap_or_default());
        }
        taken += size;
    }
    taken
}

/// Everything that is written for these frames.
pub(crate) fn join_all(mut frames: VecDeque<Frame>, dialect: Dialect) -> Vec<u8> {
    let mut bytes = Vec::new();
    join(&mut frames, dialect, usize::MAX, &mut bytes);
    bytes
}

/// How many of the first frames become one message, and the sum of their lengths. At least one.
fn group(frames: &VecDeque<Frame>, dialect: Dialect, most: usize) -> (usize, usize) {
    let (mut count, mut size) = (0, 0);
    for frame in frames {
        let alone = frame.is_control() || dialect == Dialect::OneWay;
        if count > 0 && (alone || size >= most) {
            break;
        }
        (count, size) = (count + 1, size + frame.len());
        if alone {
            break;
        }
    }
    (count, size)
}

fn opcode(dialect: Dialect) -> u8 {
    match dialect {
        Dialect::Json | Dialect::OneWay => TEXT,
        Dialect::Protobuf => BINARY,
    }
}

/// A header at the beginning of the array, and its length.
#[expect(clippy::cast_possible_truncation, reason = "each arm has checked the length")]
fn header(opcode: u8, length: usize) -> ([u8; MAX_HEADER], usize) {
    let first = FIN | opcode;
    match length {
        0..=125 => ([first, length as u8, 0, 0, 0, 0, 0, 0, 0, 0], 2),
        126..=0xffff => {
            let [a, b] = (length as u16).to_be_bytes();
            ([first, 126, a, b, 0, 0, 0, 0, 0, 0], 4)
        }
        _ => {
            let mut header = [first, 127, 0, 0, 0, 0, 0, 0, 0, 0];
            if let Some(place) = header.last_chunk_mut() {
                *place = (length as u64).to_be_bytes();
            }
            (header, 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames in these bytes: first byte and payload of each.
    fn read(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        while let [first, length, rest @ ..] = bytes {
            let (length, rest) = match length {
                126 => (usize::from(u16::from_be_bytes(*rest.first_chunk().unwrap())), &rest[2..]),
                127 => {
                    (usize::try_from(u64::from_be_bytes(*rest.first_chunk().unwrap())).unwrap(), &rest[8..])
                }
                short => (usize::from(*short), rest),
            };
            found.push((*first, rest[..length].to_vec()));
            bytes = &rest[length..];
        }
        found
    }

    fn joined(frames: &[Frame], dialect: Dialect, most: usize) -> Vec<(u8, Vec<u8>)> {
        let (mut frames, mut bytes) = (frames.iter().cloned().collect::<VecDeque<_>>(), Vec::new());
        while !frames.is_empty() {
            join(&mut frames, dialect, most, &mut bytes);
        }
        read(&bytes)
    }

    #[test]
    fn a_frame_has_the_shortest_header_for_its_length() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (0xffff, 4), (0x1_0000, 10)] {
            let frame = Frame::message(Dialect::Json, &vec![b'x'; length]);
            assert_eq!(frame.bytes().len(), header + length);
            assert_eq!((frame.len(), frame.payload().len()), (length, length));
            assert_eq!(read(frame.bytes()), [(0x81, vec![b'x'; length])]);
        }
        assert_eq!(Frame::message(Dialect::Protobuf, b"x").bytes()[..], [0x82, 1, b'x']);
    }

    #[test]
    fn json_replies_are_joined_by_newlines() {
        let frames = [b"{}", b"[]"].map(|payload| Frame::message(Dialect::Json, payload));
        assert_eq!(joined(&frames, Dialect::Json, 100), [(0x81, b"{}\n[]".to_vec())]);
        assert_eq!(joined(&frames[..1], Dialect::Json, 100), [(0x81, b"{}".to_vec())]);
        assert!(joined(&[], Dialect::Json, 100).is_empty());
    }

    #[test]
    fn protobuf_replies_bring_their_lengths_and_are_joined_as_they_are() {
        let frames = [&b"\x02ab"[..], b"\x01c"].map(|payload| Frame::message(Dialect::Protobuf, payload));
        assert_eq!(joined(&frames, Dialect::Protobuf, 100), [(0x82, b"\x02ab\x01c".to_vec())]);
    }

    #[test]
    fn pushes_to_one_way_clients_and_control_frames_stay_apart() {
        let pushes = [b"{}", b"[]"].map(|payload| Frame::message(Dialect::OneWay, payload));
        assert_eq!(joined(&pushes, Dialect::OneWay, 100), [(0x81, b"{}".to_vec()), (0x81, b"[]".to_vec())]);
        let text = |payload: &[u8]| Frame::message(Dialect::Json, payload);
        let frames = [text(b"1"), text(b"2"), Frame::pong(b"p"), Frame::ping(), text(b"3"), text(b"4")];
        assert_eq!(
            joined(&frames, Dialect::Json, 100),
            [(0x81, b"1\n2".to_vec()), (0x8a, b"p".to_vec()), (0x89, Vec::new()), (0x81, b"3\n4".to_vec())]
        );
    }

    #[test]
    fn one_write_takes_about_as_much_as_it_is_asked_for() {
        let frames = [b"aaaa", b"bbbb", b"cccc"].map(|payload| Frame::message(Dialect::Json, payload));
        let (mut waiting, mut bytes) = (VecDeque::from(frames.to_vec()), Vec::new());
        assert_eq!(join(&mut waiting, Dialect::Json, 5, &mut bytes), 8);
        assert_eq!((waiting.len(), read(&bytes)), (1, vec![(0x81, b"aaaa\nbbbb".to_vec())]));
    }

    #[test]
    fn a_close_frame_has_code_and_reason_and_a_long_reason_is_cut_between_characters() {
        let long = Disconnect { code: 3000, reason: "\u{e4}".repeat(100).into() };
        let close = Frame::close(&long);
        let payload = close.payload();
        assert!(payload.len() <= MAX_CONTROL && payload[..2] == 3000_u16.to_be_bytes());
        assert!(std::str::from_utf8(&payload[2..]).unwrap().ends_with('\u{e4}'));
        assert_eq!(close.bytes()[0], 0x88);
    }
}
