//! Dead letters become requests again, and their clients get the new answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
};

use async_nats::HeaderMap;
use serde_json::{Value, json};
use tidegate_cli::client::{Client, Event, Events};
use tidegate_shared::topology::{DEAD, PARK};
use tidegate_worker::{Failure, Router, State, on};
use tokio::time::timeout;

use crate::support::{DEADLINE, Running, Tide, eventually};

const ROUTES: &str = "[gateway]\nanswer_timeout = \"2s\"\n\
    [[route]]\nname = \"pay\"\nmatch = \"rpc.pay\"\nmax_attempts = 1\n\
    [[route]]\nname = \"ship\"\nmatch = \"rpc.ship\"\nmax_attempts = 1\nanswer = \"later\"\n";

/// A back end that is down or up, and how often it was asked.
#[derive(Debug, Clone, Default)]
struct Bank(Arc<(AtomicBool, AtomicU32)>);

async fn pay(State(bank): State<Bank>) -> Result<bytes::Bytes, Failure> {
    bank.0.1.fetch_add(1, SeqCst);
    if bank.0.0.load(SeqCst) {
        Ok("\"paid\"".into())
    } else {
        Err(Failure::retry(anyhow::anyhow!("the bank is closed")))
    }
}

impl Bank {
    fn opens(&self) {
        self.0.0.store(true, SeqCst);
    }

    fn asked(&self) -> u32 {
        self.0.1.load(SeqCst)
    }

    async fn work(&self, tide: &Tide) -> Running {
        let router = Router::with_state(self.clone()).route("pay", on(pay)).route("ship", on(pay));
        tide.work("w1", router).await
    }
}

/// The next answer on the personal channel: its payload and its `re`.
async fn personal(events: &mut Events) -> (Value, String) {
    loop {
        let event = timeout(DEADLINE, events.next()).await.unwrap().unwrap();
        if let Event::Publication { data, tags, .. } = event {
            return (serde_json::from_slice(&data).unwrap(), tags["re"].clone());
        }
    }
}

async fn dies(client: &Client, method: &str) {
    assert_eq!(client.rpc(method, "1").await.unwrap_err().code(), Some(1004));
}

/// Redrives a letter as soon as its worker has surely told its client.
async fn redrive(tide: &Tide, letter: u64) -> Value {
    eventually("the letter is old enough", async || {
        let outcome = tide.operate("dead_redrive", json!({"letter": letter})).await;
        let early = outcome["error"]["message"].as_str().is_some_and(|text| text.contains("ask again"));
        (!early).then_some(outcome["outcome"].clone())
    })
    .await
}

#[tokio::test]
async fn a_redriven_request_has_a_new_answer_for_its_key_and_for_its_user() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let bank = Bank::default();
    let _worker = bank.work(&tide).await;
    let (client, mut events) = tide.client("42").await;
    dies(&client, "pay#7").await;
    dies(&client, "pay#7").await;
    assert_eq!(bank.asked(), 1, "the stored error answers for the key");

    let listed = tide.operate("dead_list", json!({"user": "42", "route": "pay"})).await;
    let letter = &listed["letters"][0];
    assert_eq!(
        (&letter["reason"], &letter["error"], &letter["attempts"]),
        (&json!("attempts"), &json!("the bank is closed"), &json!(1))
    );
    let number = letter["letter"].as_u64().unwrap();
    bank.opens();
    assert_eq!(redrive(&tide, number).await, "redriven");
    let (answer, re) = personal(&mut events).await;
    assert_eq!((answer, json!(re)), (json!("paid"), letter["id"].clone()));
    assert_eq!(client.rpc("pay#7", "1").await.unwrap(), "\"paid\"", "the new answer replaces the error");
    assert_eq!(bank.asked(), 2);
    assert_eq!(tide.operate("dead_redrive", json!({"letter": number})).await["outcome"], "gone");
    tide.settled().await;
    assert_eq!((tide.count(DEAD).await, bank.asked()), (0, 2));
}

#[tokio::test]
async fn a_request_that_fails_again_is_a_new_letter_that_says_how_often_it_was_redriven() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let bank = Bank::default();
    let _worker = bank.work(&tide).await;
    let (client, _events) = tide.client("42").await;
    dies(&client, "pay#7").await;
    for redrives in 1..=2 {
        let letters = tide.operate("dead_list", json!({})).await["letters"].clone();
        assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
        assert_eq!(redrive(&tide, letters[0]["letter"].as_u64().unwrap()).await, "redriven");
        eventually("it has failed again", async || {
            let letters = tide.operate("dead_list", json!({})).await["letters"].clone();
            (letters[0]["redrives"] == redrives).then_some(())
        })
        .await;
        dies(&client, "pay#7").await;
    }
    assert_eq!(bank.asked(), 3);
}

#[tokio::test]
async fn letters_of_plain_and_later_requests_are_redriven_for_their_user() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let bank = Bank::default();
    let _worker = bank.work(&tide).await;
    let (client, mut events) = tide.client("42").await;
    dies(&client, "pay").await;
    let receipt: Value = serde_json::from_slice(&client.rpc("ship", "1").await.unwrap()).unwrap();
    let (_, told) = personal(&mut events).await;
    assert_eq!(json!(told), receipt["id"], "the user of a later request is told that it failed");
    let letters = tide.operate("dead_list", json!({})).await["letters"].clone();
    bank.opens();
    let mut ids = Vec::new();
    for letter in letters.as_array().unwrap() {
        assert_eq!(redrive(&tide, letter["letter"].as_u64().unwrap()).await, "redriven");
        let (answer, re) = personal(&mut events).await;
        assert_eq!(answer, json!("paid"));
        ids.push((json!(re), letter["id"].clone()));
    }
    assert!(ids.len() == 2 && ids.iter().all(|(re, id)| re == id), "{ids:?}");
}

#[tokio::test]
async fn a_letter_that_two_operators_redrive_at_once_runs_once() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let bank = Bank::default();
    let _worker = bank.work(&tide).await;
    let (client, _events) = tide.client("42").await;
    dies(&client, "pay#7").await;
    bank.opens();
    let number = tide.operate("dead_list", json!({})).await["letters"][0]["letter"].clone();
    let redrives = (0..8).map(|_| tide.operate("dead_redrive", json!({"letter": number})));
    let outcomes = futures_util::future::join_all(redrives).await;
    // One that comes between the first two steps of another finds neither the error nor the parked request.
    let later =
        |said: &Value| said["error"]["message"].as_str().is_some_and(|text| text.contains("ask again"));
    let harmless = ["redriven", "gone", "answered", "alive"];
    let is_harmless = |said: &Value| harmless.iter().any(|word| said["outcome"] == *word) || later(said);
    assert!(outcomes.iter().all(is_harmless), "{outcomes:?}");
    assert!(outcomes.iter().any(|said| said["outcome"] == "redriven"), "{outcomes:?}");
    tide.settled().await;
    assert_eq!(client.rpc("pay#7", "1").await.unwrap(), "\"paid\"");
    assert_eq!((bank.asked(), tide.count(DEAD).await), (2, 0));
}

#[tokio::test]
async fn a_redrive_that_was_cut_off_after_any_step_can_be_repeated() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let bank = Bank::default();
    let worker = bank.work(&tide).await;
    let (client, _events) = tide.client("42").await;
    dies(&client, "pay#7").await;
    worker.drain();
    worker.ended().await;
    let shown = tide.operate("dead_show", json!({"letter": 1})).await;
    assert_eq!((&shown["whole"], &shown["data"]), (&json!(true), &json!(1)));
    // The error is forgotten, and the gateway died then.
    let nats = &tide.config().nats;
    let gateway = tidegate_shared::broker::Broker::connect(nats, &nats.gateway, "g", 1, true).await.unwrap();
    let reply = format!("tide.reply.{}", shown["id"].as_str().unwrap());
    gateway.purge("TIDE_REPLY", &reply, 1 << 40).await.unwrap();
    assert_eq!(redrive(&tide, 1).await, "redriven");
    assert_eq!(tide.count(PARK).await, 1, "the request is due, and nobody takes it");
    // As if the letter had not been removed: the same letter again, which is the same message.
    bank.opens();
    let _worker = bank.work(&tide).await;
    tide.settled().await;
    assert_eq!(client.rpc("pay#7", "1").await.unwrap(), "\"paid\"");
    assert_eq!((bank.asked(), tide.count(DEAD).await), (2, 0));
}

#[tokio::test]
async fn a_letter_that_never_was_a_request_stays_and_the_error_says_so() {
    let tide = Tide::start_with_gateway(ROUTES).await;
    let bank = Bank::default();
    let _worker = bank.work(&tide).await;
    let request = tide.request("pay", "1");
    let subject = tide.subject_of(&request);
    tide.gateway.store(subject, HeaderMap::new(), request.body.clone()).await.unwrap();
    tide.dead_letter("pay").await;
    let refused = tide.operate("dead_redrive", json!({"letter": 1})).await;
    assert_eq!(refused["error"]["code"], 108, "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("never a request"), "{refused}");
    assert_eq!(tide.operate("dead_drop", json!({"letter": 1})).await["outcome"], "dropped");
    assert_eq!(tide.operate("dead_drop", json!({"letter": 1})).await["outcome"], "gone");
    tide.settled().await;
}
