//! Centrifugo, built from its Go module at one version.

use std::path::PathBuf;

use anyhow::ensure;
use serde_json::json;
use tokio::process::Command;

use super::{
    Absent, Server, Tools,
    nats::Broker,
    spawn::{free_address, id, listening, spawn},
};
use crate::generator::{Dialect, Host, Through};

const MODULE: &str = "github.com/centrifugal/centrifugo/v6@v6.9.1";
const SECRET: &str = "a secret of the trial that everybody may know";
const KEY: &str = "trial";

/// Starts a node on a broker, or with its memory engine.
pub(super) async fn start(broker: Option<Broker>, tools: &Tools) -> anyhow::Result<Server> {
    let program = program(tools).await?;
    let dir = tempfile::Builder::new().prefix("trial-centrifugo-").tempdir()?;
    let address = free_address()?;
    let file = dir.path().join("config.json");
    let config = configuration(address.port(), broker.as_ref().map(|broker| broker.address.to_string()));
    std::fs::write(&file, config.to_string())?;
    let log = dir.path().join("log");
    let mut command = Command::new(program);
    command.arg("--config").arg(&file).env("GOMAXPROCS", "1");
    let mut child = spawn(&mut command, &log)?;
    listening(&mut child, address, &log).await?;
    let host = Host {
        dialect: Dialect::Centrifuge,
        addresses: vec![address],
        path: "/connection/websocket".to_owned(),
        secret: Some(SECRET.to_owned()),
    };
    let through = Through::Http { address, key: KEY.to_owned(), connections: 64 };
    let pid = id(&child)?;
    let broker_pid = broker.as_ref().map(|broker| id(&broker.child)).transpose()?;
    let children = broker.into_iter().map(|broker| broker.child).chain([child]).collect();
    Ok(Server { host, through, nats: None, pid, broker: broker_pid, stack: None, children, _dir: Some(dir) })
}

fn configuration(port: u16, nats: Option<String>) -> serde_json::Value {
    let namespace = |name: &str| json!({"name": name, "allow_subscribe_for_client": true, "allow_publish_for_client": true});
    let mut kept = namespace("kept");
    // The NATS broker keeps no history, and refuses a namespace with one.
    if nats.is_none()
        && let Some(kept) = kept.as_object_mut()
    {
        kept.insert("history_size".to_owned(), json!(100));
        kept.insert("history_ttl".to_owned(), json!("3600s"));
        kept.insert("force_recovery".to_owned(), json!(true));
    }
    let mut config = json!({
        "http_server": {"address": "127.0.0.1", "port": port.to_string()},
        "http_api": {"key": KEY},
        "log": {"level": "error"},
        "client": {
            "token": {"hmac_secret_key": SECRET},
            "allowed_origins": ["*"],
            "channel_limit": 1000,
            "subscribe_to_user_personal_channel": {"enabled": true},
        },
        "channel": {"namespaces": [namespace("live"), kept]},
    });
    if let (Some(nats), Some(config)) = (nats, config.as_object_mut()) {
        let broker = json!({"enabled": true, "type": "nats", "nats": {"url": format!("nats://{nats}")}});
        config.insert("broker".to_owned(), broker);
    }
    config
}

/// Finds the program, or builds it: that takes minutes, once.
async fn program(tools: &Tools) -> anyhow::Result<PathBuf> {
    let bin = std::path::absolute(tools.dir.join("bin"))?;
    let program = bin.join("centrifugo");
    if !program.is_file() {
        tidegate_cli::output::note(format!("building {MODULE} into {}: this takes minutes", bin.display()));
        std::fs::create_dir_all(&bin)?;
        let status = Command::new("go").args(["install", MODULE]).env("GOBIN", &bin).status().await;
        ensure!(status.is_ok_and(|status| status.success()), Absent(format!("go install {MODULE} fails")));
    }
    Ok(program)
}
