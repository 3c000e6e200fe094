//! Frames of WebSocket: reads those of a server from a byte stream, writes those of a client. Pure.
//!
//! The mask of a client's frame is zero, so that masking costs nothing: what is measured is the server.

use anyhow::{bail, ensure};

/// The longest frame a server may send. More is taken for a broken stream.
const LONGEST: u64 = 16 << 20;

/// The bit of a frame with a mask.
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text or binary, or a further piece of one.
    Message,
    Ping,
    Pong,
    Close,
}

/// One frame in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) body: &'a [u8],
    /// The bytes of the whole frame.
    pub(super) length: usize,
}

/// Returns the first frame of a buffer; `None` if it is not complete.
pub(super) fn first(buffer: &[u8]) -> anyhow::Result<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = buffer else { return Ok(None) };
    ensure!(second & 0x80 == 0, "the server masks its frames");
    let (length, rest, header) = match second & 0x7f {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*bytes)), rest, 4)
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*bytes), rest, 10)
        }
        short => (u64::from(short), rest, 2),
    };
    ensure!(length <= LONGEST, "a frame of {length} bytes");
    let length = usize::try_from(length)?;
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let kind = match first & 0x0f {
        0..=2 => Kind::Message,
        8 => Kind::Close,
        9 => Kind::Ping,
        10 => Kind::Pong,
        other => bail!("a frame with the opcode {other}"),
    };
    Ok(Some(Frame { kind, body, length: header + length }))
}

/// Writes a text frame of a client.
pub(super) fn text(body: &[u8], out: &mut Vec<u8>) {
    write(0x81, body, out);
}

/// Writes a binary frame of a client.
pub(super) fn binary(body: &[u8], out: &mut Vec<u8>) {
    write(0x82, body, out);
}

/// Writes the answer to a ping.
pub(super) fn pong(body: &[u8], out: &mut Vec<u8>) {
    write(0x8a, body, out);
}

fn write(first: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match (u8::try_from(body.len()), u16::try_from(body.len())) {
        (Ok(short @ ..=125), _) => out.push(MASKED | short),
        (_, Ok(middle)) => {
            out.push(MASKED | 0x7e);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(MASKED | 0x7f);
            out.extend_from_slice(&u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(body);
}

/// Writes a text frame of a server.
pub(super) fn server_text(body: &[u8], out: &mut Vec<u8>) {
    out.push(0x81);
    match (u8::try_from(body.len()), u16::try_from(body.len())) {
        (Ok(short @ ..=125), _) => out.push(short),
        (_, Ok(middle)) => {
            out.push(126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(body);
}

/// Returns the body of the first frame of a client whose mask is zero, and the bytes of the whole frame.
pub(super) fn first_of_client(buffer: &[u8]) -> Option<(&[u8], usize)> {
    let (length, header) = match buffer.get(1)? & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*buffer.get(2..)?.first_chunk()?)), 8),
        127 => (usize::try_from(u64::from_be_bytes(*buffer.get(2..)?.first_chunk()?)).ok()?, 14),
        short => (usize::from(short), 6),
    };
    Some((buffer.get(header..)?.get(..length)?, header + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_server(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        server_text(body, &mut out);
        out
    }

    #[test]
    fn frames_of_every_length_come_back_whole_and_only_when_complete() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let body = vec![b'x'; length];
            let bytes = of_server(&body);
            let frame = first(&bytes).unwrap().unwrap();
            assert_eq!((frame.kind, frame.body, frame.length), (Kind::Message, &body[..], bytes.len()));
            for cut in [0, 1, bytes.len() - 1] {
                assert_eq!(first(&bytes[..cut]).unwrap(), None, "{cut} of {length}");
            }
            let mut sent = Vec::new();
            text(&body, &mut sent);
            assert_eq!(first_of_client(&sent), Some((&body[..], sent.len())));
            assert_eq!(first_of_client(&sent[..sent.len() - 1]), None);
        }
    }

    #[test]
    fn a_masked_frame_and_one_of_an_unknown_kind_are_refused() {
        assert!(first(&[0x81, 0x80, 0, 0, 0, 0]).is_err());
        assert!(first(&[0x83, 0]).is_err());
    }

    proptest! {
        #[test]
        fn a_stream_yields_the_same_frames_wherever_it_is_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8),
            cut in 0_usize..1600,
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| of_server(body)).collect();
            let (mut at, mut got, mut end) = (0, Vec::new(), cut.min(stream.len()));
            loop {
                match first(&stream[at..end]).unwrap() {
                    Some(frame) => {
                        got.push(frame.body.to_vec());
                        at += frame.length;
                    }
                    None if end < stream.len() => end = stream.len(),
                    None => break,
                }
            }
            prop_assert_eq!(got, bodies);
        }
    }
}
