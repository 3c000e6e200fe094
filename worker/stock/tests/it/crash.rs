use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use sqlx::SqlitePool;
use tidegate_shared::{envelope::Request, topology::REPLY};
use tidegate_worker::{Router, State, on};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

use crate::support::{Notes, Tide, eventually, header, next};

const QUAKE: &str = r#"{"id":"us1","time_ms":1517364031800,"mag":3.1,"net":"us","lon":118.7,"lat":-7.8}"#;

#[tokio::test]
async fn a_request_whose_worker_is_killed_before_the_acknowledgement_takes_effect_once() {
    let route =
        "[[route]]\nname = \"quakes\"\nmatch = \"rpc.quakes\"\nhandler = \"quakes\"\nmax_attempts = 1\n";
    let tide = Tide::start(route).await;
    let mut live = tide.listen("tide.live.quakes.>").await;
    let proxy = Proxy::start(tide.stack.nats_url(), "+ACK").await;
    let mut first = worker(&tide, "first", &proxy.url);
    let request = tide.ask("quakes", QUAKE).await;
    eventually("the acknowledgement is held back", async || proxy.frozen().then_some(())).await;
    let answer = tide.answer(&request).await;
    assert_eq!((answer.worker.as_str(), tide.unsettled("quakes").await), ("first", 1));
    first.kill().await.unwrap();

    let _second = worker(&tide, "second", tide.stack.nats_url());
    tide.settled().await;
    assert_eq!(tide.stored(&request).await, Some(answer));
    assert_eq!(tide.count(REPLY).await, 1);
    assert_eq!(rows(&tide).await, 1);
    // The channel's next message is the second earthquake: the first one was published once.
    assert_eq!(next(&mut live).await.payload, QUAKE);
    let other = QUAKE.replace("us1", "us2");
    tide.ask("quakes", other.clone()).await;
    assert_eq!(next(&mut live).await.payload, other);
}

#[tokio::test]
async fn a_clients_publication_is_published_once_although_its_worker_is_killed() {
    let toml = "[[namespace]]\nname = \"room\"\nhistory_size = 10\npublish = \"worker\"\n\
                [[route]]\nname = \"rooms\"\nmatch = \"pub.room\"\nhandler = \"room\"\n";
    let tide = Tide::start(toml).await;
    let mut live = tide.listen("tide.live.room.>").await;
    let proxy = Proxy::start(tide.stack.nats_url(), "+ACK").await;
    let mut first = worker(&tide, "first", &proxy.url);
    let request = tide.publish("rooms", "room:a b", "\"hi\"").await;
    eventually("the proxy holds the worker back", async || proxy.frozen().then_some(())).await;
    let message = next(&mut live).await;
    assert_eq!(message.subject.as_str(), "tide.live.room.a=20b");
    assert_eq!(message.payload, "\"hi\"");
    assert_eq!(header(&message, "Nats-Msg-Id"), format!("{}.p.room:a b#0", request.id));
    assert_eq!(
        (header(&message, "Tide-User"), header(&message, "Tide-Client")),
        ("42", request.client.as_deref().unwrap())
    );
    assert_eq!(header(&message, "Tide-Info"), "{\"name\":\"Ann\"}");
    assert_eq!(tide.unsettled("rooms").await, 1);
    first.kill().await.unwrap();
    let _second = worker(&tide, "second", tide.stack.nats_url());
    tide.settled().await;
    tide.publish("rooms", "room:a b", "\"again\"").await;
    assert_eq!(next(&mut live).await.payload, "\"again\"", "the first one came once");
}

#[tokio::test]
async fn the_next_worker_brings_the_answer_that_a_killed_one_could_not_hand_over() {
    async fn again(State(notes): State<Notes>) {
        notes.note("ran again");
    }
    let tide = Tide::start("[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\nhandler = \"echo\"\n").await;
    let mut personal = tide.listen("tide.live.user.42").await;
    let mut first = worker(&tide, "first", tide.stack.nats_url());
    // Its caller still waits, and no gateway confirms the answer.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let request = Request { accepted_at: now.try_into().unwrap(), ..tide.request("echo", "1") };
    tide.send(&request).await;
    assert_eq!(tide.answer(&request).await.worker, "first");
    first.kill().await.unwrap();
    let notes = Notes::default();
    let second = tide.work("second", Router::with_state(notes.clone()).route("echo", on(again))).await;
    let pushed = next(&mut personal).await;
    assert_eq!((pushed.payload.as_ref(), header(&pushed, "Tide-Tag-re")), (&b"1"[..], request.id.as_str()));
    tide.settled().await;
    assert_eq!((notes.all().len(), second.outcomes("echo", "already_answered")), (0, 1));
}

/// Starts the stock worker as a process that ends with the test.
fn worker(tide: &Tide, name: &str, nats_url: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tidegate-worker"))
        .args(["--name", name, "--internal", "127.0.0.1:0", "--config"])
        .arg(tide.stack.dir().join("tidegate.toml"))
        .env("TIDEGATE_NATS__URL", nats_url)
        .env("TIDEGATE_QUAKES__DATABASE", tide.stack.dir().join("quakes.db"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn rows(tide: &Tide) -> i64 {
    let url = format!("sqlite://{}", tide.stack.dir().join("quakes.db").display());
    let pool = SqlitePool::connect(&url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM quakes").fetch_one(&pool).await.unwrap()
}

/// A proxy between a worker and the broker. It forwards nothing more to the broker once the worker has sent `trigger`.
struct Proxy {
    url: String,
    frozen: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Proxy {
    async fn start(nats_url: &str, trigger: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let frozen = Arc::new(AtomicBool::new(false));
        let upstream = nats_url.trim_start_matches("nats://").to_owned();
        let mut task = JoinSet::new();
        let froze = Arc::clone(&frozen);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((worker, _)) = listener.accept().await {
                let broker = TcpStream::connect(&upstream).await.unwrap();
                connections.spawn(pass(worker, broker, trigger.as_bytes(), Arc::clone(&froze)));
            }
        });
        Self { url, frozen, _task: task }
    }

    fn frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }
}

async fn pass(worker: TcpStream, broker: TcpStream, trigger: &[u8], frozen: Arc<AtomicBool>) {
    let (mut from_worker, mut to_worker) = worker.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let mut back = JoinSet::new();
    back.spawn(async move { copy(&mut from_broker, &mut to_worker).await });
    let mut chunk = [0; 16 * 1024];
    let mut seen = Vec::new();
    while let Ok(length) = from_worker.read(&mut chunk).await {
        seen.extend_from_slice(&chunk[..length]);
        if seen.windows(trigger.len()).any(|window| window == trigger) {
            frozen.store(true, Ordering::SeqCst);
            // The connection to the broker stays open until the worker is killed.
            while from_worker.read(&mut chunk).await.is_ok_and(|length| length > 0) {}
            return;
        }
        if length == 0 || to_broker.write_all(&chunk[..length]).await.is_err() {
            return;
        }
        seen.drain(..seen.len().saturating_sub(trigger.len()));
    }
}
