//! What an outbox takes, and what its connection gets from it.

use bytes::Bytes;
use futures_util::{FutureExt, future::poll_fn};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tidegate_shared::{lifecycle::Lifecycle, protocol::Encoding};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::{flusher::Flusher, order::Action, *};

fn take(outbox: &Outbox, most: usize) -> Option<OutboxItem> {
    poll_fn(|cx| outbox.poll_take(cx, most)).now_or_never()
}

fn bytes(n: usize) -> Frame {
    text(&"x".repeat(n))
}

fn text(payload: &str) -> Frame {
    Frame::message(Dialect::Json, payload.as_bytes())
}

fn payloads(frames: &VecDeque<Frame>) -> Vec<Bytes> {
    frames.iter().map(Frame::payload).collect()
}

#[test]
fn frames_come_out_in_order_and_in_bounded_batches() {
    let outbox = Outbox::new(Encoding::Json, 100);
    for payload in ["a", "b", "c"] {
        outbox.push(text(payload));
    }
    assert!(matches!(take(&outbox, 2), Some(OutboxItem::Frames(f)) if payloads(&f) == ["a", "b"]));
    assert!(matches!(take(&outbox, 2), Some(OutboxItem::Frames(f)) if payloads(&f) == ["c"]));
    assert!(take(&outbox, 2).is_none());
}

#[test]
fn a_reply_can_go_before_the_queued_frames() {
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.push(text("b"));
    outbox.push_first(text("a"));
    assert!(matches!(take(&outbox, 100), Some(OutboxItem::Frames(f)) if payloads(&f) == ["a", "b"]));
}

#[test]
fn exactly_the_limit_fits_and_one_byte_more_ends_the_connection() {
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.push(bytes(60));
    outbox.push(bytes(40));
    assert!(matches!(take(&outbox, 1000), Some(OutboxItem::Frames(f)) if f.len() == 2));
    outbox.push(bytes(101));
    assert!(matches!(take(&outbox, 1000), Some(OutboxItem::End(end)) if end == codes::SLOW));
}

#[test]
fn an_outbox_with_more_than_is_left_for_all_ends_and_the_others_go_on() {
    let total = Total::new(100_000, Gauge::default(), Counter::default());
    let of = || Outbox::new(Dialect::Json, 60_000).within(Arc::clone(&total));
    let (full, other) = (of(), of());
    full.push(bytes(45_000));
    full.push(bytes(10_000));
    other.push(bytes(20_000));
    full.push(bytes(1));
    assert!(matches!(take(&full, 1), Some(OutboxItem::End(end)) if end == codes::SLOW));
    other.push(bytes(40_000));
    assert!(!other.has_room());
    assert!(matches!(take(&other, 60_000), Some(OutboxItem::Frames(f)) if f.len() == 2));
    assert!(other.has_room());
}

#[test]
fn a_reply_fits_if_it_fits_an_empty_outbox_and_there_is_room() {
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.open();
    outbox.push(bytes(50));
    assert!(outbox.has_room());
    outbox.push(bytes(100));
    assert!(!outbox.has_room());
    assert!(matches!(take(&outbox, 1000), Some(OutboxItem::Frames(f)) if f.len() == 2));
    outbox.push(bytes(50));
    outbox.deliver(bytes(100));
    assert!(matches!(take(&outbox, 1000), Some(OutboxItem::End(end)) if end == codes::SLOW), "a publication");
}

#[test]
fn an_order_waits_for_the_welcome_unless_it_ends_the_connection() {
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.order(&order(Action::default()));
    assert!(take(&outbox, 10).is_none());
    outbox.open();
    assert!(matches!(take(&outbox, 10), Some(OutboxItem::Order(_))));
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.order(&order(Action::Disconnect { code: 3503, reason: "force disconnect".to_owned() }));
    assert!(matches!(take(&outbox, 10), Some(OutboxItem::End(end)) if end == codes::FORCE_DISCONNECT));
}

fn order(action: Action) -> Arc<Order> {
    Arc::new(Order { user: "42".to_owned(), action, ..Order::default() })
}

#[test]
fn a_disconnect_reaches_a_blocked_write_and_the_queued_frames_can_still_be_taken() {
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.open();
    outbox.push(bytes(60));
    let overflow = || poll_fn(|cx| outbox.poll_overflow(cx)).now_or_never();
    outbox.order(&order(Action::default()));
    assert!(overflow().is_none(), "an order waits until the write is done");
    assert!(matches!(take(&outbox, 10), Some(OutboxItem::Order(_))));
    outbox.order(&order(Action::Disconnect { code: 3503, reason: "force disconnect".to_owned() }));
    assert_eq!(overflow(), Some(codes::FORCE_DISCONNECT));
    assert!(matches!(take(&outbox, 10), Some(OutboxItem::End(end)) if end == codes::FORCE_DISCONNECT));
    assert_eq!(outbox.take_rest().len(), 1);
}

#[test]
fn a_channel_that_is_lost_again_and_again_waits_once() {
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.open();
    for _ in 0..3 {
        outbox.lose("chat:a");
        outbox.lose("chat:b");
    }
    for expected in ["chat:a", "chat:b"] {
        assert!(matches!(take(&outbox, 10), Some(OutboxItem::Lost(lost)) if *lost == *expected));
    }
    assert!(take(&outbox, 10).is_none());
    outbox.lose("chat:a");
    assert!(take(&outbox, 10).is_some(), "a later loss is told");
}

#[test]
fn a_connection_that_takes_no_orders_ends() {
    let outbox = Outbox::new(Encoding::Json, 100);
    for _ in 0..=MAX_ORDERS {
        outbox.order(&order(Action::default()));
    }
    assert!(matches!(take(&outbox, 10), Some(OutboxItem::End(end)) if end == codes::SLOW));
}

#[test]
fn no_push_is_delivered_before_the_client_is_authenticated() {
    let outbox = Outbox::new(Encoding::Json, 100);
    outbox.deliver(bytes(1));
    assert!(take(&outbox, 10).is_none());
    outbox.open();
    outbox.deliver(bytes(1));
    assert!(matches!(take(&outbox, 10), Some(OutboxItem::Frames(_))));
}

/// An outbox that writes to a socket, and the client's side of it.
async fn wired(limit: usize) -> (Arc<Outbox>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let wire = Wire::new(stream, Flusher::start(&Lifecycle::new()));
    (Arc::new(Outbox::wired(Dialect::Json, limit, wire)), client)
}

/// The next frame: its first byte and its message.
async fn next_frame(client: &mut TcpStream) -> (u8, Vec<u8>) {
    let (first, length) = (client.read_u8().await.unwrap(), client.read_u8().await.unwrap());
    let length = match length {
        126 => usize::from(client.read_u16().await.unwrap()),
        127 => usize::try_from(client.read_u64().await.unwrap()).unwrap(),
        short => usize::from(short),
    };
    let mut message = vec![0; length];
    client.read_exact(&mut message).await.unwrap();
    (first, message)
}

#[tokio::test]
async fn publications_wait_for_the_reply_to_connect_and_then_become_one_message() {
    let (outbox, mut client) = wired(1000).await;
    assert_eq!(outbox.deliver(text("0")), Wanted::Nothing, "not authenticated: dropped");
    outbox.open();
    assert_eq!(outbox.deliver(text("1")), Wanted::Nothing, "it waits for the reply");
    outbox.push_first(text("{}"));
    assert_eq!(outbox.deliver(text("2")), Wanted::Flush);
    assert_eq!(outbox.deliver(text("3")), Wanted::Nothing, "it is scheduled already");
    outbox.flush();
    assert_eq!(next_frame(&mut client).await, (0x81, b"{}\n1\n2\n3".to_vec()));
    assert_eq!(outbox.deliver(text("4")), Wanted::Flush);
    outbox.flush();
    assert_eq!(next_frame(&mut client).await, (0x81, b"4".to_vec()));
}

/// Delivers until the socket takes no more. Returns how many messages.
async fn block(outbox: &Outbox, message: &Frame) -> usize {
    outbox.open();
    outbox.push_first(message.clone());
    outbox.flush();
    for count in 1.. {
        match take(outbox, 1) {
            Some(OutboxItem::Blocked) => return count,
            // The runtime has not learnt yet that the socket is writable again.
            None => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
        outbox.deliver(message.clone());
        outbox.flush();
    }
    unreachable!()
}

#[tokio::test]
async fn what_a_socket_does_not_take_at_once_follows_in_order() {
    let (outbox, mut client) = wired(64 << 20).await;
    let message = bytes(300_000);
    let count = block(&outbox, &message).await;
    assert_eq!(outbox.deliver(text("last")), Wanted::Nothing, "the connection writes it");
    let unblocked = async {
        while poll_fn(|cx| outbox.poll_unblock(cx)).await {
            if !matches!(take(&outbox, 1), Some(OutboxItem::Blocked)) {
                break;
            }
        }
    };
    let read = async {
        let mut messages = Vec::new();
        while messages.last().is_none_or(|last: &Vec<u8>| !last.ends_with(b"last")) {
            messages.push(next_frame(&mut client).await.1);
        }
        messages.concat()
    };
    let ((), read) = tokio::join!(unblocked, read);
    let text = String::from_utf8(read).unwrap();
    assert_eq!(text.matches('x').count(), count * 300_000);
    assert!(outbox.has_room());
}

#[tokio::test]
async fn a_client_that_is_too_slow_gets_whole_frames_and_then_the_reason() {
    let (outbox, mut client) = wired(1 << 20).await;
    block(&outbox, &bytes(300_000)).await;
    for _ in 0..4 {
        outbox.deliver(bytes(300_000));
    }
    assert!(matches!(take(&outbox, 1), Some(OutboxItem::End(end)) if end == codes::SLOW));
    outbox.finish(false, [Frame::close(&codes::SLOW)]);
    assert_eq!(outbox.deliver(text("more")), Wanted::Nothing, "nothing follows the reason");
    let read = async {
        loop {
            let (first, message) = next_frame(&mut client).await;
            if first == 0x88 {
                return message;
            }
        }
    };
    let ((), reason) = tokio::join!(poll_fn(|cx| outbox.poll_written(cx)), read);
    assert_eq!(reason[..2], 3008_u16.to_be_bytes());
}

#[tokio::test]
async fn a_fan_out_is_written_without_its_connections() {
    let (outbox, mut client) = wired(1000).await;
    outbox.open();
    outbox.push_first(text("{}"));
    outbox.flush();
    let reply = |_, _| tidegate_shared::protocol::Reply::message("1".into());
    let delivered = encoded::Encoded::new(reply).deliver(&outbox, encoded::Form::Plain);
    assert_eq!(delivered.count(), 1);
    assert_eq!(next_frame(&mut client).await.1, b"{}");
    assert_eq!(next_frame(&mut client).await.1, br#"{"push":{"message":{"data":1}}}"#);
}

/// Whether a task that has polled the outbox is woken.
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }
}

#[tokio::test]
async fn a_connection_without_room_learns_that_the_flusher_has_made_some() {
    let (outbox, _client) = wired(1000).await;
    outbox.open();
    outbox.push_first(text("{}"));
    outbox.flush();
    let woken = Arc::new(Woken(false.into()));
    let waker = Arc::clone(&woken).into();
    let mut cx = Context::from_waker(&waker);
    for ahead in [false, true] {
        assert_eq!(outbox.deliver(bytes(600)), Wanted::Flush);
        // The connection asks, then the flusher writes: before the connection waits, or after it.
        assert!(!outbox.has_room());
        if ahead {
            outbox.flush();
        }
        let polled = outbox.poll_take(&mut cx, 1);
        if !ahead {
            assert!(polled.is_pending());
            outbox.flush();
            assert!(woken.0.load(std::sync::atomic::Ordering::Acquire), "nobody else would wake it");
        }
        let polled = if ahead { polled } else { outbox.poll_take(&mut cx, 1) };
        assert!(matches!(polled, Poll::Ready(OutboxItem::Room)), "{ahead}: {polled:?}");
        assert!(outbox.has_room() && outbox.poll_take(&mut cx, 1).is_pending(), "it is told once");
    }
}

#[tokio::test]
async fn a_client_whose_socket_takes_everything_is_not_slow() {
    use tokio::io::AsyncReadExt as _;
    let total = Total::new(10_000, Gauge::default(), Counter::default());
    for (limit, frames) in [(1000, 200), (1 << 20, 200)] {
        let (outbox, mut client) = wired(limit).await;
        let outbox = Arc::new(Arc::into_inner(outbox).unwrap().within(Arc::clone(&total)));
        outbox.open();
        outbox.push_first(text("{}"));
        outbox.flush();
        // No flusher has its turn.
        for _ in 0..frames {
            outbox.deliver(bytes(900));
            assert!(take(&outbox, 1).is_none(), "{limit}");
        }
        outbox.flush();
        drop(outbox);
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&read).matches('x').count(), frames * 900);
    }
}

#[test]
fn the_reply_to_connect_counts_among_what_waits_for_all() {
    let total = Total::new(100_000, Gauge::default(), Counter::default());
    let of = || Outbox::new(Dialect::Json, 90_000).within(Arc::clone(&total));
    let (other, joining) = (of(), of());
    other.push(bytes(60_000));
    joining.open();
    joining.push_first(bytes(50_000));
    assert!(matches!(take(&joining, 1), Some(OutboxItem::End(end)) if end == codes::SLOW));
}
