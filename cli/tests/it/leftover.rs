//! `apply` and the streams of requests: those that no route has, and those that do not fit.

use std::collections::BTreeMap;

use async_nats::jetstream;
use tidegate_cli::stack::{Stack, setup};
use tidegate_shared::{
    broker::Broker,
    config::Config,
    topology::{Change, Topology},
};

/// Two routes of which one may take the requests of the other.
const TWO: &str =
    "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n[[route]]\nname = \"task\"\nmatch = \"rpc.task\"\n";

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
    let stack =
        Stack::builder().config("[[route]]\nname = \"job\"\nmatch = \"rpc.other\"\n").start().await.unwrap();
    let broker = setup::connect(stack.config()).await.unwrap();
    let old = jetstream::stream::Config {
        name: "TIDE_IN".to_owned(),
        subjects: vec!["tide.in.rpc.job.>".to_owned()],
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
    let stack = Stack::builder().config(TWO).start().await.unwrap();
    let broker = setup::connect(stack.config()).await.unwrap();
    ask(&stack).await;
    let without = Topology::of(&with_routes(&stack, &[]));
    let leftovers = without.leftovers(broker.jetstream()).await.unwrap();
    let advice =
        leftovers.iter().map(tidegate_shared::topology::Leftover::advice).collect::<Vec<_>>().join("\n");
    assert!(advice.contains("TIDE_IN_job belongs to no [[route]]; waiting requests: 1"), "{advice}");
    let renamed = setup::apply(&broker, &with_routes(&stack, &["task"])).await.unwrap_err().to_string();
    assert!(renamed.contains("TIDE_IN_job") && renamed.contains("TIDE_IN_task takes the same"), "{renamed}");
    stack.down().await;
}

#[tokio::test]
async fn streams_that_do_not_fit_are_added_up() {
    let stack = Stack::builder().start().await.unwrap();
    let broker = stack.admin().await.unwrap();
    let file = stack.dir().join("large.toml");
    let route = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_bytes = \"100 GiB\"\n";
    std::fs::write(&file, route).unwrap();
    let url = [("nats.url", stack.nats_url().to_owned())];
    let config = Config::from_sources(Some(&file), BTreeMap::new(), &url).unwrap();
    let refused = setup::apply(&broker, &config).await.unwrap_err().to_string();
    assert!(refused.contains("TIDE_IN_job 100.0 GiB") && refused.contains("reserves 100."), "{refused}");
    stack.down().await;
}
