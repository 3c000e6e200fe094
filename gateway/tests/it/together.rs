//! Messages that gather are stored in batches: whatever becomes of a batch, each message is stored once, in the order in which it
//! was handed over, and nothing is called stored that is not.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_nats::HeaderMap;
use futures_util::{StreamExt, stream::FuturesOrdered};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tidegate_cli::stack::Stack;
use tidegate_shared::{
    broker::{Broker, Committer, Refusal, Stored, ToCommit, ToStore},
    envelope::{JSON, Request},
    id::{GatewayId, RequestId},
    route::Priority,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::support::{count, eventually, kept_toml, quick, start};

const CONNECTIONS: usize = 20;
/// More than two batches together.
const EACH: usize = 120;
const CHANNELS: &str = "TIDE_CH_kept";
const REQUESTS: &str = "TIDE_IN_nobody";

async fn stack() -> Stack {
    start(quick(&kept_toml(5000, ""))).await
}

async fn broker(stack: &Stack, url: Option<String>) -> Broker {
    let mut nats = stack.config().nats.clone();
    nats.url = url.unwrap_or(nats.url);
    Broker::connect(&nats, &nats.gateway, "test", 8192, false).await.unwrap()
}

/// A publication in the channel of all connections, with this id.
fn publication(id: &str, body: &str) -> ToStore {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    ("tide.ch.kept.all".to_owned(), headers, body.to_owned().into())
}

fn stored_request(stack: &Stack, id: RequestId, body: &str) -> ToStore {
    let request = Request {
        id,
        user: Some("42".to_owned()),
        client: None,
        route: "nobody".to_owned(),
        method: Some("nobody".to_owned()),
        channel: None,
        info: None,
        channel_info: None,
        key: None,
        priority: Priority::Normal,
        later: false,
        attempt: 0,
        accepted_at: 0,
        trace: None,
        content_type: JSON.to_owned(),
        body: body.to_owned().into(),
    };
    let stored = request.stored(&stack.config().subjects(), None, request.id.as_str());
    (stored.subject, stored.headers, stored.body)
}

/// What was told about a message, by its body.
type Told = HashMap<String, Result<Stored, Refusal>>;

/// What the messages of a test have in common.
#[derive(Clone, Copy)]
struct Kind {
    stream: &'static str,
    once: bool,
    drawn: bool,
}

const PUBLICATIONS: Kind = Kind { stream: CHANNELS, once: false, drawn: false };
const STORED_REQUESTS: Kind = Kind { stream: REQUESTS, once: true, drawn: false };

/// Hands over the messages of each connection in order, all connections at once, while at most so many of each are not settled.
async fn hand_over(
    committer: &Arc<Committer>,
    connections: Vec<Vec<ToStore>>,
    Kind { once, drawn, .. }: Kind,
    window: usize,
) -> Told {
    let mut handing = JoinSet::new();
    for messages in connections {
        let committer = Arc::clone(committer);
        handing.spawn(async move {
            let (mut settling, mut told) = (FuturesOrdered::new(), Vec::new());
            for message in messages {
                if settling.len() >= window {
                    told.extend(settling.next().await);
                }
                let body = String::from_utf8(message.2.to_vec()).unwrap();
                let handed = committer.hand_over(ToCommit { message, once, drawn, deadline: None }).await;
                settling.push_back(async move {
                    let stored = match handed {
                        Ok(handed) => handed.stored().await,
                        Err(refusal) => Err(refusal),
                    };
                    (body, stored)
                });
            }
            told.extend(settling.collect::<Vec<_>>().await);
            told
        });
    }
    handing.join_all().await.into_iter().flatten().collect()
}

struct Found {
    body: String,
    seq: u64,
    in_a_batch: bool,
    has_id: bool,
}

/// All messages of a stream, oldest first.
async fn found(stack: &Stack, stream: &str) -> Vec<Found> {
    let subject = if stream == CHANNELS { "tide.ch.kept.>" } else { "tide.in.>" };
    let range = stack.admin().await.unwrap().range(stream, subject, 1, 10_000).await.unwrap();
    assert_eq!(range.more, 0);
    let read = |message: async_nats::Message| {
        let headers = message.headers.unwrap();
        Found {
            body: String::from_utf8(message.payload.to_vec()).unwrap(),
            seq: headers.get_last("Nats-Sequence").unwrap().as_str().parse().unwrap(),
            in_a_batch: headers.get("Nats-Batch-Id").is_some(),
            has_id: headers.get("Nats-Msg-Id").is_some(),
        }
    };
    range.messages.into_iter().map(read).collect()
}

/// Checks that each message is there once, and those of each connection in their order.
fn check_order(found: &[Found]) {
    let mut seen = HashSet::new();
    let mut last = HashMap::new();
    for message in found.iter().filter(|message| message.body != "before") {
        assert!(seen.insert(&message.body), "{} is stored twice", message.body);
        let (connection, number) = message.body.split_once('-').unwrap();
        let number: usize = number.parse().unwrap();
        let before = last.insert(connection, number);
        assert!(before.is_none_or(|before| before < number), "{} is behind {before:?}", message.body);
    }
}

/// The messages of all connections. Those for which `repeats` says so have been stored before.
fn plan(
    message: impl Fn(String) -> ToStore,
    repeated: &mut Vec<ToStore>,
    mut repeats: impl FnMut() -> bool,
) -> (Vec<Vec<ToStore>>, HashSet<String>) {
    let mut expected = HashSet::new();
    let mut one = |body: String| {
        if repeats()
            && let Some((subject, headers, _)) = repeated.pop()
        {
            expected.insert(body.clone());
            return (subject, headers, body.into());
        }
        message(body)
    };
    let connections = (0..CONNECTIONS).map(|c| (0..EACH).map(|n| one(format!("{c}-{n}"))).collect());
    (connections.collect(), expected)
}

async fn repetitions_refuse_no_other_message(kind: Kind, message: impl Fn(&Stack, String) -> ToStore) {
    let stream = kind.stream;
    for seed in 0..4 {
        let stack = stack().await;
        let broker = broker(&stack, None).await;
        let mut random = StdRng::seed_from_u64(seed);
        // Only the body of a repetition differs, which is how the test sees that it is not stored.
        let mut repeated = Vec::new();
        for _ in 0..40 {
            let (subject, headers, _) = message(&stack, "before".to_owned());
            broker.store(subject.clone(), headers.clone(), "before".into()).await.unwrap();
            repeated.push((subject, headers, "before".into()));
        }
        let share = [0.0, 0.002, 0.05, 0.02][usize::try_from(seed).unwrap()];
        let (connections, repetitions) =
            plan(|body| message(&stack, body), &mut repeated, || random.random_bool(share));
        let committer = Arc::new(Committer::start(&broker, stream.to_owned()));
        committer.gather_always();
        let told = hand_over(&committer, connections, kind, 8).await;
        let found = found(&stack, stream).await;
        check_order(&found);
        let there: HashMap<_, _> = found.iter().map(|message| (message.body.as_str(), message.seq)).collect();
        for (body, told) in &told {
            let repetition = repetitions.contains(body);
            assert_eq!(there.contains_key(body.as_str()), !repetition, "seed {seed}: {body}");
            match told {
                Ok(stored) if stored.duplicate => assert!(repetition, "seed {seed}: {body}"),
                Err(Refusal::Taken) => assert!(repetition, "seed {seed}: {body}"),
                Ok(stored) => assert_eq!(there[body.as_str()], stored.seq, "seed {seed}: {body}"),
                Err(refusal) => panic!("seed {seed}: {body}: {refusal}"),
            }
        }
        if share < 0.01 {
            assert!(found.iter().filter(|message| message.in_a_batch).count() > CONNECTIONS * EACH / 4);
        }
        stack.down().await;
    }
}

#[tokio::test]
async fn a_publication_that_was_stored_before_costs_those_of_its_batch_neither_place_nor_truth() {
    let message = |_: &Stack, body: String| publication(GatewayId::random().as_str(), &body);
    repetitions_refuse_no_other_message(PUBLICATIONS, message).await;
}

#[tokio::test]
async fn a_request_that_was_stored_before_costs_those_of_its_batch_neither_place_nor_truth() {
    let gateway = GatewayId::random();
    let message = |stack: &Stack, body: String| stored_request(stack, RequestId::plain(&gateway), &body);
    repetitions_refuse_no_other_message(STORED_REQUESTS, message).await;
}

#[tokio::test]
async fn a_full_stream_refuses_each_message_of_a_batch_for_which_there_is_no_room() {
    for drawn in [false, true] {
        a_full_stream_refuses_what_has_no_room(Kind { drawn, ..STORED_REQUESTS }).await;
    }
}

async fn a_full_stream_refuses_what_has_no_room(kind: Kind) {
    let route = "[[route]]\nname = 'small'\nmatch = 'rpc.small'\nmax_bytes = '64 KiB'\n";
    let stack = start(quick(route)).await;
    let committer = Committer::start(&broker(&stack, None).await, "TIDE_IN_small".to_owned());
    committer.gather_always();
    let gateway = GatewayId::random();
    let message = |body: String| {
        let (subject, mut headers, body) = stored_request(&stack, RequestId::plain(&gateway), &body);
        headers.insert("Tide-Route", "small");
        (subject.replace("nobody", "small"), headers, body)
    };
    let (connections, _) = plan(message, &mut Vec::new(), || false);
    let told = hand_over(&Arc::new(committer), connections, kind, EACH).await;
    let admin = stack.admin().await.unwrap();
    let there = admin.range("TIDE_IN_small", "tide.in.>", 1, 10_000).await.unwrap().messages;
    let there: HashSet<_> =
        there.into_iter().map(|m| String::from_utf8(m.payload.to_vec()).unwrap()).collect();
    assert!(there.len() > 16 && there.len() < CONNECTIONS * EACH, "{}", there.len());
    for (body, told) in told {
        let expected = if there.contains(&body) { Ok(()) } else { Err(Refusal::Full) };
        assert_eq!(told.map(drop), expected, "{body}");
    }
}

/// A way to the broker that can lose what the broker says, or what it is told.
struct Lossy {
    url: String,
    silent: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
    /// Bytes that the broker was told and has not got.
    lost: Arc<AtomicUsize>,
    cut: watch::Sender<u32>,
    _carrying: JoinSet<()>,
}

impl Lossy {
    async fn start(stack: &Stack) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let upstream = stack.nats_url().trim_start_matches("nats://").to_owned();
        let (silent, deaf) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let lost = Arc::new(AtomicUsize::new(0));
        let cut = watch::Sender::new(0);
        let (mut carrying, quiet, cuts) = (JoinSet::new(), Arc::clone(&silent), cut.clone());
        let (hears_not, all_lost) = (Arc::clone(&deaf), Arc::clone(&lost));
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, quiet, mut cut) = (upstream.clone(), Arc::clone(&quiet), cuts.subscribe());
                let (hears_not, all_lost) = (Arc::clone(&hears_not), Arc::clone(&all_lost));
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(upstream).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let back = async {
                        let mut buffer = [0; 8192];
                        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                            if !quiet.load(Ordering::SeqCst)
                                && to_client.write_all(&buffer[..read]).await.is_err()
                            {
                                break;
                            }
                        }
                    };
                    let forth = async {
                        let mut buffer = [0; 8192];
                        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                            if hears_not.load(Ordering::SeqCst) {
                                all_lost.fetch_add(read, Ordering::SeqCst);
                            } else if to_server.write_all(&buffer[..read]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        () = forth => {}
                        () = back => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { url, silent, deaf, lost, cut, _carrying: carrying }
    }

    fn is_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    fn is_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Ends all connections. The next ones are heard.
    fn cut(&self) {
        self.is_silent(false);
        self.is_deaf(false);
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

/// Hands over all messages while nothing is heard of the broker, until it has them all; then the connection is cut.
async fn unheard(stack: &Stack, kind: Kind, message: impl Fn(String) -> ToStore, purge: bool) -> Told {
    let stream = kind.stream;
    let lossy = Lossy::start(stack).await;
    let committer =
        Arc::new(Committer::start(&broker(stack, Some(lossy.url.clone())).await, stream.to_owned()));
    committer.gather_always();
    let (connections, _) = plan(message, &mut Vec::new(), || false);
    lossy.is_silent(true);
    let telling = hand_over(&committer, connections, kind, EACH);
    let losing = async {
        eventually("some are stored", || async { count(stack, stream).await > 100 }).await;
        if purge {
            let admin = stack.admin().await.unwrap();
            admin.jetstream().get_stream(stream).await.unwrap().purge().await.unwrap();
        }
        lossy.cut();
    };
    let (told, ()) = tokio::join!(telling, losing);
    told
}

/// The first round is sent alone and is never heard of: repeating it is its sender's concern.
fn known(told: &Told) -> impl Iterator<Item = &str> {
    for (body, told) in told {
        assert!(matches!(told, Ok(_) | Err(Refusal::Unknown)), "{body}: {told:?}");
    }
    let known: Vec<_> = told.iter().filter(|(_, told)| told.is_ok()).map(|(body, _)| body.as_str()).collect();
    assert!(known.len() > CONNECTIONS * EACH - 32, "{}", known.len());
    known.into_iter()
}

/// Checks what is stored after a lost confirmation: all that was called stored, once and in order.
async fn check_unheard(stack: &Stack, told: &Told) -> Vec<Found> {
    let found = found(stack, CHANNELS).await;
    check_order(&found);
    let there: HashMap<_, _> = found.iter().map(|message| (message.body.as_str(), message.seq)).collect();
    for body in known(told) {
        let seq = told[body].as_ref().map(|stored| stored.seq);
        assert_eq!(seq, Ok(there[body]), "{body}");
    }
    found
}

#[tokio::test]
async fn publications_of_a_batch_whose_confirmation_is_lost_are_stored_once_and_in_order() {
    let stack = stack().await;
    let message = |body: String| publication(GatewayId::random().as_str(), &body);
    let told = unheard(&stack, PUBLICATIONS, message, false).await;
    let found = check_unheard(&stack, &told).await;
    assert!(found.iter().all(|message| message.has_id));
}

#[tokio::test]
async fn where_nobody_else_knows_the_ids_one_of_them_tells_what_became_of_a_batch() {
    let stack = stack().await;
    let message = |body: String| publication(GatewayId::random().as_str(), &body);
    let told = unheard(&stack, Kind { drawn: true, ..PUBLICATIONS }, message, false).await;
    let found = check_unheard(&stack, &told).await;
    let ids = found.iter().filter(|message| message.in_a_batch && message.has_id).count();
    let batched = found.iter().filter(|message| message.in_a_batch).count();
    assert!((1..=batched / 16).contains(&ids), "{ids} ids in {batched} messages");
    assert!(found.iter().all(|message| message.in_a_batch || message.has_id));
}

#[tokio::test]
async fn a_batch_that_the_broker_never_got_is_stored_when_the_connection_is_back() {
    let stack = stack().await;
    let lossy = Lossy::start(&stack).await;
    let committer =
        Arc::new(Committer::start(&broker(&stack, Some(lossy.url.clone())).await, CHANNELS.to_owned()));
    committer.gather_always();
    let message = |body: String| publication(GatewayId::random().as_str(), &body);
    let (connections, _) = plan(message, &mut Vec::new(), || false);
    lossy.is_deaf(true);
    let telling = hand_over(&committer, connections, Kind { drawn: true, ..PUBLICATIONS }, EACH);
    let losing = async {
        let most = || async { lossy.lost.load(Ordering::SeqCst) > CONNECTIONS * EACH * 100 };
        eventually("most is sent", most).await;
        lossy.cut();
    };
    let (told, ()) = tokio::join!(telling, losing);
    check_unheard(&stack, &told).await;
}

async fn done_and_gone(kind: Kind) {
    let stack = stack().await;
    let gateway = GatewayId::random();
    let message = |body: String| stored_request(&stack, RequestId::plain(&gateway), &body);
    let told = unheard(&stack, kind, message, true).await;
    let known: HashSet<_> = known(&told).collect();
    // Those behind the lost batch come after the purge.
    let found = found(&stack, REQUESTS).await;
    check_order(&found);
    let again = found.iter().filter(|message| !message.in_a_batch && known.contains(message.body.as_str()));
    assert_eq!(again.count(), 0);
}

#[tokio::test]
async fn requests_of_a_batch_whose_confirmation_is_lost_are_not_stored_again_when_they_are_done_and_gone() {
    done_and_gone(STORED_REQUESTS).await;
    done_and_gone(Kind { drawn: true, ..STORED_REQUESTS }).await;
}
