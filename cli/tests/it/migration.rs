//! `apply` on a broker that has another configuration already: stored publications stay, or the change names the loss.

use std::collections::BTreeMap;

use async_nats::jetstream::{self, stream::StorageType};
use tidegate_cli::stack::{Stack, setup};
use tidegate_shared::{
    broker::Broker,
    config::Config,
    topology::{Change, Topology},
};

const KEPT: &str = "[[namespace]]\nname = \"chat\"\nhistory_size = 5\n";

fn config(stack: &Stack, keys: &str) -> Config {
    let file = stack.dir().join("changed.toml");
    std::fs::write(&file, format!("[[namespace]]\nname = \"chat\"\n{keys}\n")).unwrap();
    let url = [("nats.url", stack.nats_url().to_owned())];
    Config::from_sources(Some(&file), BTreeMap::new(), &url).unwrap()
}

/// Applies the changes, returns their descriptions, and checks that no change is left.
async fn changed(stack: &Stack, broker: &Broker, keys: &str) -> String {
    let config = config(stack, keys);
    let changes = setup::apply(broker, &config).await.unwrap();
    assert_eq!(setup::plan(broker, &config).await.unwrap(), Vec::<Change>::new());
    changes.iter().map(|change| change.what.as_str()).collect::<Vec<_>>().join("\n")
}

async fn kept(stack: &Stack) -> Vec<String> {
    let range = stack.admin().await.unwrap().range("TIDE_CH_chat", "tide.ch.chat.x", 1, 100).await.unwrap();
    range.messages.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
}

async fn publish(service: &Broker, text: &str) {
    let stored =
        service.store("tide.ch.chat.x".to_owned(), async_nats::HeaderMap::new(), text.to_owned().into());
    stored.await.unwrap();
}

async fn brokers(stack: &Stack) -> (Broker, Broker) {
    let nats = &stack.config().nats;
    let service = Broker::connect(nats, &nats.service, "service", 16, true).await.unwrap();
    (setup::connect(stack.config()).await.unwrap(), service)
}

#[tokio::test]
async fn a_history_that_shrinks_or_grows_keeps_what_fits() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    for n in 0..6 {
        publish(&service, &n.to_string()).await;
    }
    let said = changed(&stack, &broker, "history_size = 8\nhistory_ttl = \"2h\"").await;
    assert!(said.contains("update stream TIDE_CH_chat") && said.contains("5 -> 8"), "{said}");
    assert_eq!(kept(&stack).await, ["1", "2", "3", "4", "5"]);
    for n in 6..10 {
        publish(&service, &n.to_string()).await;
    }
    assert_eq!(kept(&stack).await.len(), 8);
    changed(&stack, &broker, "history_size = 3\nhistory_ttl = \"1m\"").await;
    assert_eq!(kept(&stack).await, ["7", "8", "9"]);
    stack.down().await;
}

#[tokio::test]
async fn a_history_that_grows_notes_since_when_and_an_interrupted_apply_is_completed_by_the_next() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    let config =
        async || broker.jetstream().get_stream("TIDE_CH_chat").await.unwrap().cached_info().config.clone();
    let mark = async || config().await.metadata.get("tidegate-raised").cloned();
    assert_eq!(mark().await, None);
    for n in 0..6 {
        publish(&service, &n.to_string()).await;
    }
    changed(&stack, &broker, "history_size = 8").await;
    assert_eq!(mark().await.unwrap(), "6:5");
    publish(&service, "6").await;
    changed(&stack, &broker, "history_size = 4").await;
    assert_eq!(mark().await.unwrap(), "6:5", "a smaller limit needs no mark");
    changed(&stack, &broker, "history_size = 9").await;
    assert_eq!(mark().await.unwrap(), "7:4");
    let mut interrupted = config().await;
    interrupted.metadata.insert("tidegate-raised".to_owned(), format!("{}:4", u64::MAX));
    broker.jetstream().update_stream(interrupted).await.unwrap();
    publish(&service, "7").await;
    let said = changed(&stack, &broker, "history_size = 9").await;
    assert!(said.contains("larger history holds"), "{said}");
    assert_eq!(mark().await.unwrap(), "8:4");
    stack.down().await;
}

#[tokio::test]
async fn a_namespace_gains_and_loses_its_history() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    publish(&service, "before").await;
    let said = changed(&stack, &broker, "history_size = 0").await;
    assert!(said.contains("remove stream TIDE_CH_chat") && said.contains("1 publications"), "{said}");
    assert!(said.contains("remove stream TIDE_LAST_chat") && said.contains("nats-config"), "{said}");
    assert!(broker.jetstream().get_stream("TIDE_CH_chat").await.is_err());
    let said = changed(&stack, &broker, "history_size = 4").await;
    assert!(said.contains("create stream TIDE_CH_chat"), "{said}");
    publish(&service, "after").await;
    assert_eq!(kept(&stack).await, ["after"]);
    stack.down().await;
}

#[tokio::test]
async fn the_stream_that_an_earlier_version_made_for_a_namespace_without_history_is_removed_or_made_anew() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    let made_before = async || {
        let there = broker.jetstream().get_stream("TIDE_CH_chat").await.unwrap().cached_info().config.clone();
        broker.jetstream().delete_stream("TIDE_CH_chat").await.unwrap();
        let earlier = jetstream::stream::Config {
            max_messages_per_subject: 1,
            max_age: std::time::Duration::from_mins(1),
            duplicate_window: std::time::Duration::from_mins(1),
            allow_atomic_publish: false,
            persist_mode: Some(jetstream::stream::PersistenceMode::Async),
            ..there
        };
        broker.jetstream().create_stream(earlier).await.unwrap();
    };
    made_before().await;
    publish(&service, "before").await;
    let said = changed(&stack, &broker, "history_size = 5").await;
    assert!(said.contains("make stream TIDE_CH_chat anew") && said.contains("may be removed"), "{said}");
    for text in ["0", "1"] {
        publish(&service, text).await;
    }
    // The broker may write what it has acknowledged into the files of the stream that follows.
    let kept = kept(&stack).await;
    assert!(kept.ends_with(&["0".to_owned(), "1".to_owned()]), "{kept:?}");
    made_before().await;
    let said = changed(&stack, &broker, "history_size = 0").await;
    assert!(said.contains("remove stream TIDE_CH_chat"), "{said}");
    stack.down().await;
}

#[tokio::test]
async fn a_change_that_loses_publications_is_refused_without_recreate_channels() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    let there = broker.jetstream().get_stream("TIDE_CH_chat").await.unwrap().cached_info().config.clone();
    broker.jetstream().delete_stream("TIDE_CH_chat").await.unwrap();
    let memory = jetstream::stream::Config { storage: StorageType::Memory, ..there };
    broker.jetstream().create_stream(memory).await.unwrap();
    publish(&service, "kept").await;
    let wanted = config(&stack, "history_size = 9");
    let refused = setup::apply(&broker, &wanted).await.unwrap_err().to_string();
    assert!(refused.contains("--recreate-channels chat") && refused.contains("1 publications"), "{refused}");
    assert_eq!(kept(&stack).await, ["kept"]);
    let topology = Topology::of(&wanted).recreating(&["chat".to_owned()]);
    let plan = topology.plan(broker.jetstream()).await.unwrap();
    assert!(plan.iter().any(|change| change.what.contains("are lost")), "{plan:?}");
    topology.apply(broker.jetstream(), &plan).await.unwrap();
    assert_eq!(topology.plan(broker.jetstream()).await.unwrap(), Vec::<Change>::new());
    assert!(kept(&stack).await.is_empty());
    stack.down().await;
}

#[tokio::test]
async fn a_result_cache_of_an_earlier_version_is_republished_no_more_and_keeps_its_answers() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, _service) = brokers(&stack).await;
    let nats = &stack.config().nats;
    let worker = Broker::connect(nats, &nats.worker, "worker", 16, true).await.unwrap();
    let mut before = broker.jetstream().get_stream("TIDE_REPLY").await.unwrap().cached_info().config.clone();
    before.allow_message_ttl = true;
    before.republish = Some(jetstream::stream::Republish {
        source: "tide.reply.*.*".to_owned(),
        destination: "tide.answer.{{wildcard(1)}}.{{wildcard(2)}}".to_owned(),
        headers_only: false,
    });
    broker.jetstream().update_stream(before).await.unwrap();
    worker.store("tide.reply.k.a".to_owned(), async_nats::HeaderMap::new(), "1".into()).await.unwrap();
    let said = changed(&stack, &broker, "history_size = 5").await;
    assert!(said.contains("update stream TIDE_REPLY: republish -> none"), "{said}");
    let stream = broker.jetstream().get_stream("TIDE_REPLY").await.unwrap();
    assert!(stream.cached_info().config.republish.is_none());
    assert_eq!(stream.cached_info().state.messages, 1);
}

#[tokio::test]
async fn the_last_messages_are_copied_anew_when_their_namespace_changes() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    let admin = stack.admin().await.unwrap();
    let created = async || {
        let found = broker.jetstream().get_stream("TIDE_LAST_chat").await;
        found.ok().map(|stream| stream.cached_info().created)
    };
    let copied = async || {
        let copies =
            async || admin.last_of_each("TIDE_LAST_chat", &["tide.ch.chat.x"]).await.unwrap().messages;
        let copying = async {
            while copies().await.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), copying).await.expect("it is copied");
    };
    publish(&service, "kept").await;
    copied().await;
    let first = created().await.unwrap();
    tidegate_shared::topology::new_epoch(broker.jetstream(), "chat").await.unwrap();
    let second = created().await.unwrap();
    assert_ne!(first, second, "copies of another epoch prove nothing");
    assert_eq!(changed(&stack, &broker, "history_size = 5").await, "");
    copied().await;
    let said = changed(&stack, &broker, "history_size = 5\nrecovery = \"cache\"").await;
    assert!(said.contains("remove stream TIDE_LAST_chat"), "{said}");
    assert_eq!(created().await, None);
    let said = changed(&stack, &broker, "history_size = 5").await;
    assert!(said.contains("create stream TIDE_LAST_chat for the last message of each channel"), "{said}");
    let there = broker.jetstream().get_stream("TIDE_CH_chat").await.unwrap().cached_info().config.clone();
    broker.jetstream().delete_stream("TIDE_CH_chat").await.unwrap();
    broker.jetstream().create_stream(there).await.unwrap();
    let said = changed(&stack, &broker, "history_size = 5").await;
    assert!(said.contains("make stream TIDE_LAST_chat anew: it has copies of another stream"), "{said}");
    stack.down().await;
}

#[tokio::test]
async fn a_stream_with_history_from_before_it_took_batches_takes_them_after_an_update_and_keeps_everything() {
    let stack = Stack::builder().config(KEPT).start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    let mut stream =
        broker.jetstream().get_stream("TIDE_CH_chat").await.unwrap().cached_info().config.clone();
    assert!(stream.allow_atomic_publish);
    stream.allow_atomic_publish = false;
    broker.jetstream().update_stream(stream).await.unwrap();
    publish(&service, "before").await;
    let said = changed(&stack, &broker, "history_size = 5").await;
    assert!(said.contains("update stream TIDE_CH_chat: allow_atomic"), "{said}");
    assert_eq!(kept(&stack).await, ["before"]);
    stack.down().await;
}
