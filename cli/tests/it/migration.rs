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

async fn kept(broker: &Broker) -> Vec<String> {
    let range = broker.range("TIDE_CH_chat", "tide.ch.chat.x", 1, 100).await.unwrap();
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
    assert_eq!(kept(&broker).await, ["1", "2", "3", "4", "5"]);
    for n in 6..10 {
        publish(&service, &n.to_string()).await;
    }
    assert_eq!(kept(&broker).await.len(), 8);
    changed(&stack, &broker, "history_size = 3\nhistory_ttl = \"1m\"").await;
    assert_eq!(kept(&broker).await, ["7", "8", "9"]);
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
    let stack = Stack::builder().config("[[namespace]]\nname = \"chat\"\n").start().await.unwrap();
    let (broker, service) = brokers(&stack).await;
    publish(&service, "before").await;
    let said = changed(&stack, &broker, "history_size = 5").await;
    assert!(said.contains("make stream TIDE_CH_chat anew") && said.contains("may be removed"), "{said}");
    for text in ["0", "1", "2"] {
        publish(&service, text).await;
    }
    assert_eq!(kept(&broker).await, ["0", "1", "2"]);
    let said = changed(&stack, &broker, "history_size = 0").await;
    assert!(said.contains("update stream TIDE_CH_chat"), "{said}");
    assert_eq!(kept(&broker).await, ["2"]);
    let said = changed(&stack, &broker, "history_size = 4").await;
    assert!(said.contains("update stream TIDE_CH_chat"), "{said}");
    assert_eq!(kept(&broker).await, ["2"], "this stream was never written behind the acknowledgement");
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
    assert_eq!(kept(&broker).await, ["kept"]);
    let topology = Topology::of(&wanted).recreating(&["chat".to_owned()]);
    let plan = topology.plan(broker.jetstream()).await.unwrap();
    assert!(plan.iter().any(|change| change.what.contains("are lost")), "{plan:?}");
    topology.apply(broker.jetstream(), &plan).await.unwrap();
    assert_eq!(topology.plan(broker.jetstream()).await.unwrap(), Vec::<Change>::new());
    assert!(kept(&broker).await.is_empty());
    stack.down().await;
}

/// A configuration with these routes.
fn with_routes(stack: &Stack, routes: &[&str]) -> Config {
    let table = |name: &&str| format!("[[route]]\nname = \"{name}\"\nmatch = \"rpc.job\"\n");
    let file = stack.dir().join("routes.toml");
    std::fs::write(&file, routes.iter().map(table).collect::<String>()).unwrap();
    let url = [("nats.url", stack.nats_url().to_owned())];
    Config::from_sources(Some(&file), BTreeMap::new(), &url).unwrap()
}

async fn ask(stack: &Stack) {
    let nats = &stack.config().nats;
    let gateway = Broker::connect(nats, &nats.gateway, "gateway", 16, true).await.unwrap();
    let stored = gateway.store("tide.in.rpc.job.1.gw.a".to_owned(), async_nats::HeaderMap::new(), "1".into());
    stored.await.unwrap();
}

#[tokio::test]
async fn the_queue_of_earlier_versions_is_refused_with_the_way_out_and_never_removed() {
    let stack = Stack::builder().start().await.unwrap();
    let (broker, _) = brokers(&stack).await;
    let old = jetstream::stream::Config {
        name: "TIDE_IN".to_owned(),
        subjects: vec!["tide.in.>".to_owned()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        ..jetstream::stream::Config::default()
    };
    broker.jetstream().create_stream(old).await.unwrap();
    let config = with_routes(&stack, &["job"]);
    let refused = setup::apply(&broker, &config).await.unwrap_err().to_string();
    assert!(refused.contains("nothing was changed") && refused.contains("holds none"), "{refused}");
    ask(&stack).await;
    let refused = setup::apply(&broker, &config).await.unwrap_err().to_string();
    assert!(refused.contains("holds 1") && refused.contains("let the earlier workers finish"), "{refused}");
    // What the message says.
    broker.jetstream().delete_stream("TIDE_IN").await.unwrap();
    setup::apply(&broker, &config).await.unwrap();
    assert_eq!(setup::plan(&broker, &config).await.unwrap(), Vec::<Change>::new());
    stack.down().await;
}

#[tokio::test]
async fn the_stream_of_a_route_that_is_gone_is_named_with_its_waiting_requests() {
    let stack = Stack::builder().start().await.unwrap();
    let (broker, _) = brokers(&stack).await;
    setup::apply(&broker, &with_routes(&stack, &["job"])).await.unwrap();
    ask(&stack).await;
    let without = Topology::of(&with_routes(&stack, &[]));
    let leftovers = without.leftovers(broker.jetstream()).await.unwrap();
    let advice = leftovers.iter().map(|leftover| leftover.advice()).collect::<Vec<_>>().join("\n");
    assert!(advice.contains("TIDE_IN_job belongs to no [[route]]; waiting requests: 1"), "{advice}");
    let renamed = setup::apply(&broker, &with_routes(&stack, &["task"])).await.unwrap_err().to_string();
    assert!(renamed.contains("TIDE_IN_job") && renamed.contains("TIDE_IN_task takes the same"), "{renamed}");
    stack.down().await;
}

#[tokio::test]
async fn streams_that_do_not_fit_are_added_up() {
    let stack = Stack::builder().start().await.unwrap();
    let (broker, _) = brokers(&stack).await;
    let file = stack.dir().join("large.toml");
    let route = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_bytes = \"100 GiB\"\n";
    std::fs::write(&file, route).unwrap();
    let url = [("nats.url", stack.nats_url().to_owned())];
    let config = Config::from_sources(Some(&file), BTreeMap::new(), &url).unwrap();
    let refused = setup::apply(&broker, &config).await.unwrap_err().to_string();
    assert!(refused.contains("TIDE_IN_job 100.0 GiB") && refused.contains("reserves 100."), "{refused}");
    stack.down().await;
}
