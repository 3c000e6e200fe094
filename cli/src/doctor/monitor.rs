//! What only the broker's monitoring shows: whether a stored message is on the disk when it is confirmed.

use std::time::Duration;

use serde::Deserialize;
use tidegate_shared::config::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::Finding;

const LIMIT: Duration = Duration::from_secs(5);
/// An answer is some kilobytes long.
const LONGEST: u64 = 1 << 20;

/// The part of `/varz` that is read here.
#[derive(Debug, Deserialize)]
struct Varz {
    #[serde(default)]
    jetstream: Jetstream,
}

#[derive(Debug, Default, Deserialize)]
struct Jetstream {
    config: Option<Store>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Store {
    sync_always: bool,
    sync_interval: u64,
}

pub(super) async fn examine(config: &Config, address: &str) -> Vec<Finding> {
    match timeout(LIMIT, varz(address)).await {
        Ok(Ok(varz)) => vec![durability(config.streams.replicas, varz.jetstream.config)],
        Ok(Err(error)) => vec![away(address, &error.to_string())],
        Err(_) => vec![away(address, "no answer in time")],
    }
}

fn away(address: &str, why: &str) -> Finding {
    Finding::wrong(
        "durability",
        format!("the broker's monitoring at {address} cannot be read: {why}"),
        "name the address of `http` in nats.conf, such as 127.0.0.1:8222",
    )
}

async fn varz(address: &str) -> anyhow::Result<Varz> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /varz HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(0, |end| end + 4);
    Ok(serde_json::from_slice(answer.get(body..).unwrap_or_default())?)
}

fn durability(replicas: usize, store: Option<Store>) -> Finding {
    let Some(store) = store else {
        return Finding::wrong("durability", "JetStream is off", "add a `jetstream` block to nats.conf");
    };
    if store.sync_always {
        return Finding::ok(
            "durability",
            "a message is on the disk when it is confirmed (sync_interval: always)",
        );
    }
    let every = humantime::format_duration(Duration::from_nanos(store.sync_interval));
    if replicas >= 3 {
        return Finding::ok(
            "durability",
            format!(
                "{replicas} servers have a message when it is confirmed; their disks have it within {every}"
            ),
        );
    }
    Finding::warning(
        "durability",
        format!("a message is confirmed before the disk has it: a power failure loses up to {every}"),
        "set jetstream.sync_interval: always in nats.conf, or run three servers with streams.replicas = 3",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn one_server_that_syncs_later_is_a_warning_and_three_are_none() {
        let later = || Some(Store { sync_always: false, sync_interval: 120_000_000_000 });
        let always = || Some(Store { sync_always: true, ..Store::default() });
        let grade = |replicas, store| durability(replicas, store).grade;
        assert_eq!(
            [grade(1, always()), grade(1, later()), grade(3, later())],
            [Grade::Ok, Grade::Warning, Grade::Ok]
        );
        assert_eq!(grade(1, None), Grade::Wrong);
        assert!(durability(1, later()).found.contains("2m"));
    }
}
