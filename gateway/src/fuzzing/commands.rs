//! What clients send: commands in both encodings, filters of tags, and deltas.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;
use tidegate_shared::{
    delta,
    filter::{self, FilterNode},
    protocol::{Command, ConnectRequest, json as json_encoding, lenient, protobuf as protobuf_encoding},
};

use super::cut;

/// The largest result of a delta.
const LIMIT: usize = 64 * 1024;

/// A text frame: every line is a command or malformed, and a command is the same in both encodings.
pub(super) fn json(input: &[u8]) {
    let Ok(frame) = std::str::from_utf8(input) else { return };
    let read: Vec<_> = json_encoding::decode::<Command>(frame).collect();
    let lines = frame.strip_suffix('\n').unwrap_or(frame).split('\n');
    assert_eq!(read.len(), lines.clone().count(), "each line is one command");
    for (line, read) in lines.zip(read) {
        let strict = serde_json::from_str::<Command>(line);
        let Ok(command) = read else {
            assert!(strict.is_err(), "the lenient reader refuses what the strict one reads: {line}");
            continue;
        };
        if let Ok(strict) = strict {
            assert_eq!(strict, command, "both readers read the same");
        }
        let again = json_encoding::encode(&command).expect("what came as JSON goes as JSON");
        assert!(!again.contains(&b'\n'), "a newline would end the document");
        // A carriage return between two tokens becomes a space.
        let expected = lenient::from_str::<Command>(&line.replace('\r', " ")).expect("white space is alike");
        assert_eq!(lenient::from_slice::<Command>(&again).expect("it is read again"), expected);
        let binary = protobuf_encoding::encode(&command);
        assert_eq!(protobuf_encoding::decode_one::<Command>(binary).expect("it is read again"), command);
        drop(command.verb());
    }
    drop(lenient::from_str::<ConnectRequest>(frame));
    if let Ok(strict) = serde_json::from_str::<serde_json::Value>(frame) {
        assert_eq!(lenient::from_str::<serde_json::Value>(frame).expect("it is JSON"), strict);
    }
}

/// A binary frame: at most one error, at its end, and a command is the same in both encodings.
pub(super) fn protobuf(input: &[u8]) {
    let frame = Bytes::copy_from_slice(input);
    let read: Vec<_> = protobuf_encoding::decode::<Command>(frame).collect();
    assert!(!read.is_empty() && read.len() <= input.len().max(1), "a command has at least one byte");
    let whole = read.len() - usize::from(read.last().is_some_and(Result::is_err));
    let mut frame = BytesMut::new();
    let commands: Vec<Command> = read.into_iter().take(whole).map(|read| read.expect("errors end")).collect();
    for command in &commands {
        let message = protobuf_encoding::encode(command);
        assert_eq!(message.len(), protobuf_encoding::len(command));
        protobuf_encoding::append(&mut frame, &message);
        // Payloads of this encoding are any bytes. JSON carries those that are JSON; white space around them is lost.
        let Ok(text) = json_encoding::encode(command) else { continue };
        let once = lenient::from_slice::<Command>(&text).expect("what was encoded is read");
        let twice = json_encoding::encode(&once).expect("it is JSON");
        assert_eq!(lenient::from_slice::<Command>(&twice).expect("it is read"), once);
    }
    if !commands.is_empty() {
        let again: Result<Vec<_>, _> = protobuf_encoding::decode::<Command>(frame.freeze()).collect();
        assert_eq!(again.expect("it is read again"), commands);
    }
}

/// A filter in JSON or protobuf, and tags. What is valid is the same in both encodings; what is not matches nothing.
pub(super) fn filter(input: &[u8]) {
    let Some((kind, input)) = input.split_first() else { return };
    let (text, tags) = cut(input, b"\0").unwrap_or((input, b""));
    let read = if kind % 2 == 0 {
        lenient::from_slice::<FilterNode>(text).ok()
    } else {
        protobuf_encoding::decode_one::<FilterNode>(Bytes::copy_from_slice(text)).ok()
    };
    let Some(node) = read else { return };
    let tags = String::from_utf8_lossy(tags).into_owned();
    let tags: BTreeMap<String, String> = tags
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let matches = filter::matches(&node, &tags);
    if filter::validate(&node).is_err() {
        return;
    }
    let text = json_encoding::encode(&node).expect("texts and lists are JSON");
    let other = lenient::from_slice::<FilterNode>(&text).expect("a valid filter is not deep");
    assert_eq!(other, node);
    assert_eq!(filter::matches(&other, &tags), matches);
    let negated = FilterNode { op: "not".into(), nodes: vec![node], ..FilterNode::default() };
    if filter::validate(&negated).is_ok() {
        assert_ne!(filter::matches(&negated, &tags), matches, "a filter or its negation matches");
    }
}

/// Two payloads and a foreign delta. What is encoded is decoded; a foreign one gives an error or a bounded result.
pub(super) fn delta(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let (Ok(old), Ok(new)) = (input.arbitrary::<Vec<u8>>(), input.arbitrary::<Vec<u8>>()) else { return };
    let made = delta::create(&old, &new);
    assert!(made.len() <= new.len() + 21);
    assert_eq!(delta::output_size(&made), Ok(new.len()));
    assert_eq!(delta::apply(&old, &made, new.len()).as_ref(), Ok(&new));
    if std::str::from_utf8(&new).is_ok() {
        assert!(std::str::from_utf8(&made).is_ok(), "the delta of a text is a text");
    }
    if !new.is_empty() {
        assert!(delta::apply(&old, &made, new.len() - 1).is_err(), "the limit holds");
    }
    let foreign = input.take_rest();
    if let Ok(result) = delta::apply(&old, foreign, LIMIT) {
        assert!(result.len() <= LIMIT && delta::output_size(foreign) == Ok(result.len()));
    }
    drop(serde_json::from_slice::<&RawValue>(foreign));
}
