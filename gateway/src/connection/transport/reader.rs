//! Reads a client's WebSocket frames (RFC 6455, 5): from bytes to whole messages. Pure.
//!
//! Headers are read by the library. What is here instead of there: no buffer while nothing waits to be read, and no writing.

use std::{io::Cursor, str};

use bytes::{Buf, Bytes, BytesMut};
use tidegate_shared::protocol::codes::{self, Disconnect};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use super::Input;

/// The longest content of a control frame.
const MAX_CONTROL: u64 = 125;

/// Bytes of a client that are not read yet, and the message that they continue.
#[derive(Debug)]
pub(super) struct Reader {
    bytes: BytesMut,
    begun: Option<Box<Begun>>,
    /// The longest message. Beyond it the socket is not read further.
    limit: usize,
    #[cfg(feature = "conformance")]
    was_text: bool,
}

/// A message whose first frames were read.
#[derive(Debug)]
struct Begun {
    is_text: bool,
    content: BytesMut,
    /// Up to here the text is UTF-8.
    checked: usize,
}

/// What a look at the bytes gives.
enum Step {
    Input(Input),
    /// More bytes have to arrive.
    More,
}

impl Reader {
    /// `bytes` have arrived already.
    pub(super) fn new(bytes: &[u8], limit: usize) -> Self {
        Self {
            bytes: BytesMut::from(bytes),
            begun: None,
            limit,
            #[cfg(feature = "conformance")]
            was_text: false,
        }
    }

    /// Whether the newest message was a text.
    #[cfg(feature = "conformance")]
    pub(super) fn was_text(&self) -> bool {
        self.was_text
    }

    /// Whether the first frames of a message were read, and not its last.
    pub(super) fn is_amid_message(&self) -> bool {
        self.begun.is_some()
    }

    /// Where arriving bytes are appended.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next input in the bytes. `None` if more have to arrive.
    pub(super) fn next(&mut self) -> Option<Input> {
        match self.frame() {
            Ok(Step::Input(input)) => Some(input),
            Ok(Step::More) => None,
            Err(disconnect) => Some(Input::Broken(disconnect)),
        }
    }

    /// Takes one frame, if it is there.
    fn frame(&mut self) -> Result<Step, Disconnect> {
        if self.bytes.is_empty() {
            // An idle client costs no buffer.
            self.bytes = BytesMut::new();
            return Ok(Step::More);
        }
        let mut cursor = Cursor::new(&self.bytes[..]);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| codes::PROTOCOL_ERROR)?
        else {
            return Ok(Step::More);
        };
        let begin = usize::try_from(cursor.position()).map_err(|_| codes::PROTOCOL_ERROR)?;
        let mask = check(&header, length)?;
        let length = usize::try_from(length).map_err(|_| codes::MESSAGE_TOO_BIG)?;
        let before = self.begun.as_ref().map_or(0, |begun| begun.content.len());
        if length > self.limit.saturating_sub(before) {
            return Err(codes::MESSAGE_TOO_BIG);
        }
        if self.bytes.len() - begin < length {
            return Ok(Step::More);
        }
        self.bytes.advance(begin);
        let mut content = self.bytes.split_to(length);
        unmask(&mut content, mask);
        match header.opcode {
            OpCode::Control(control) => read_control(control, content.freeze()).map(Step::Input),
            OpCode::Data(data) => self.data(data, header.is_final, content),
        }
    }

    fn data(&mut self, data: Data, is_last: bool, content: BytesMut) -> Result<Step, Disconnect> {
        let is_text = match (data, &mut self.begun) {
            (Data::Continue, Some(begun)) => {
                begun.content.extend_from_slice(&content);
                begun.check(is_last)?;
                let begun = if is_last { self.begun.take() } else { None };
                return Ok(begun.map_or(Step::Input(Input::Part), |begun| Step::message(begun.content)));
            }
            (Data::Text, None) => true,
            (Data::Binary, None) => false,
            _ => return Err(codes::PROTOCOL_ERROR),
        };
        #[cfg(feature = "conformance")]
        {
            self.was_text = is_text;
        }
        let mut begun = Begun { is_text, content, checked: 0 };
        begun.check(is_last)?;
        if is_last {
            return Ok(Step::message(begun.content));
        }
        // Its own storage: what was read with it is given back.
        begun.content = BytesMut::from(&begun.content[..]);
        self.begun = Some(Box::new(begun));
        Ok(Step::Input(Input::Part))
    }
}

impl Step {
    fn message(content: BytesMut) -> Self {
        Self::Input(Input::Frame(content.freeze()))
    }
}

impl Begun {
    /// Checks what was added to a text: an invalid one is not read to its end.
    fn check(&mut self, is_last: bool) -> Result<(), Disconnect> {
        if !self.is_text {
            return Ok(());
        }
        match str::from_utf8(self.content.get(self.checked..).unwrap_or_default()) {
            Ok(_) => self.checked = self.content.len(),
            // The last character may be cut.
            Err(error) if error.error_len().is_none() && !is_last => self.checked += error.valid_up_to(),
            Err(_) => return Err(codes::INVALID_UTF8),
        }
        Ok(())
    }
}

/// Checks a header. Returns the mask, which every frame of a client has.
fn check(header: &FrameHeader, length: u64) -> Result<[u8; 4], Disconnect> {
    let reserved = header.rsv1 || header.rsv2 || header.rsv3;
    let is_control = matches!(header.opcode, OpCode::Control(_));
    if reserved || is_control && (!header.is_final || length > MAX_CONTROL) {
        return Err(codes::PROTOCOL_ERROR);
    }
    header.mask.ok_or(codes::PROTOCOL_ERROR)
}

fn read_control(control: Control, content: Bytes) -> Result<Input, Disconnect> {
    match control {
        Control::Ping => Ok(Input::Ping(content)),
        Control::Pong => Ok(Input::Pong),
        Control::Close => read_close(content),
        Control::Reserved(_) => Err(codes::PROTOCOL_ERROR),
    }
}

/// A close frame is empty, or has a code and a reason.
fn read_close(content: Bytes) -> Result<Input, Disconnect> {
    match content.split_first_chunk::<2>() {
        None if content.is_empty() => {}
        None => return Err(codes::PROTOCOL_ERROR),
        Some((code, _)) if !CloseCode::from(u16::from_be_bytes(*code)).is_allowed() => {
            return Err(codes::PROTOCOL_ERROR);
        }
        Some((_, reason)) if str::from_utf8(reason).is_err() => return Err(codes::INVALID_UTF8),
        Some(_) => {}
    }
    Ok(Input::Left(content))
}

fn unmask(content: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let eight = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = content.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ eight).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// A client's frame with this first byte.
    fn frame(first: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match content.len() {
            short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
            middle @ 126..0x1_0000 => {
                bytes.push(0xfe);
                bytes.extend(u16::try_from(middle).unwrap().to_be_bytes());
            }
            long => {
                bytes.push(0xff);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        bytes.extend(content.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// What a reader says of these bytes when they arrive in pieces of this length, up to the first error.
    fn read(bytes: &[u8], piece: usize) -> Vec<String> {
        let (mut reader, mut found) = (Reader::new(b"", 1000), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.bytes().extend_from_slice(piece);
            while let Some(input) = reader.next() {
                let (text, is_last) = match input {
                    Input::Frame(message) => (format!("message {}", message.escape_ascii()), false),
                    Input::Ping(content) => (format!("ping {}", content.escape_ascii()), false),
                    Input::Pong => ("pong".to_owned(), false),
                    Input::Part => continue,
                    Input::Left(content) => (format!("left {}", content.escape_ascii()), true),
                    Input::Broken(disconnect) => (disconnect.code.to_string(), true),
                    Input::Gone => ("gone".to_owned(), true),
                };
                found.push(text);
                if is_last {
                    return found;
                }
            }
        }
        found
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let bytes = [
            frame(0x81, b"one"),
            frame(0x01, b"t"),
            frame(0x89, b"p"),
            frame(0x00, b"w"),
            frame(0x00, b""),
            frame(0x80, b"o"),
            frame(0x8a, b""),
            frame(0x82, b"\xff"),
            frame(0x81, &[b'x'; 300]),
            frame(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        let long = format!("message {}", "x".repeat(300));
        let expected =
            ["message one", "ping p", "message two", "pong", "message \\xff", &long, "left \\x03\\xe8bye"];
        for piece in 1..bytes.len() {
            assert_eq!(read(&bytes, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn an_idle_client_and_one_between_messages_have_no_buffer() {
        let mut reader = Reader::new(&frame(0x81, b"one"), 1000);
        assert!(matches!(reader.next(), Some(Input::Frame(message)) if message == "one"));
        assert!(reader.next().is_none());
        assert_eq!(reader.bytes.capacity(), 0);
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_with_its_code() {
        let cases: [(&str, Vec<u8>, &str); 14] = [
            ("no mask", vec![0x81, 1, b'x'], "1002"),
            ("a reserved bit", frame(0xc1, b""), "1002"),
            ("a reserved data opcode", frame(0x83, b""), "1002"),
            ("a reserved control opcode", frame(0x8b, b""), "1002"),
            ("a ping in parts", frame(0x09, b""), "1002"),
            ("a ping of 126 bytes", frame(0x89, &[0; 126]), "1002"),
            ("a continuation of nothing", frame(0x80, b""), "1002"),
            ("a message in a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat(), "1002"),
            ("a close frame of one byte", frame(0x88, b"x"), "1002"),
            ("a close code that nobody may send", frame(0x88, b"\x03\xed"), "1002"),
            ("a close reason that is no UTF-8", frame(0x88, b"\x03\xe8\xff"), "1007"),
            ("a text that is no UTF-8", frame(0x81, b"\xff"), "1007"),
            ("a text that ends in a character", frame(0x81, b"\xc3"), "1007"),
            ("a text that fails in its first frame", frame(0x01, b"a\xff"), "1007"),
        ];
        for (what, bytes, code) in cases {
            assert_eq!(read(&bytes, usize::MAX).last().map(String::as_str), Some(code), "{what}");
        }
        let cut = [frame(0x01, b"\xc3"), frame(0x80, b"\xa4")].concat();
        assert_eq!(read(&cut, usize::MAX), ["message \\xc3\\xa4"]);
    }

    #[test]
    fn exactly_the_limit_is_read_and_one_byte_more_is_not_even_waited_for() {
        assert_eq!(read(&frame(0x82, &[b'x'; 1000]), usize::MAX).len(), 1);
        let longer = frame(0x82, &[b'x'; 1001]);
        assert_eq!(read(&longer[..8], usize::MAX), ["1009"]);
        let in_parts = [frame(0x02, &[b'x'; 600]), frame(0x80, &[b'x'; 401])].concat();
        assert_eq!(read(&in_parts, usize::MAX), ["1009"]);
        let in_parts = [frame(0x02, &[b'x'; 600]), frame(0x80, &[b'x'; 400])].concat();
        assert_eq!(read(&in_parts, usize::MAX).len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_read_alike(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
            prop_assert_eq!(read(&bytes, piece), read(&bytes, usize::MAX));
        }
    }
}
