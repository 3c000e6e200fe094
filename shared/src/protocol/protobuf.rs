//! Length-delimited protobuf: how messages are joined in a binary frame.

use bytes::{Buf, Bytes, BytesMut};
use prost::{Message, encoding::encode_varint};

use super::CodecError;

/// Splits a binary frame into its messages. An empty frame yields one malformed message, as in JSON.
pub fn decode<T: Message + Default>(mut frame: Bytes) -> impl Iterator<Item = Result<T, CodecError>> {
    let mut first = true;
    std::iter::from_fn(move || {
        if !std::mem::take(&mut first) && !frame.has_remaining() {
            return None;
        }
        let message = T::decode_length_delimited(&mut frame);
        if message.is_err() {
            frame.clear();
        }
        Some(message.map_err(|error| CodecError::Malformed(error.to_string())))
    })
}

/// Decodes one message without a length prefix.
pub fn decode_one<T: Message + Default>(message: Bytes) -> Result<T, CodecError> {
    T::decode(message).map_err(|error| CodecError::Malformed(error.to_string()))
}

/// Returns the encoded length of a message, without its length prefix.
pub fn len<T: Message>(message: &T) -> usize {
    message.encoded_len()
}

/// Encodes one message without a length prefix.
pub fn encode<T: Message>(message: &T) -> Bytes {
    message.encode_to_vec().into()
}

/// Appends a message to a frame: its length as a varint, then its bytes.
pub fn append_message<T: Message>(frame: &mut Vec<u8>, message: &T) {
    // A vector always has room.
    let _ = message.encode_length_delimited(frame);
}

/// Appends an encoded message to a frame: its length as a varint, then its bytes.
pub fn append(frame: &mut BytesMut, message: &[u8]) {
    encode_varint(message.len() as u64, frame);
    frame.extend_from_slice(message);
}
