//! Key sets over HTTP, from a server that misbehaves on demand.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tidegate_shared::config::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::{policy::tokens::Invalid, signer::Signer};

const PATIENCE: Duration = Duration::from_secs(20);
/// The issuer's index, behind the short form's.
const PLACE: usize = 1;

/// How the server answers.
#[derive(Clone)]
enum Answer {
    Keys(Vec<Value>),
    Text(&'static str, String),
    Silence,
}

/// A key server, and how often it was asked.
struct Server {
    url: String,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (current, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = current.lock().unwrap().clone();
                if serve(&mut stream, answer).await.is_none() {
                    silent.push(stream);
                }
            }
        });
        Self { url, answer, asked, _task: task }
    }

    fn now_answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// `None` if there was no answer.
async fn serve(stream: &mut TcpStream, answer: Answer) -> Option<()> {
    let mut head = [0; 4096];
    let _ = stream.read(&mut head).await;
    let (status, body) = match answer {
        Answer::Keys(keys) => ("200 OK", json!({ "keys": keys }).to_string()),
        Answer::Text(status, body) => (status, body),
        Answer::Silence => return None,
    };
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    // A client that has seen enough hangs up.
    let _ = stream.write_all(text.as_bytes()).await;
    Some(())
}

/// A gateway's side of it.
struct Setup {
    verifier: Verifier,
    keys: Keys,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.lifecycle.drain();
    }
}

impl Setup {
    async fn start(server: &Server, pace: FetchPace) -> Self {
        let file = std::env::temp_dir().join(format!("keys-{}", tidegate_shared::id::random_token::<8>()));
        let url = &server.url;
        let toml =
            format!("[[issuer]]\nname = 'ids'\nissuer = 'ids'\nalgorithms = ['ES256']\njwks_url = '{url}'\n");
        std::fs::write(&file, toml).unwrap();
        let config = Config::load(Some(&file), &[]).unwrap();
        std::fs::remove_file(&file).unwrap();
        let verifier = Verifier::new(&config).ok().unwrap();
        let (metrics, lifecycle) = (Metrics::new(), Lifecycle::new());
        let keys = Keys::start(&verifier, pace, &metrics, &lifecycle).await.unwrap();
        Self { verifier, keys, metrics, lifecycle }
    }

    fn check(&self, signer: &Signer, kid: &str) -> Result<(), Invalid> {
        self.verifier.verify(&token(signer, kid), 1_800_000_000).map(drop)
    }

    async fn until(&self, what: &str, check: impl Fn() -> bool) {
        let start = Instant::now();
        while !check() {
            assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn fetches(&self, outcome: &str) -> usize {
        let line = format!("tidegate_gateway_jwks_fetches_total{{issuer=\"ids\",outcome=\"{outcome}\"}} ");
        let page = self.metrics.page();
        page.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }
}

fn token(signer: &Signer, kid: &str) -> String {
    signer.token(&json!({"alg": "ES256", "kid": kid}), &json!({"iss": "ids", "sub": "42"}))
}

const MISSING: Result<(), Invalid> = Err(Invalid::UnknownKey { issuer: PLACE });

const WITHDRAWN: Result<(), Invalid> = Err(Invalid::WithdrawnKey { issuer: PLACE });

/// No scheduled fetches: only requested ones.
fn calm() -> FetchPace {
    FetchPace { cool_down: Duration::from_millis(100), ..FetchPace::every(Duration::from_hours(1)) }
}

/// Fetches, and repeats, follow one another.
fn busy() -> FetchPace {
    let quick = Duration::from_millis(20);
    FetchPace { refresh: quick, cool_down: quick, timeout: Duration::from_millis(200), ..calm() }
}

#[tokio::test]
async fn a_new_key_is_usable_after_one_fetch() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let server = Server::start(Answer::Keys(vec![old.jwk("1")])).await;
    let setup = Setup::start(&server, calm()).await;
    assert_eq!((setup.check(&old, "1"), server.asked()), (Ok(()), 1), "from the first moment on");
    server.now_answers(Answer::Keys(vec![old.jwk("1"), new.jwk("2")]));
    assert_eq!(setup.check(&new, "2"), MISSING);
    setup.keys.want(PLACE);
    setup.until("the new key is there", || setup.check(&new, "2").is_ok()).await;
    assert_eq!((setup.check(&old, "1"), server.asked()), (Ok(()), 2));
    server.now_answers(Answer::Keys(vec![new.jwk("2")]));
    setup.keys.want(PLACE);
    setup.until("the old key is withdrawn", || setup.check(&old, "1") == MISSING).await;
}

#[tokio::test]
async fn a_withdrawn_key_is_missing_until_the_next_fetch_and_then_needs_a_new_token() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let server = Server::start(Answer::Keys(vec![new.jwk("2")])).await;
    let setup = Setup::start(&server, calm()).await;
    assert_eq!(setup.check(&old, "1"), MISSING, "the fetch before does not count");
    server.now_answers(Answer::Text("503 Service Unavailable", String::new()));
    setup.keys.want(PLACE);
    setup.until("fetching fails", || setup.fetches("status") > 0).await;
    assert_eq!(setup.check(&old, "1"), MISSING, "a failed fetch proves nothing");
    server.now_answers(Answer::Keys(vec![new.jwk("2")]));
    setup.until("it is withdrawn", || setup.check(&old, "1") == WITHDRAWN).await;
    server.now_answers(Answer::Keys(vec![new.jwk("2"), old.jwk("1")]));
    setup.keys.want(PLACE);
    setup.until("it is back", || setup.check(&old, "1").is_ok()).await;
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let server = Server::start(Answer::Keys(vec![old.jwk("1")])).await;
    // Signed before, so that the flood is shorter than the cool-down.
    let flood: Vec<String> = (0..500).map(|n| token(&new, &format!("k{n}"))).collect();
    let setup = Setup::start(&server, FetchPace { cool_down: Duration::from_secs(1), ..calm() }).await;
    for unknown in flood {
        assert_eq!(setup.verifier.verify(&unknown, 1_800_000_000).map(drop), MISSING);
        setup.keys.want(PLACE);
    }
    setup.until("it is fetched", || setup.fetches("ok") == 2).await;
    // Had the flood left a request behind, this would be the fourth fetch.
    server.now_answers(Answer::Keys(vec![new.jwk("2")]));
    setup.keys.want(PLACE);
    setup.until("the new key is there", || setup.check(&new, "2").is_ok()).await;
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn keys_serve_on_while_fetching_fails_but_not_for_ever() {
    let signer = Signer::es256();
    let server = Server::start(Answer::Keys(vec![signer.jwk("1")])).await;
    let patient = Setup::start(&server, busy()).await;
    let strict = Setup::start(&server, FetchPace { max_stale: Duration::from_millis(300), ..busy() }).await;
    server.now_answers(Answer::Text("503 Service Unavailable", String::new()));
    strict.until("the keys are too old", || strict.check(&signer, "1") == MISSING).await;
    patient.until("fetching has failed", || patient.fetches("status") >= 3).await;
    assert_eq!(patient.check(&signer, "1"), Ok(()));
    server.now_answers(Answer::Keys(vec![signer.jwk("1")]));
    strict.until("the keys are back", || strict.check(&signer, "1").is_ok()).await;
}

#[tokio::test]
async fn without_keys_tokens_are_refused_until_keys_are_fetched() {
    let signer = Signer::es256();
    let server = Server::start(Answer::Silence).await;
    let setup = Setup::start(&server, busy()).await;
    assert_eq!(setup.check(&signer, "1"), MISSING);
    assert_eq!(setup.fetches("unreachable"), 1);
    server.now_answers(Answer::Keys(vec![signer.jwk("1")]));
    setup.until("the keys come", || setup.check(&signer, "1").is_ok()).await;
}

#[tokio::test]
async fn responses_that_are_no_key_set_are_refused() {
    let signer = Signer::es256();
    let keys = json!({"keys": [signer.jwk("1")]}).to_string();
    let elsewhere = Server::start(Answer::Keys(vec![signer.jwk("1")])).await;
    let redirect: &'static str = format!("302 Found\r\nlocation: {}", elsewhere.url).leak();
    let padded = |len: usize| format!("{keys}{}", " ".repeat(len - keys.len()));
    for (answer, outcome) in [
        (Answer::Text("200 OK", padded(MAX_BODY + 1)), "malformed"),
        (Answer::Text("200 OK", "<html>".to_owned()), "malformed"),
        (Answer::Text(redirect, keys.clone()), "status"),
        (Answer::Text("404 Not Found", keys.clone()), "status"),
        (Answer::Text("206 Partial Content", keys.clone()), "status"),
        (Answer::Silence, "unreachable"),
    ] {
        let server = Server::start(answer).await;
        let setup = Setup::start(&server, FetchPace { timeout: Duration::from_secs(2), ..calm() }).await;
        assert_eq!((setup.check(&signer, "1"), setup.fetches(outcome)), (MISSING, 1), "{outcome}");
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
    let server = Server::start(Answer::Text("200 OK", padded(MAX_BODY))).await;
    assert_eq!(Setup::start(&server, calm()).await.check(&signer, "1"), Ok(()));
}
