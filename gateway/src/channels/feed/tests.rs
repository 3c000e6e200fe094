//! What subscribers receive of a channel, for any order of events.

use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, future::poll_fn};
use proptest::prelude::*;
use tidegate_shared::{
    id::GatewayId,
    protocol::{ClientInfo, Encoding, json},
};

use super::{
    newest::{Loaded, Newest, StoredPublication},
    *,
};
use crate::{
    outbox::{OutboxItem, dialect::Dialect},
    presence::change::MembershipChange,
};

fn publication(offset: u64) -> Publication {
    Publication { data: offset.to_string().into(), offset, ..Publication::default() }
}

fn live(seq: u64, previous: u64) -> Live {
    Live { seq, previous, publication: Some(publication(0)), stored_at: None }
}

fn past(offsets: &[u64], complete: bool) -> Backlog {
    let publications = offsets.iter().map(|offset| publication(*offset)).collect();
    Backlog { publications, complete, removed: None, more: false, end: 0, oldest: None }
}

/// The stream keeps everything.
const ALL: Kept = Kept { publications: usize::MAX, since: SystemTime::UNIX_EPOCH };

fn most(publications: usize) -> Limit {
    Limit { publications, bytes: 1 << 20 }
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
        let pins = feed.state.lock().track.as_ref().map(|track| Arc::clone(&track.pins)).unwrap_or_default();
        self.start(feed, &resume.map_or(Start::Fresh, |offset| Start::Behind(Pin { offset, pins })))
    }

    fn start(&self, feed: &Feed, start: &Start) -> Joined {
        let mut told = None;
        feed.join(self.id.clone(), &self.outbox, None, start, |joined| {
            told = Some(joined);
            Some(Dialect::Json.encode(&Reply::ping()).unwrap())
        });
        told.unwrap()
    }

    fn offsets(&self) -> Vec<u64> {
        let Some(OutboxItem::Frames(frames)) =
            poll_fn(|cx| self.outbox.poll_take(cx, usize::MAX)).now_or_never()
        else {
            return Vec::new();
        };
        let messages = frames.iter().map(|frame| String::from_utf8(frame.payload().into()).unwrap());
        let replies = messages.flat_map(|text| json::decode::<Reply>(&text).collect::<Vec<_>>());
        replies.filter_map(|reply| Some(reply.unwrap().push?.publication?.offset)).collect()
    }
}

/// The gap that a live message has shown.
fn gap(applied: Applied) -> Gap {
    match applied {
        Applied::Gap(gap) => gap,
        other => panic!("no gap: {other:?}"),
    }
}

/// Fills a gap completely.
fn fill(feed: &Feed, gap: &Gap, backlog: Backlog) {
    let healed = feed.heal(gap, backlog);
    assert!(matches!(healed, Healed::Filled), "{healed:?}");
}

/// Where the next read of a gap has to begin.
fn again(healed: Healed) -> Gap {
    match healed {
        Healed::Again(gap) => gap,
        other => panic!("no further read is needed: {other:?}"),
    }
}

/// How many subscribers an unfillable gap removes.
fn lost(healed: Healed) -> usize {
    match healed {
        Healed::Lost(outboxes) => outboxes.len(),
        other => panic!("not lost: {other:?}"),
    }
}

fn tracked(position: u64) -> (Feed, Client) {
    let feed = feed();
    feed.track(position, None);
    let member = Client::new();
    assert_eq!(member.join(&feed, None), Joined::At { position });
    (feed, member)
}

/// The stream that backlogs are read from.
fn epoch() -> Arc<str> {
    "e".into()
}

fn offsets(joined: Joined) -> Option<Vec<u64>> {
    match joined {
        Joined::Resumed { missed } => Some(missed.iter().map(|p| p.offset).collect()),
        Joined::Newest { newest, .. } => Some(newest.iter().map(|p| p.offset).collect()),
        Joined::At { .. } | Joined::Live | Joined::Part { .. } => None,
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
    let gap = gap(feed.live(live(15, 13)));
    assert_eq!(gap.after, 10);
    assert_eq!(feed.live(live(16, 15)), Applied::Known);
    assert_eq!(member.offsets(), [0_u64; 0]);
    fill(&feed, &gap, past(&[12, 13, 15], true));
    assert_eq!(member.offsets(), [12, 13, 15, 16]);
    assert_eq!(feed.live(live(17, 16)), Applied::Delivered(1));
}

#[test]
fn an_unfillable_gap_removes_the_subscribers() {
    let (feed, member) = tracked(10);
    let gap = gap(feed.live(live(15, 13)));
    assert_eq!(lost(feed.heal(&gap, past(&[13, 15], false))), 1);
    assert_eq!(feed.live(live(17, 15)), Applied::Delivered(0));
    assert_eq!(member.offsets(), [0_u64; 0], "nothing behind the gap");
    assert_eq!(member.join(&feed, None), Joined::At { position: 17 });
}

#[test]
fn a_resumed_subscriber_receives_the_missed_publications_and_then_the_live_ones() {
    let (feed, _first) = tracked(10);
    let back = Client::new();
    assert_eq!(offsets(back.join(&feed, Some(10))), Some(vec![]), "nothing was missed");
    assert!(feed.pin(5, most(300), ALL).is_none());
    feed.record();
    feed.live(live(11, 10));
    feed.open_window((&epoch(), 5), past(&[7, 10, 11], true), most(300));
    feed.live(live(12, 11));
    let back = Client::new();
    assert!(
        feed.pin(5, most(300), ALL).is_some()
            && feed.pin(9, most(300), ALL).is_some()
            && feed.pin(4, most(300), ALL).is_none()
    );
    assert_eq!(offsets(back.join(&feed, Some(5))), Some(vec![7, 10, 11, 12]));
    assert_eq!(offsets(Client::new().join(&feed, Some(10))), Some(vec![11, 12]));
    assert_eq!(offsets(Client::new().join(&feed, Some(4))), None);
    feed.live(live(13, 12));
    assert_eq!(back.offsets(), [13]);
}

#[test]
fn a_window_serves_no_more_than_the_stream_keeps() {
    let (feed, _first) = tracked(10);
    let stored = |minutes| SystemTime::UNIX_EPOCH + Duration::from_mins(minutes);
    let kept = |publications, minutes| Kept { publications, since: stored(minutes) };
    let _pin = feed.pin(10, most(300), kept(2, 0)).unwrap();
    for seq in 11..=13 {
        feed.live(Live { stored_at: Some(stored(seq)), ..live(seq, seq - 1) });
    }
    for (offset, publications, minutes, served) in
        [(10, 3, 0, true), (10, 2, 0, false), (11, 2, 0, true), (11, 2, 12, false), (13, 0, 60, true)]
    {
        let pin = feed.pin(offset, most(300), kept(publications, minutes));
        assert_eq!(pin.is_some(), served, "{offset} {publications} {minutes}");
    }
}

#[test]
fn a_publication_between_preparation_and_join_is_not_missed() {
    let (feed, _first) = tracked(10);
    let pin = feed.pin(10, most(300), ALL).unwrap();
    feed.live(live(11, 10));
    assert!(!feed.close_window(), "a join with the window is being prepared");
    assert_eq!(offsets(Client::new().join(&feed, Some(pin.offset))), Some(vec![11]));
    drop(pin);
    assert!(feed.close_window() && !feed.has_window());
}

#[test]
fn a_position_from_before_the_connection_was_lost_proves_nothing() {
    let (feed, member) = tracked(10);
    feed.received_on(1);
    feed.trust(1);
    assert!(feed.pin(10, most(300), ALL).is_some(), "nothing was missed so far");
    feed.received_on(2);
    assert!(
        feed.is_doubted() && feed.pin(10, most(300), ALL).is_none(),
        "neither the window nor the position counts"
    );
    feed.record();
    feed.open_window((&epoch(), 10), past(&[], true), most(300));
    assert!(feed.pin(10, most(300), ALL).is_some(), "read over this connection");
    feed.received_on(3);
    feed.received_on(1);
    assert!(feed.pin(10, most(300), ALL).is_none(), "read over an earlier one");
    // The message before it has expired, and was perhaps never received.
    let gap = gap(feed.live(live(15, 0)));
    assert_eq!(lost(feed.heal(&gap, Backlog { end: 20, ..past(&[15], false) })), 1);
    assert_eq!(member.offsets(), [0_u64; 0], "nothing behind what may be missing");
    assert_eq!(feed.position(), Some(20), "an old position is behind what may be missing");
    assert!(!feed.is_doubted(), "who joins now misses nothing");
}

#[test]
fn a_position_counts_again_when_it_was_compared_over_the_same_connection() {
    let (feed, member) = tracked(10);
    feed.received_on(1);
    feed.received_on(2);
    feed.trust(1);
    assert!(feed.is_doubted(), "the connection was lost again meanwhile");
    assert_eq!(feed.live(live(11, 10)), Applied::Delivered(1), "the chain holds");
    assert!(feed.is_doubted(), "it says nothing of what expired");
    feed.trust(2);
    assert_eq!(feed.live(live(15, 0)), Applied::Delivered(1));
    feed.received_on(3);
    let healing = gap(feed.live(live(18, 0)));
    feed.received_on(4);
    assert!(matches!(feed.heal(&healing, past(&[18], true)), Healed::Filled));
    assert!(feed.is_doubted(), "the read may be older than the newest connection");
    assert_eq!(member.offsets(), [11, 15, 18]);
    let healing = gap(feed.live(live(21, 0)));
    feed.received_on(5);
    assert_eq!(lost(feed.heal(&healing, Backlog { end: 21, ..past(&[], false) })), 1);
    assert!(feed.is_doubted(), "so may the read be after which the channel goes on");
}

#[test]
fn a_position_is_current_only_while_the_stream_could_show_the_opposite() {
    for (position, newest, whole, expected) in [
        (10, Some(10), false, Standing::Current),
        (10, Some(9), false, Standing::Current),
        (10, Some(11), true, Standing::Behind(11)),
        (10, None, true, Standing::Current),
        (10, None, false, Standing::Unknown),
    ] {
        assert_eq!(standing(position, newest, whole), expected, "{position} {newest:?} {whole}");
    }
}

#[test]
fn an_abandoned_record_stays_bounded() {
    let (feed, _first) = tracked(0);
    feed.record();
    for seq in 1..=2000 {
        feed.live(live(seq, seq - 1));
    }
    feed.open_window((&epoch(), 0), past(&[], true), most(3000));
    assert!(!feed.has_window(), "the window was closed, and the missed publication is not skipped");
}

#[test]
fn a_backlog_over_the_limit_opens_no_window_and_its_beginning_is_a_part() {
    let (feed, _first) = tracked(10);
    for (read, more) in [(past(&[7, 8, 9], true), false), (past(&[7, 8], true), true)] {
        feed.record();
        let until = 8;
        let opened = feed.open_window((&epoch(), 5), Backlog { more, ..read }, most(2));
        let Opened::Part(part) = opened else { panic!("{opened:?}") };
        assert!((part.after, part.until) == (5, until) && part.continues("e", 5), "{part:?}");
        assert!(feed.pin(5, most(2), ALL).is_none(), "more than the limit");
        let client = Client::new();
        assert_eq!(client.start(&feed, &Start::Part(Arc::clone(&part))), Joined::Part { position: 10, part });
    }
    feed.record();
    let opened = feed.open_window((&epoch(), 5), Backlog { more: true, ..past(&[7, 8], false) }, most(2));
    assert_eq!(opened, Opened::No, "its beginning is not proven");
    feed.record();
    feed.open_window((&epoch(), 5), past(&[7, 8], false), most(2));
    assert!(feed.pin(5, most(2), ALL).is_none(), "not all of it");
    feed.record();
    feed.open_window((&epoch(), 5), past(&[7, 8], true), most(2));
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
    let answer = |_| Some(Dialect::Json.encode(&Reply::ping()).unwrap());
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
            frames.iter().map(|frame| String::from_utf8(frame.payload().into()).unwrap()).collect::<Vec<_>>()
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
    let found = feed.begin_heal(12).unwrap();
    assert_eq!(found.after, 10);
    fill(&feed, &found, past(&[12], true));
    assert_eq!(feed.load_newest(Some(newest(12))), Loaded::Yes);
    assert!(feed.knows_newest(always));
    assert!(!feed.knows_newest(SystemTime::now()), "it may have expired from the stream");
    assert_eq!(feed.load_newest(None), Loaded::Yes);
    assert_eq!(cached(&feed, None), None);
    feed.live(timed(15, 12));
    assert_eq!(lost(feed.heal(&gap(feed.live(timed(20, 18))), past(&[20], false))), 1);
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
        let mut gap: Option<(Gap, usize)> = None;
        for (index, seq) in stream.iter().enumerate() {
            let stored = &stream[..=index];
            for (_, resume) in joins.iter().filter(|(at, _)| *at == index) {
                let resume = resume.filter(|offset| feed.position().is_some_and(|position| *offset <= position));
                if let Some(offset) = resume {
                    feed.record();
                    let behind: Vec<u64> = stored.iter().copied().filter(|s| *s > offset).collect();
                    feed.open_window((&epoch(), offset), past(&behind, true), most(300));
                }
                let member = Client::new();
                let position = match member.join(&feed, resume) {
                    Joined::At { position } => position,
                    Joined::Resumed { missed } => missed.last().map_or_else(|| resume.unwrap(), |p| p.offset),
                    Joined::Newest { .. } | Joined::Live | Joined::Part { .. } => unreachable!("the channel has history, and all of it"),
                };
                members.push((member, position));
            }
            let previous = if index == 0 { 0 } else { stream[index - 1] };
            for _ in 0..if lost[index] { 0 } else { 1 + usize::from(repeated[index]) } {
                if let Applied::Gap(found) = feed.live(live(*seq, previous)) {
                    gap = Some((found, index + heal_after[index]));
                }
            }
            if let Some((found, _)) = gap.take_if(|(_, at)| *at <= index) {
                let behind: Vec<u64> = stored.iter().copied().filter(|s| *s > found.after).collect();
                fill(&feed, &found, past(&behind, true));
            }
        }
        if let Some(found) = gap.map(|(found, _)| found).or_else(|| feed.begin_heal(0)) {
            let behind: Vec<u64> = stream.iter().copied().filter(|s| *s > found.after).collect();
            fill(&feed, &found, past(&behind, true));
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
    feed.open_window((&epoch(), 5), past(&[7, 10], true), most(300));
    feed.record();
    assert_eq!(feed.live(removal(12, 10)), Applied::Delivered(0));
    feed.open_window((&epoch(), 5), past(&[7, 10], true), most(300));
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
    let found = gap(feed.live(live(15, 13)));
    fill(&feed, &found, Backlog { removed: Some(13), ..past(&[15], true) });
    assert_eq!(feed.position(), Some(15));
    let found = feed.begin_heal(0).unwrap();
    assert_eq!(found.after, 15);
    assert_eq!(lost(feed.heal(&found, Backlog { removed: Some(20), ..past(&[], false) })), 1);
    assert_eq!(feed.live(live(21, 20)), Applied::Delivered(0), "the subscribers were removed, and resume");
    let found = feed.begin_heal(0).unwrap();
    assert_eq!(found.after, 21);
    fill(&feed, &found, Backlog { removed: Some(30), ..past(&[], true) });
    assert_eq!(feed.live(live(31, 30)), Applied::Delivered(0));
}

#[test]
fn a_removal_that_fills_a_gap_is_not_recovered_from_the_window() {
    let (feed, _member) = tracked(10);
    assert!(feed.pin(10, most(300), ALL).is_some());
    feed.live(live(12, 10));
    let found = gap(feed.live(live(17, 15)));
    fill(&feed, &found, Backlog { removed: Some(15), ..past(&[14, 17], true) });
    assert_eq!(Client::new().join(&feed, Some(10)), Joined::At { position: 17 });
    assert_eq!(offsets(Client::new().join(&feed, Some(15))), Some(vec![17]));
}

#[test]
fn a_publication_that_is_lost_while_a_gap_is_filled_is_not_skipped() {
    let (feed, member) = tracked(8);
    let found = gap(feed.live(live(10, 9)));
    // The read ends with 10, and then 11 is stored and lost.
    assert_eq!(feed.live(live(12, 11)), Applied::Known);
    let left = again(feed.heal(&found, past(&[9, 10], true)));
    assert_eq!(member.offsets(), [9, 10], "12 waits for 11");
    assert_eq!(left.after, 10);
    fill(&feed, &left, past(&[11, 12], true));
    assert_eq!(member.offsets(), [11, 12]);
}

#[test]
fn a_read_of_a_replica_that_is_behind_fills_no_gap() {
    let (feed, member) = tracked(8);
    let found = gap(feed.live(live(10, 9)));
    let left = again(feed.heal(&found, past(&[], true)));
    assert_eq!((left.after, member.offsets()), (8, vec![]));
    fill(&feed, &left, past(&[9], true));
    assert_eq!(member.offsets(), [9, 10]);
    // The comparison of positions has seen 14, and no live message shows it.
    let found = feed.begin_heal(14).unwrap();
    let left = again(feed.heal(&found, past(&[12], true)));
    fill(&feed, &left, past(&[14], true));
    assert_eq!(member.offsets(), [12, 14]);
}

#[test]
fn a_gap_that_is_given_up_removes_the_subscribers_once() {
    let (feed, member) = tracked(8);
    let found = gap(feed.live(live(10, 9)));
    assert_eq!(feed.give_up(&found).len(), 1);
    assert_eq!(feed.position(), Some(10));
    assert_eq!(member.join(&feed, None), Joined::At { position: 10 });
    assert!(feed.give_up(&found).is_empty());
    fill(&feed, &found, past(&[9, 10], true));
    assert_eq!(member.offsets(), [0_u64; 0], "the read of an earlier gap is not applied");
}

#[test]
fn more_live_messages_than_may_wait_are_read_from_the_stream() {
    let (feed, member) = tracked(0);
    let found = gap(feed.live(live(2, 1)));
    for seq in 3..=1500 {
        assert_eq!(feed.live(live(seq, seq - 1)), Applied::Known);
    }
    let left = again(feed.heal(&found, past(&[1], true)));
    fill(&feed, &left, past(&(left.after + 1..=1500).collect::<Vec<_>>(), true));
    assert_eq!(member.offsets(), (1..=1500).collect::<Vec<_>>());
    let large = |seq| {
        let publication = Publication { data: vec![b'1'; 1 << 20].into(), ..Publication::default() };
        Live { publication: Some(publication), ..live(seq, seq - 1) }
    };
    let found = gap(feed.live(large(1502)));
    for seq in 1503..1600 {
        feed.live(large(seq));
    }
    let left = again(feed.heal(&found, past(&[1501], true)));
    assert!(left.after < 1510, "the bytes that wait are bounded too");
}

#[test]
fn a_client_from_a_faster_gateway_receives_only_what_it_does_not_have() {
    let (feed, slow) = tracked(10);
    let pin = feed.pin(14, most(300), ALL).unwrap();
    let fast = Client::new();
    let joined = fast.start(&feed, &Start::Behind(pin));
    assert_eq!(offsets(joined), Some(vec![]));
    for (seq, previous) in [(12, 10), (14, 12), (15, 14)] {
        assert!(matches!(feed.live(live(seq, previous)), Applied::Delivered(_)));
    }
    assert_eq!((slow.offsets(), fast.offsets()), (vec![12, 14, 15], vec![15]));
    // While its join is prepared, the gateway overtakes it.
    let pin = feed.pin(17, most(300), ALL).unwrap();
    for (seq, previous) in [(17, 15), (19, 17)] {
        feed.live(live(seq, previous));
    }
    assert_eq!(offsets(Client::new().start(&feed, &Start::Behind(pin))), Some(vec![19]));
    // Or the stream turns out to be another one.
    let pin = feed.pin(25, most(300), ALL).unwrap();
    assert_eq!(feed.restart(3, false).len(), 3);
    assert_eq!(Client::new().start(&feed, &Start::Behind(pin)), Joined::At { position: 3 });
}

#[test]
fn a_cache_channel_sends_nothing_older_than_the_client_has() {
    let feed = feed();
    feed.track(10, Some(Newest::Known(Some(newest(10)))));
    assert_eq!(cached(&feed, Some(12)), Some(vec![]));
}

#[test]
fn a_window_is_not_opened_with_a_read_of_a_replica_that_is_behind() {
    let (feed, _member) = tracked(5);
    feed.live(live(7, 5));
    feed.live(live(10, 7));
    feed.record();
    assert_eq!(feed.open_window((&epoch(), 5), past(&[7], true), most(300)), Opened::Stale);
    assert!(feed.pin(5, most(300), ALL).is_none());
    feed.record();
    assert_eq!(feed.open_window((&epoch(), 5), past(&[7, 10], true), most(300)), Opened::Yes);
    assert_eq!(offsets(Client::new().join(&feed, Some(5))), Some(vec![7, 10]));
}

/// What happens to a channel. Reads overlap with everything else, and may show a state that is some messages old.
#[derive(Debug, Clone)]
enum Happening {
    /// A message is stored. Its live copy arrives so many times, also not at all.
    Stored { copies: usize },
    /// The read of a gap is answered: as the stream was so many messages ago, or when the read began, whichever is
    /// newer.
    Read { old: usize },
    /// The comparison of positions finds the channel behind.
    Compared,
    /// A client joins: with the next publication, or from so many messages ago; negative for a client of a faster
    /// gateway.
    Joined { behind: Option<i64> },
    /// A join from so many messages ago is prepared by a read that is so old, and takes place.
    Resumed { behind: usize, old: usize },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0usize..3).prop_map(|copies| Happening::Stored { copies }),
        3 => (0usize..4).prop_map(|old| Happening::Read { old }),
        1 => Just(Happening::Compared),
        1 => proptest::option::of(-4i64..2).prop_map(|behind| Happening::Joined { behind }),
        1 => (0usize..8, 0usize..4).prop_map(|(behind, old)| Happening::Resumed { behind, old }),
    ]
}

/// A channel whose messages have the sequences 3, 6, 9 and so on.
struct World {
    feed: Feed,
    stored: u64,
    gap: Option<(Gap, u64)>,
    members: Vec<(Client, u64)>,
}

impl World {
    fn begin(&mut self, gap: Option<Gap>) {
        let began_with = self.stored;
        self.gap = gap.map(|gap| (gap, began_with)).or(self.gap);
    }

    fn behind(after: u64, until: u64) -> Backlog {
        past(&(1..=until).map(|n| n * 3).filter(|seq| *seq > after).collect::<Vec<_>>(), true)
    }

    fn read(&mut self, old: u64) {
        let Some((gap, began_with)) = self.gap.take() else { return };
        let until = self.stored.saturating_sub(old).max(began_with.saturating_sub(3));
        match self.feed.heal(&gap, Self::behind(gap.after, until)) {
            Healed::Again(left) => self.begin(Some(left)),
            Healed::Filled => {}
            Healed::Lost(_) => panic!("the backlog was complete"),
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Stored { copies } => {
                self.stored += 1;
                for _ in 0..copies {
                    if let Applied::Gap(gap) = self.feed.live(live(self.stored * 3, (self.stored - 1) * 3)) {
                        self.begin(Some(gap));
                    }
                }
            }
            Happening::Read { old } => self.read(old as u64),
            Happening::Compared => {
                let behind = self.feed.position() < Some(self.stored * 3);
                let gap = behind.then(|| self.feed.begin_heal(self.stored * 3)).flatten();
                self.begin(gap);
            }
            Happening::Joined { behind } => {
                let wish = behind.map(|behind| self.stored.saturating_add_signed(behind) * 3);
                let wish = wish.filter(|offset| *offset <= self.stored * 3);
                let pin = wish.and_then(|offset| self.feed.pin(offset, most(300), ALL));
                self.join(pin.map_or(Start::Fresh, Start::Behind));
            }
            Happening::Resumed { behind, old } => {
                let offset = self.stored.saturating_sub(behind as u64) * 3;
                self.feed.record();
                let read = Self::behind(offset, self.stored.saturating_sub(old as u64));
                self.feed.open_window((&epoch(), offset), read, most(300));
                let pin = self.feed.pin(offset, most(300), ALL);
                self.join(pin.map_or(Start::Fresh, Start::Behind));
            }
        }
    }

    fn join(&mut self, start: Start) {
        let client = Client::new();
        let position = match (client.start(&self.feed, &start), start) {
            (Joined::At { position }, _) => position,
            (Joined::Resumed { missed }, Start::Behind(pin)) => {
                let begun = missed.iter().map(|p| p.offset);
                let until = missed.last().map_or(pin.offset, |newest| newest.offset);
                let all = (1..=self.stored).map(|n| n * 3).filter(|seq| *seq > pin.offset && *seq <= until);
                assert!(begun.eq(all), "the missed publications have no hole");
                until
            }
            (other, _) => panic!("the channel has history, and is not in cache mode: {other:?}"),
        };
        self.members.push((client, position));
    }
}

proptest! {
    /// Reads take time, show an older state than the live messages, and overlap with losses, repeats and joins. Each
    /// subscriber receives everything behind its position, once and in order.
    #[test]
    fn reads_that_overlap_with_losses_leave_no_hole(happenings in proptest::collection::vec(happening(), 1..60)) {
        let mut world = World { feed: feed(), stored: 4, gap: None, members: Vec::new() };
        world.feed.track(12, None);
        world.feed.know(12);
        for happening in &happenings {
            world.happen(happening);
            for (client, position) in &mut world.members {
                for offset in client.offsets() {
                    prop_assert_eq!(offset, *position + 3, "once, in order and without a hole");
                    *position = offset;
                }
            }
        }
        world.happen(&Happening::Compared);
        for old in [1, 0] {
            world.read(old);
        }
        for (client, position) in &world.members {
            let expected: Vec<u64> = (1..=world.stored).map(|n| n * 3).filter(|seq| seq > position).collect();
            prop_assert_eq!(client.offsets(), expected);
        }
    }
}
