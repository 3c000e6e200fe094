//! What one user's client received: checks every frame, and keeps what it needs for that, no frames. Pure.

use std::collections::BTreeMap;

use tidegate_shared::protocol::{SubscribeRequest, SubscribeResult};

use super::{
    findings::{Findings, Wrong},
    numbers::Numbers,
};
use crate::job::Stamp;

/// The most senders of a channel.
const MOST_SENDERS: usize = 1024;

/// What one user received.
#[derive(Debug)]
pub(super) struct Inbox {
    user: String,
    places: BTreeMap<String, Place>,
    /// The numbers of the messages outside any channel.
    pushes: Numbers,
    frames: u64,
}

/// A channel: the client's position in it, and the numbers received from each sender.
#[derive(Debug, Default)]
struct Place {
    position: Option<(String, u64)>,
    from: BTreeMap<String, Numbers>,
}

impl Inbox {
    /// The inbox of a user with these channels, the personal one among them.
    pub(super) fn new(user: &str, channels: &[&str]) -> Self {
        let places = channels.iter().map(|channel| ((*channel).to_owned(), Place::default())).collect();
        Self { user: user.to_owned(), places, pushes: Numbers::default(), frames: 0 }
    }

    /// Returns the request that resumes a channel where the client is, or subscribes to it anew.
    pub(super) fn request(&self, channel: &str) -> SubscribeRequest {
        let position = self.places.get(channel).and_then(|place| place.position.as_ref());
        let anew = SubscribeRequest { channel: channel.to_owned(), ..SubscribeRequest::default() };
        position.map_or(anew.clone(), |(epoch, offset)| SubscribeRequest {
            recover: true,
            epoch: epoch.clone(),
            offset: *offset,
            ..anew
        })
    }

    /// Takes the reply to a subscription. Returns what it brought and answers a request.
    pub(super) fn subscribed(
        &mut self,
        channel: &str,
        result: SubscribeResult,
        findings: &mut Findings,
    ) -> Vec<Stamp> {
        let Some(place) = self.places.get_mut(channel) else {
            findings.add(Wrong::Leaked, || format!("{} was subscribed to {channel}", self.user));
            return Vec::new();
        };
        let known = place.position.clone();
        match known {
            Some((epoch, offset)) if !result.recovered => {
                findings.add(Wrong::Unrecovered, || {
                    format!(
                        "{} cannot resume {channel} from {offset} (epoch {epoch}), the channel is at {} (epoch {})",
                        self.user, result.offset, result.epoch
                    )
                });
                place.position = Some((result.epoch, result.offset));
            }
            Some((_, offset)) => place.position = Some((result.epoch, offset)),
            None => place.position = Some((result.epoch, result.offset)),
        }
        let missed = result.publications.into_iter();
        missed.filter_map(|missed| self.publication(channel, missed.offset, &missed.data, findings)).collect()
    }

    /// Takes a publication. Returns what it says if it answers a request.
    pub(super) fn publication(
        &mut self,
        channel: &str,
        offset: u64,
        data: &[u8],
        findings: &mut Findings,
    ) -> Option<Stamp> {
        self.frames += 1;
        let user = self.user.as_str();
        let stamp = read(user, data, findings)?;
        let Some(place) = self.places.get_mut(channel) else {
            findings.add(Wrong::Leaked, || format!("{user} got a frame of {channel}: {stamp:?}"));
            return None;
        };
        let personal = channel.starts_with('#');
        if stamp.to != if personal { user } else { channel } {
            findings.add(Wrong::Leaked, || {
                format!("{user} got what is for {} in {channel}: {stamp:?}", stamp.to)
            });
            return None;
        }
        // The answer to a repeated call is shown to its caller again, outside the channel's history.
        if personal && offset == 0 {
            return Some(stamp);
        }
        let position = place.position.as_ref().map_or(0, |(_, offset)| *offset);
        if offset <= position {
            findings.add(Wrong::Doubled, || {
                format!("{user} got offset {offset} of {channel} after {position}: {stamp:?}")
            });
            return None;
        }
        if let Some((_, position)) = &mut place.position {
            *position = offset;
        }
        if place.from.len() >= MOST_SENDERS && !place.from.contains_key(&stamp.by) {
            findings.add(Wrong::Misinformed, || format!("{user}: nobody sends as {stamp:?}"));
        } else if !place.from.entry(stamp.by.clone()).or_default().insert(stamp.n) {
            findings.add(Wrong::Doubled, || {
                format!("{user} got a publication in {channel} again, at offset {offset}: {stamp:?}")
            });
        }
        (personal && stamp.run != 0).then_some(stamp)
    }

    /// Takes a message outside any channel.
    pub(super) fn message(&mut self, data: &[u8], findings: &mut Findings) {
        self.frames += 1;
        let user = self.user.as_str();
        let Some(stamp) = read(user, data, findings) else { return };
        if stamp.to != user {
            findings.add(Wrong::Leaked, || format!("{user} got a message for {}: {stamp:?}", stamp.to));
        } else if !self.pushes.insert(stamp.n) {
            findings.add(Wrong::Doubled, || format!("{user} got a message again: {stamp:?}"));
        }
    }

    /// Returns which of these numbers of a sender have not come.
    pub(super) fn missing(&self, channel: &str, by: &str, sent: &Numbers) -> Vec<u64> {
        let none = Numbers::default();
        let got = self.places.get(channel).and_then(|place| place.from.get(by)).unwrap_or(&none);
        sent.without(got).collect()
    }

    /// Returns which numbers of a sender have come that are not among those that it may have sent.
    pub(super) fn surplus(&self, channel: &str, by: &str, possible: &Numbers) -> Vec<u64> {
        let got = self.places.get(channel).and_then(|place| place.from.get(by));
        got.map(|got| got.without(possible).collect()).unwrap_or_default()
    }

    /// The senders of what has come in a channel.
    pub(super) fn senders(&self, channel: &str) -> impl Iterator<Item = &str> {
        self.places.get(channel).into_iter().flat_map(|place| place.from.keys().map(String::as_str))
    }

    /// The frames received.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }
}

fn read(user: &str, data: &[u8], findings: &mut Findings) -> Option<Stamp> {
    let stamp = serde_json::from_slice(data);
    if stamp.is_err() {
        findings.add(Wrong::Misinformed, || {
            format!(
                "{user} got what nobody sent: {}",
                String::from_utf8_lossy(data.get(..200).unwrap_or(data))
            )
        });
    }
    stamp.ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidegate_shared::protocol::Publication;

    use super::*;

    fn data(to: &str, by: &str, n: u64, run: u64) -> Bytes {
        let stamp = Stamp { to: to.to_owned(), by: by.to_owned(), n, run };
        serde_json::to_vec(&stamp).unwrap().into()
    }

    fn subscribed() -> (Inbox, Findings) {
        let (mut inbox, mut findings) = (Inbox::new("u1", &["#u1", "c:1"]), Findings::default());
        for channel in ["#u1", "c:1"] {
            let result = SubscribeResult { epoch: "e".to_owned(), offset: 10, ..SubscribeResult::default() };
            inbox.subscribed(channel, result, &mut findings);
        }
        (inbox, findings)
    }

    #[test]
    fn publications_in_order_are_right_and_those_that_did_not_come_are_missing() {
        let (mut inbox, mut findings) = subscribed();
        for (offset, n) in [(11, 0), (12, 1), (20, 3)] {
            assert_eq!(inbox.publication("c:1", offset, &data("c:1", "s", n, 0), &mut findings), None);
        }
        assert!(findings.is_empty());
        assert_eq!(inbox.missing("c:1", "s", &Numbers::below(5)), [2, 4]);
        assert_eq!(inbox.missing("c:1", "nobody", &Numbers::below(1)), [0]);
        assert_eq!(inbox.surplus("c:1", "s", &Numbers::below(2)), [3]);
        let resumed = inbox.request("c:1");
        assert_eq!((resumed.recover, resumed.epoch.as_str(), resumed.offset), (true, "e", 20));
    }

    #[test]
    fn the_same_offset_and_the_same_number_at_another_offset_are_doubled() {
        let (mut inbox, mut findings) = subscribed();
        inbox.publication("c:1", 11, &data("c:1", "s", 0, 0), &mut findings);
        inbox.publication("c:1", 11, &data("c:1", "s", 0, 0), &mut findings);
        assert_eq!(findings.count(Wrong::Doubled), 1);
        inbox.publication("c:1", 12, &data("c:1", "s", 0, 0), &mut findings);
        assert_eq!(findings.count(Wrong::Doubled), 2);
        inbox.message(&data("u1", "push", 0, 0), &mut findings);
        inbox.message(&data("u1", "push", 0, 0), &mut findings);
        assert_eq!(findings.count(Wrong::Doubled), 3);
    }

    #[test]
    fn every_frame_for_somebody_else_is_a_leak() {
        let (mut inbox, mut findings) = subscribed();
        inbox.publication("c:2", 11, &data("c:2", "s", 0, 0), &mut findings);
        inbox.publication("c:1", 12, &data("c:2", "s", 0, 0), &mut findings);
        inbox.publication("#u1", 13, &data("u2", "s", 0, 0), &mut findings);
        inbox.publication("#u1", 0, &data("u2", "later", 0, 7), &mut findings);
        inbox.message(&data("u2", "push", 0, 0), &mut findings);
        inbox.subscribed("#u2", SubscribeResult::default(), &mut findings);
        assert_eq!(findings.count(Wrong::Leaked), 6);
        inbox.message(b"{}", &mut findings);
        assert_eq!(findings.count(Wrong::Misinformed), 1);
    }

    #[test]
    fn an_answer_on_the_personal_channel_comes_once_and_may_be_shown_again_outside_its_history() {
        let (mut inbox, mut findings) = subscribed();
        let answer = data("u1", "later", 0, 7);
        for offset in [11, 0, 0] {
            assert_eq!(inbox.publication("#u1", offset, &answer, &mut findings).unwrap().run, 7);
        }
        assert!(findings.is_empty());
        assert!(inbox.publication("#u1", 15, &answer, &mut findings).is_some());
        assert_eq!(findings.count(Wrong::Doubled), 1);
    }

    #[test]
    fn a_resumed_subscription_brings_what_was_missed_and_one_that_cannot_resume_is_found() {
        let (mut inbox, mut findings) = subscribed();
        let publication =
            |offset, n| Publication { offset, data: data("c:1", "s", n, 0), ..Publication::default() };
        let recovered = SubscribeResult {
            epoch: "e".to_owned(),
            recovered: true,
            was_recovering: true,
            offset: 10,
            publications: vec![publication(11, 0), publication(12, 1)],
            ..SubscribeResult::default()
        };
        inbox.subscribed("c:1", recovered.clone(), &mut findings);
        assert!(findings.is_empty() && inbox.missing("c:1", "s", &Numbers::below(2)).is_empty());
        inbox.subscribed("c:1", SubscribeResult { recovered: false, ..recovered }, &mut findings);
        assert_eq!(findings.count(Wrong::Unrecovered), 1);
    }
}
