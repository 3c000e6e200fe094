//! Encodes commands into WebSocket messages and decodes replies. Pure.

use bytes::{Bytes, BytesMut};
use tidegate_shared::protocol::{CodecError, Command, Encoding, Reply, json, protobuf};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Commands are batched into one message up to this size: well under the gateway's limit for one message.
const FRAME_BYTES: usize = 16 * 1024;

/// Encodes one command, without the framing between commands.
pub(super) fn encode(encoding: Encoding, command: &Command) -> Result<Bytes, CodecError> {
    match encoding {
        Encoding::Json => json::encode(command),
        Encoding::Protobuf => Ok(protobuf::encode(command)),
    }
}

/// Joins encoded commands into as few messages as the size of one allows, in their order.
pub(super) fn frames(encoding: Encoding, commands: &[Bytes]) -> Vec<Message> {
    let mut frames = Vec::new();
    let mut frame = BytesMut::new();
    for command in commands {
        if !frame.is_empty() && frame.len() + command.len() > FRAME_BYTES {
            frames.extend(message(encoding, frame.split().freeze()));
        }
        match encoding {
            Encoding::Json => {
                if !frame.is_empty() {
                    frame.extend_from_slice(b"\n");
                }
                frame.extend_from_slice(command);
            }
            Encoding::Protobuf => protobuf::append(&mut frame, command),
        }
    }
    if !frame.is_empty() {
        frames.extend(message(encoding, frame.freeze()));
    }
    frames
}

/// The answer to a ping: an empty command.
pub(super) fn pong(encoding: Encoding) -> Message {
    match encoding {
        Encoding::Json => Message::text("{}"),
        Encoding::Protobuf => Message::binary(Bytes::from_static(&[0])),
    }
}

/// Decodes the replies in one message. Control frames hold none.
pub(super) fn replies(encoding: Encoding, message: Message) -> Result<Vec<Reply>, CodecError> {
    let bytes = match message {
        Message::Text(text) => Bytes::from(text),
        Message::Binary(bytes) => bytes,
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return Ok(Vec::new()),
    };
    match encoding {
        Encoding::Json => {
            let text = std::str::from_utf8(&bytes).map_err(|e| CodecError::Malformed(e.to_string()))?;
            json::decode(text).collect()
        }
        Encoding::Protobuf => protobuf::decode(bytes).collect(),
    }
}

/// JSON is UTF-8, so the conversion to text always succeeds; `None` would drop the message.
fn message(encoding: Encoding, frame: Bytes) -> Option<Message> {
    match encoding {
        Encoding::Json => Utf8Bytes::try_from(frame).ok().map(Message::Text),
        Encoding::Protobuf => Some(Message::Binary(frame)),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::protocol::RpcRequest;

    use super::*;

    fn rpc(id: u32, bytes: usize) -> Command {
        let data = Bytes::from(format!("\"{}\"", "x".repeat(bytes)));
        Command { id, rpc: Some(RpcRequest { data, method: "a.b".to_owned() }), ..Command::default() }
    }

    fn decode(encoding: Encoding, message: &Message) -> Vec<Command> {
        match encoding {
            Encoding::Json => json::decode(message.to_text().unwrap()).map(Result::unwrap).collect(),
            Encoding::Protobuf => protobuf::decode(message.clone().into_data()).map(Result::unwrap).collect(),
        }
    }

    #[test]
    fn small_commands_share_a_message_and_keep_their_order() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let commands: Vec<_> = (1..=3).map(|id| rpc(id, 10)).collect();
            let encoded: Vec<_> = commands.iter().map(|c| encode(encoding, c).unwrap()).collect();
            let frames = frames(encoding, &encoded);
            assert_eq!(frames.len(), 1);
            assert_eq!(decode(encoding, &frames[0]), commands);
        }
    }

    #[test]
    fn large_commands_get_messages_of_their_own() {
        let commands: Vec<_> = (1..=3).map(|id| rpc(id, 10_000)).collect();
        let encoded: Vec<_> = commands.iter().map(|c| encode(Encoding::Json, c).unwrap()).collect();
        let frames = frames(Encoding::Json, &encoded);
        assert_eq!(frames.len(), 3);
        assert!(frames.iter().all(|frame| frame.len() < 2 * FRAME_BYTES));
    }

    #[test]
    fn a_pong_is_an_empty_command() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            assert_eq!(decode(encoding, &pong(encoding)), [Command::default()]);
        }
    }

    #[test]
    fn a_payload_that_is_not_json_is_refused_before_it_is_sent() {
        let command =
            Command { rpc: Some(RpcRequest { data: "{".into(), method: "a".into() }), ..Command::default() };
        assert!(matches!(encode(Encoding::Json, &command), Err(CodecError::Payload(_))));
        assert!(encode(Encoding::Protobuf, &command).is_ok());
    }
}
