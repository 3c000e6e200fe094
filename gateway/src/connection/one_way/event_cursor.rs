//! The positions of a one-way client in its channels, written into the ids of its events, and read when it comes back.
//!
//! A browser sends the id of the last event when it connects again, so it resumes without a line of code. The cursor
//! follows the pushes to the client. Never decides whether the client can recover. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::Deserialize;
use tidegate_shared::protocol::{ConnectRequest, SubscribeRequest, json, lenient};

use super::event_id::{ChannelPlace, EventId, Wishes};

/// An epoch that no stream has: a client that resumes from it learns that it has not recovered.
const NO_EPOCH: &str = "_";

/// The positions of one client.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct EventCursor {
    /// The channels it asked for, in order.
    channels: Vec<Box<str>>,
    id: EventId,
}

/// The parts of a push that move the client's positions.
#[derive(Deserialize)]
struct PushView<'a> {
    #[serde(borrow)]
    connect: Option<Connected<'a>>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(rename = "pub")]
    publication: Option<Publication>,
}

#[derive(Deserialize)]
struct Connected<'a> {
    #[serde(borrow, default)]
    subs: BTreeMap<Cow<'a, str>, Subscribed<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subscribed<'a> {
    recoverable: bool,
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    offset: u64,
    publications: Vec<Publication>,
}

#[derive(Deserialize)]
struct Publication {
    #[serde(default)]
    offset: u64,
}

impl EventCursor {
    /// Reads a client's first message. Returns the message with the positions of the event id `last` in it, and the
    /// cursor. An invalid message is returned unchanged.
    pub(crate) fn open(first: Bytes, last: Option<&str>) -> (Bytes, Option<Self>) {
        let Ok(mut request) = lenient::from_slice::<ConnectRequest>(&first) else { return (first, None) };
        let channels: Vec<Box<str>> = request.subs.keys().map(|channel| channel.as_str().into()).collect();
        let mut id =
            EventId { wishes: wishes(&channels), places: vec![None; channels.len()], given: Vec::new() };
        let first = match last {
            Some(last) => {
                id.recall(EventId::decode(last).unwrap_or_default());
                resume(&mut request.subs, &channels, &id);
                json::encode(&request).unwrap_or(first)
            }
            None => first,
        };
        (first, Some(Self { channels, id }))
    }

    /// Moves the positions by a push that is about to be sent.
    pub(crate) fn follow(&mut self, push: &[u8]) {
        let Ok(view) = serde_json::from_slice::<PushView<'_>>(push) else { return };
        for (channel, sub) in view.connect.into_iter().flat_map(|connect| connect.subs) {
            let newest = sub.publications.last().map_or(sub.offset, |newest| newest.offset);
            let place = ChannelPlace { epoch: sub.epoch.into(), offset: newest.max(sub.offset) };
            self.put(&channel, sub.recoverable.then_some(place));
        }
        if let (Some(channel), Some(publication)) = (view.channel, view.publication)
            && let Some(place) = self.place(&channel)
        {
            place.offset = publication.offset;
        }
    }

    /// The id of the next event. `None` without positions.
    pub(crate) fn id(&self) -> Option<String> {
        let any = !self.id.given.is_empty() || self.id.places.iter().any(Option::is_some);
        any.then(|| self.id.encode())
    }

    /// A channel that is not granted keeps its position: the next time it may be granted.
    fn put(&mut self, channel: &str, place: Option<ChannelPlace>) {
        if let Some(slot) = self.index(channel).and_then(|index| self.id.places.get_mut(index)) {
            *slot = place;
        } else {
            self.id.given.retain(|(name, _)| **name != *channel);
            self.id.given.extend(place.map(|place| (channel.into(), place)));
        }
    }

    fn place(&mut self, channel: &str) -> Option<&mut ChannelPlace> {
        match self.index(channel) {
            Some(index) => self.id.places.get_mut(index)?.as_mut(),
            None => self.id.given.iter_mut().find(|(name, _)| **name == *channel).map(|(_, place)| place),
        }
    }

    fn index(&self, channel: &str) -> Option<usize> {
        self.channels.binary_search_by(|name| name.as_ref().cmp(channel)).ok()
    }
}

impl EventId {
    /// Takes over the positions of a client's event id. A channel that is missing in it gets a position that cannot
    /// recover, so that the client learns of it.
    fn recall(&mut self, last: Self) {
        let known = if last.wishes == self.wishes { last.places } else { Vec::new() };
        let unknown = Some(ChannelPlace { epoch: NO_EPOCH.into(), offset: 0 });
        let places = known.into_iter().chain(std::iter::repeat(unknown));
        self.places = places.take(self.places.len()).collect();
        self.given = last.given;
    }
}

/// Adds the positions of an event id to the subscriptions of a client that comes back.
fn resume(subs: &mut BTreeMap<String, SubscribeRequest>, channels: &[Box<str>], id: &EventId) {
    for (channel, place) in channels.iter().zip(&id.places) {
        if let (Some(wish), Some(place)) = (subs.get_mut(channel.as_ref()), place) {
            from(wish, place);
        }
    }
    for (channel, place) in &id.given {
        from(subs.entry(channel.as_ref().into()).or_default(), place);
    }
}

fn from(wish: &mut SubscribeRequest, place: &ChannelPlace) {
    wish.recover = true;
    wish.offset = place.offset;
    place.epoch.as_ref().clone_into(&mut wish.epoch);
}

fn wishes(channels: &[Box<str>]) -> Wishes {
    let names: Vec<&str> = channels.iter().map(AsRef::as_ref).collect();
    let digest = digest(&SHA256, names.join("\n").as_bytes());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = r#"{"token":"t","subs":{"kept:a":{},"kept:b":{"token":"s"},"chat:a":{}}}"#;
    const CONNECTED: &str = r##"{"connect":{"client":"g.1","version":"1","subs":{
        "#42":{"recoverable":true,"epoch":"e1","offset":3},
        "chat:a":{},
        "kept:a":{"recoverable":true,"epoch":"e2","offset":5,"publications":[{"data":1,"offset":6},{"data":2,"offset":9}]}}}}"##;

    fn begun() -> EventCursor {
        let (first, cursor) = EventCursor::open(FIRST.into(), None);
        assert_eq!(first, FIRST);
        let mut cursor = cursor.unwrap();
        assert_eq!(cursor.id(), None);
        cursor.follow(CONNECTED.as_bytes());
        cursor
    }

    fn back(first: &str, id: &str) -> Vec<(String, bool, u64, String)> {
        let (first, _) = EventCursor::open(Bytes::copy_from_slice(first.as_bytes()), Some(id));
        let request: ConnectRequest = serde_json::from_slice(&first).unwrap();
        assert_eq!(request.token, "t");
        request.subs.into_iter().map(|(name, sub)| (name, sub.recover, sub.offset, sub.epoch)).collect()
    }

    fn sub(name: &str, recover: bool, offset: u64, epoch: &str) -> (String, bool, u64, String) {
        (name.to_owned(), recover, offset, epoch.to_owned())
    }

    #[test]
    fn a_client_with_an_event_id_resumes_every_channel_behind_that_event() {
        let mut cursor = begun();
        let first = cursor.id().unwrap();
        cursor.follow(br#"{"channel":"kept:a","pub":{"data":{"offset":77},"offset":12}}"#);
        cursor.follow(br##"{"channel":"#42","pub":{"data":[],"offset":4}}"##);
        cursor.follow(br#"{"channel":"chat:a","pub":{"data":1}}"#);
        cursor.follow(b"{}");
        let chat = sub("chat:a", false, 0, "");
        // The refused channel has no position and is requested as before.
        let b = sub("kept:b", false, 0, "");
        let places =
            |p, a| vec![sub("#42", true, p, "e1"), chat.clone(), sub("kept:a", true, a, "e2"), b.clone()];
        assert_eq!(back(FIRST, &first), places(3, 9));
        assert_eq!(back(FIRST, &cursor.id().unwrap()), places(4, 12));
    }

    #[test]
    fn a_client_with_other_channels_or_an_invalid_event_id_does_not_recover() {
        let id = begun().id().unwrap();
        let other = r#"{"token":"t","subs":{"kept:b":{}}}"#;
        assert_eq!(back(other, &id), [sub("#42", true, 3, "e1"), sub("kept:b", true, 0, "_")]);
        assert_eq!(back(other, "nonsense"), [sub("kept:b", true, 0, "_")]);
        let (first, cursor) = EventCursor::open("nonsense".into(), Some(&id));
        assert_eq!((first, cursor), (Bytes::from("nonsense"), None));
    }

    #[test]
    fn a_channel_that_is_not_granted_this_time_keeps_its_position() {
        let (_, cursor) = EventCursor::open(FIRST.into(), Some(&begun().id().unwrap()));
        let mut cursor = cursor.unwrap();
        cursor.follow(br#"{"connect":{"subs":{"kept:b":{"recoverable":true,"epoch":"e2","offset":20}}}}"#);
        let chat = sub("chat:a", false, 0, "");
        let kept = |name, offset| sub(name, true, offset, "e2");
        let places = [sub("#42", true, 3, "e1"), chat, kept("kept:a", 9), kept("kept:b", 20)];
        assert_eq!(back(FIRST, &cursor.id().unwrap()), places);
    }

    #[test]
    fn server_side_subscriptions_are_resumed_too() {
        let mut cursor = begun();
        cursor.follow(br#"{"connect":{"subs":{"news:x":{"recoverable":true,"epoch":"e3","offset":8}}}}"#);
        cursor.follow(br#"{"channel":"news:x","pub":{"data":1,"offset":9}}"#);
        assert!(back(FIRST, &cursor.id().unwrap()).contains(&sub("news:x", true, 9, "e3")));
    }

    #[test]
    fn channels_beyond_the_longest_event_id_do_not_recover() {
        let names: Vec<String> = (0..1000).map(|n| format!("kept:{n:04}")).collect();
        let subs = |value: &str| {
            names.iter().map(|name| format!(r#""{name}":{value}"#)).collect::<Vec<_>>().join(",")
        };
        let first = format!(r#"{{"token":"t","subs":{{{}}}}}"#, subs("{}"));
        let (_, cursor) = EventCursor::open(first.clone().into(), None);
        let mut cursor = cursor.unwrap();
        let place = r#"{"recoverable":true,"epoch":"e1","offset":5000000}"#;
        cursor.follow(format!(r#"{{"connect":{{"subs":{{{}}}}}}}"#, subs(place)).as_bytes());
        let id = cursor.id().unwrap();
        assert!(id.len() <= super::super::event_id::MAX_LEN);
        let back = back(&first, &id);
        let fit = back.iter().take_while(|(_, _, offset, _)| *offset == 5_000_000).count();
        assert!((600..700).contains(&fit), "{fit}");
        assert!(back[fit..].iter().all(|(_, recover, _, epoch)| *recover && epoch == "_"));
    }
}
