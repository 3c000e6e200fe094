//! What subscribers receive of a channel, for any order of events.

use std::time::SystemTime;

use futures_util::{FutureExt, future::poll_fn};
use proptest::prelude::*;
use tidegate_shared::{
    id::GatewayId,
    protocol::{ClientInfo, Encoding, encode_reply, json},
};

use super::{
    newest::{Loaded, Newest, StoredPublication},
    *,
};
use crate::{outbox::OutboxItem, presence::change::MembershipChange};

fn publication(offset: u64) -> Publication {
    Publication { data: offset.to_string().into(), offset, ..Publication::default() }
}

fn live(seq: u64, previous: u64) -> Live {
    Live { seq, previous, publication: Some(publication(0)), stored_at: None }
}

fn past(offsets: &[u64], complete: bool) -> Backlog {
    let publications = offsets.iter().map(|offset| publication(*offset)).collect();
    Backlog { publications, complete, removed: None }
}

fn feed() -> Feed {
    Feed::new(Channel::parse("chat:x").unwrap())
}

struct Client {
    id: ClientId,
    outbox: Arc<Outbox>,
}

impl Client {
    fn new() -> Self {
        let outbox = Arc::new(Outbox::new(Encoding::Json, 1 << 20));
        outbox.open();
        Self { id: ClientId::random(&GatewayId::random()), outbox }
    }

    fn join(&self, feed: &Feed, resume: Option<u64>) -> Joined {
        let pin = |offset| Start::Behind(Pin { offset, _window: Arc::default() });
        self.start(feed, &resume.map_or(Start::Fresh, pin))
    }

    fn start(&self, feed: &Feed, start: &Start) -> Joined {
        let mut told = None;
        feed.join(self.id.clone(), &self.outbox, None, start, |joined| {
            told = Some(joined);
            Some(encode_reply(Encoding::Json, &Reply::ping()).unwrap())
        });
        told.unwrap()
    }

    fn offsets(&self) -> Vec<u64> {
        let Some(OutboxItem::Frames(frames)) =
            poll_fn(|cx| self.outbox.poll_take(cx, usize::MAX)).now_or_never()
        else {
            return Vec::new();
        };
        let replies = frames
            .iter()
            .flat_map(|frame| json::decode::<Reply>(std::str::from_utf8(frame).unwrap()).collect::<Vec<_>>());
        replies.filter_map(|reply| Some(reply.unwrap().push?.publication?.offset)).collect()
    }
}

fn tracked(position: u64) -> (Feed, Client) {
    let feed = feed();
    feed.track(position, None);
    let member = Client::new();
    assert_eq!(member.join(&feed, None), Joined::At { position });
    (feed, member)
}

fn offsets(joined: Joined) -> Option<Vec<u64>> {
    match joined {
        Joined::Resumed { missed } => Some(missed.iter().map(|p| p.offset).collect()),
        Joined::Newest { newest, .. } => Some(newest.iter().map(|p| p.offset).collect()),
        Joined::At { .. } | Joined::Live => None,
    }
}

#[test]
fn publications_arrive_once_and_in_order() {
    let (feed, member) = tracked(10);
    assert_eq!(feed.live(live(10, 8)), Applied::Known);
    assert_eq!(feed.live(live(12, 10)), Applied::Delivered(1));
    assert_eq!(feed.live(live(12, 10)), Applied::Known);
    assert_eq!(feed.live(live(15, 12)), Applied::Delivered(1));
    assert_eq!(
        feed.live(live(20, 0)),
        Applied::Delivered(1),
        "the one before it has expired, not been missed"
    );
    assert_eq!(member.offsets(), [12, 15, 20]);
}

#[test]
fn a_gap_is_filled_before_what_follows_it() {
    let (feed, member) = tracked(10);
    assert_eq!(feed.live(live(15, 13)), Applied::Gap { after: 10 });
    assert_eq!(feed.live(live(16, 15)), Applied::Known);
    assert_eq!(member.offsets(), [0_u64; 0]);
    assert!(feed.heal(past(&[12, 13, 15], true)).is_empty());
    assert_eq!(member.offsets(), [12, 13, 15, 16]);
    assert_eq!(feed.live(live(17, 16)), Applied::Delivered(1));
}

#[test]
fn an_unfillable_gap_removes_the_subscribers() {
    let (feed, member) = tracked(10);
    feed.live(live(15, 13));
    let lost = feed.heal(past(&[13, 15], false));
    assert_eq!(lost.len(), 1);
    assert_eq!(feed.live(live(17, 15)), Applied::Delivered(0));
    assert_eq!(member.offsets(), [0_u64; 0], "nothing behind the gap");
    assert_eq!(member.join(&feed, None), Joined::At { position: 17 });
}

#[test]
fn a_resumed_subscriber_receives_the_missed_publications_and_then_the_live_ones() {
    let (feed, _first) = tracked(10);
    let back = Client::new();
    assert_eq!(offsets(back.join(&feed, Some(10))), Some(vec![]), "nothing was missed");
    assert!(feed.pin(5, 300).is_none());
    feed.record();
    feed.live(live(11, 10));
    feed.open_window(5, past(&[7, 10, 11], true), 300);
    feed.live(live(12, 11));
    let back = Client::new();
    assert!(feed.pin(5, 300).is_some() && feed.pin(9, 300).is_some() && feed.pin(4, 300).is_none());
    assert_eq!(offsets(back.join(&feed, Some(5))), Some(vec![7, 10, 11, 12]));
    assert_eq!(offsets(Client::new().join(&feed, Some(10))), Some(vec![11, 12]));
    assert_eq!(offsets(Client::new().join(&feed, Some(4))), None);
    feed.live(live(13, 12));
    assert_eq!(back.offsets(), [13]);
}

#[test]
fn a_publication_between_preparation_and_join_is_not_missed() {
    let (feed, _first) = tracked(10);
    let pin = feed.pin(10, 300).unwrap();
    feed.live(live(11, 10));
    assert!(!feed.close_window(), "a join with the window is being prepared");
    assert_eq!(offsets(Client::new().join(&feed, Some(pin.offset))), Some(vec![11]));
    drop(pin);
    assert!(feed.close_window() && !feed.has_window());
}

#[test]
fn an_abandoned_record_stays_bounded() {
    let (feed, _first) = tracked(0);
    feed.record();
    for seq in 1..=2000 {
        feed.live(live(seq, seq - 1));
    }
    feed.open_window(0, past(&[], true), 3000);
    assert!(!feed.has_window(), "the window was closed, and the missed publication is not skipped");
}

#[test]
fn a_backlog_over_the_limit_is_not_recovered_even_partly() {
    let (feed, _first) = tracked(10);
    feed.record();
    feed.open_window(5, past(&[7, 8, 9], true), 2);
    assert!(feed.pin(5, 2).is_none(), "more than the limit");
    feed.record();
    feed.open_window(5, past(&[7, 8], false), 2);
    assert!(feed.pin(5, 2).is_none(), "not all of it");
    feed.record();
    feed.open_window(5, past(&[7, 8], true), 2);
    feed.live(live(11, 10));
    assert_eq!(offsets(Client::new().join(&feed, Some(5))), None, "one more than the limit by now");
    assert_eq!(offsets(Client::new().join(&feed, Some(7))), Some(vec![8, 11]));
}

#[test]
fn a_channel_without_history_has_no_positions() {
    let feed = feed();
    let member = Client::new();
    assert_eq!(member.join(&feed, Some(5)), Joined::Live);
    assert_eq!(feed.live(live(3, 9)), Applied::Delivered(1));
    feed.leave(&member.id);
    assert_eq!(feed.live(live(4, 3)), Applied::Delivered(0));
}

fn named(id: &ClientId) -> ClientInfo {
    ClientInfo { user: "u".into(), client: id.as_str().into(), ..ClientInfo::default() }
}

#[test]
fn a_subscriber_receives_its_own_join_behind_its_reply_and_then_those_of_others() {
    let feed = feed();
    let (asked, silent, stranger) = (Client::new(), Client::new(), ClientId::random(&GatewayId::random()));
    let answer = |_| Some(encode_reply(Encoding::Json, &Reply::ping()).unwrap());
    let asks = JoinOptions { delivery: None, join_leave_as: Some(Box::new(named(&asked.id))) };
    feed.join(asked.id.clone(), &asked.outbox, asks, &Start::Fresh, answer);
    feed.join(silent.id.clone(), &silent.outbox, JoinOptions::default(), &Start::Fresh, answer);
    for (id, joined) in [(&asked.id, true), (&stranger, true), (&stranger, false), (&asked.id, false)] {
        let reach = feed.deliver_change(&MembershipChange { info: named(id), joined });
        assert_eq!(reach, usize::from(*id == stranger), "a member receives no change of its own");
    }
    let frames = |client: &Client| match poll_fn(|cx| client.outbox.poll_take(cx, usize::MAX)).now_or_never()
    {
        Some(OutboxItem::Frames(frames)) => {
            frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    let push = |what, id: &ClientId| {
        format!(r#"{{"push":{{"channel":"chat:x","{what}":{{"info":{{"user":"u","client":"{id}"}}}}}}}}"#)
    };
    assert_eq!(
        frames(&asked),
        ["{}".to_owned(), push("join", &asked.id), push("join", &stranger), push("leave", &stranger)]
    );
    assert_eq!(frames(&silent), ["{}"]);
}

fn newest(offset: u64) -> StoredPublication {
    StoredPublication { publication: Arc::new(publication(offset)), stored_at: SystemTime::UNIX_EPOCH }
}

fn timed(seq: u64, previous: u64) -> Live {
    Live { stored_at: Some(SystemTime::UNIX_EPOCH), ..live(seq, previous) }
}

/// What a client that has seen this offset recovers. `None` if it does not recover.
fn cached(feed: &Feed, seen: Option<u64>) -> Option<Vec<u64>> {
    offsets(Client::new().start(feed, &Start::Newest { seen }))
}

#[test]
fn a_cache_channel_sends_its_newest_publication_to_clients_without_it() {
    let feed = feed();
    feed.track(10, Some(Newest::Known(Some(newest(10)))));
    assert_eq!(cached(&feed, None), Some(vec![10]));
    assert_eq!(cached(&feed, Some(7)), Some(vec![10]));
    assert_eq!(cached(&feed, Some(10)), Some(vec![]), "it has it");
    let member = Client::new();
    member.start(&feed, &Start::Newest { seen: None });
    feed.live(timed(12, 10));
    assert_eq!(member.offsets(), [12]);
    assert_eq!(cached(&feed, None), Some(vec![12]));
    assert_eq!(Client::new().start(&feed, &Start::Fresh), Joined::At { position: 12 });
}

#[test]
fn an_empty_cache_channel_recovers_only_clients_at_its_end() {
    let feed = feed();
    feed.track(10, Some(Newest::Known(None)));
    assert_eq!((cached(&feed, None), cached(&feed, Some(9))), (None, None));
    assert_eq!(cached(&feed, Some(10)), Some(vec![]));
    assert!(feed.has_newest(Some(10)) && !feed.has_newest(None));
}

#[test]
fn a_cache_channel_reads_its_newest_publication_when_it_is_unknown() {
    let feed = feed();
    let always = SystemTime::UNIX_EPOCH;
    feed.track(10, Some(Newest::Unknown));
    assert!(!feed.knows_newest(always));
    assert_eq!(feed.load_newest(Some(newest(12))), Loaded::Ahead, "no subscriber has received it yet");
    let after = feed.begin_heal().unwrap();
    assert!(after == 10 && feed.heal(past(&[12], true)).is_empty());
    assert_eq!(feed.load_newest(Some(newest(12))), Loaded::Yes);
    assert!(feed.knows_newest(always));
    assert!(!feed.knows_newest(SystemTime::now()), "it may have expired from the stream");
    assert_eq!(feed.load_newest(None), Loaded::Yes);
    assert_eq!(cached(&feed, None), None);
    feed.live(timed(15, 12));
    feed.live(timed(20, 18));
    feed.heal(past(&[20], false));
    assert!(!feed.knows_newest(always), "a gap that could not be filled");
}

proptest! {
    /// Publications reach a gateway with losses, repeats and reads in between, and subscribers join and resume at any
    /// time. Each receives everything behind its position, once and in order.
    #[test]
    fn every_subscriber_receives_everything_behind_its_position(
        seqs in proptest::collection::btree_set(1u64..200, 1..40),
        lost in proptest::collection::vec(any::<bool>(), 40),
        repeated in proptest::collection::vec(any::<bool>(), 40),
        heal_after in proptest::collection::vec(0usize..4, 40),
        joins in proptest::collection::vec((0usize..40, proptest::option::of(0u64..200)), 0..5),
    ) {
        let stream: Vec<u64> = seqs.into_iter().collect();
        let feed = feed();
        feed.track(0, None);
        let mut members: Vec<(Client, u64)> = Vec::new();
        let mut gap: Option<(u64, usize)> = None;
        for (index, seq) in stream.iter().enumerate() {
            let stored = &stream[..=index];
            for (_, resume) in joins.iter().filter(|(at, _)| *at == index) {
                let resume = resume.filter(|offset| feed.position().is_some_and(|position| *offset <= position));
                if let Some(offset) = resume {
                    feed.record();
                    let behind: Vec<u64> = stored.iter().copied().filter(|s| *s > offset).collect();
                    feed.open_window(offset, past(&behind, true), 300);
                }
                let member = Client::new();
                let position = match member.join(&feed, resume) {
                    Joined::At { position } => position,
                    Joined::Resumed { missed } => missed.last().map_or_else(|| resume.unwrap(), |p| p.offset),
                    Joined::Newest { .. } | Joined::Live => unreachable!("the channel has history, and all of it"),
                };
                members.push((member, position));
            }
            let previous = if index == 0 { 0 } else { stream[index - 1] };
            for _ in 0..if lost[index] { 0 } else { 1 + usize::from(repeated[index]) } {
                if let Applied::Gap { after } = feed.live(live(*seq, previous)) {
                    gap = Some((after, index + heal_after[index]));
                }
            }
            if let Some((after, _)) = gap.take_if(|(_, at)| *at <= index) {
                let behind: Vec<u64> = stored.iter().copied().filter(|s| *s > after).collect();
                prop_assert!(feed.heal(past(&behind, true)).is_empty());
            }
        }
        if let Some(after) = gap.map(|(after, _)| after).or_else(|| feed.begin_heal()) {
            let behind: Vec<u64> = stream.iter().copied().filter(|s| *s > after).collect();
            feed.heal(past(&behind, true));
        }
        for (member, position) in members {
            let expected: Vec<u64> = stream.iter().copied().filter(|seq| *seq > position).collect();
            prop_assert_eq!(member.offsets(), expected);
        }
    }
}

fn removal(seq: u64, previous: u64) -> Live {
    Live { seq, previous, publication: None, stored_at: None }
}

#[test]
fn removed_publications_are_not_recovered_and_the_channel_goes_on() {
    let (feed, member) = tracked(10);
    feed.record();
    feed.open_window(5, past(&[7, 10], true), 300);
    feed.record();
    assert_eq!(feed.live(removal(12, 10)), Applied::Delivered(0));
    feed.open_window(5, past(&[7, 10], true), 300);
    for offset in [5, 7, 10] {
        assert_eq!(Client::new().join(&feed, Some(offset)), Joined::At { position: 12 }, "{offset}");
    }
    assert_eq!(feed.live(live(13, 12)), Applied::Delivered(4));
    assert_eq!(offsets(Client::new().join(&feed, Some(12))), Some(vec![13]));
    assert_eq!(member.offsets(), [13]);
}

#[test]
fn a_removal_behind_a_gap_is_not_a_gap_for_ever() {
    let (feed, _member) = tracked(10);
    assert_eq!(feed.live(live(15, 13)), Applied::Gap { after: 10 });
    assert!(feed.heal(Backlog { removed: Some(13), ..past(&[15], true) }).is_empty());
    assert_eq!(feed.position(), Some(15));
    assert_eq!(feed.begin_heal(), Some(15));
    assert_eq!(feed.heal(Backlog { removed: Some(20), ..past(&[], false) }).len(), 1);
    assert_eq!(feed.live(live(21, 20)), Applied::Delivered(0), "the subscribers were removed, and resume");
    assert_eq!(feed.begin_heal(), Some(21));
    feed.heal(Backlog { removed: Some(30), ..past(&[], true) });
    assert_eq!(feed.live(live(31, 30)), Applied::Delivered(0));
}
