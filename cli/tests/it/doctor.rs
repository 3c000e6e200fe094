//! `tidegate doctor` on deployments that are in order, and on such that are not.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use tidegate_cli::{
    doctor::{self, Finding, Grade, Subject},
    stack::Stack,
};
use tidegate_shared::{
    broker::Broker,
    config::{Config, Role},
};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n";

async fn examine(config: &Config, role: Role) -> Vec<Finding> {
    Box::pin(doctor::examine(config, role, &Subject::default())).await
}

/// What is not in order, by the names of the checks.
fn troubles(findings: &[Finding]) -> Vec<(&str, Grade)> {
    // The tests run with the built-in secrets.
    let troubles =
        findings.iter().filter(|finding| finding.grade != Grade::Ok && finding.check != "environment");
    troubles.map(|finding| (finding.check, finding.grade)).collect()
}

/// The configuration of a stack with other tables in the file, and other keys.
fn with(stack: &Stack, toml: &str, keys: &[(&str, String)]) -> Config {
    let file: PathBuf = stack.dir().join("doctor.toml");
    std::fs::write(&file, toml).unwrap();
    let mut flags = vec![("nats.url", stack.nats_url().to_owned())];
    flags.extend(keys.iter().cloned());
    Config::from_sources(Some(&file), BTreeMap::new(), &flags).unwrap()
}

#[tokio::test]
async fn a_stack_that_was_just_started_is_in_order_for_every_program() {
    let stack = Stack::builder().config(ROUTE).start().await.unwrap();
    for role in [Role::All, Role::Gateway, Role::Worker, Role::Purger, Role::Setup, Role::Service] {
        let findings = examine(stack.config(), role).await;
        assert_eq!(troubles(&findings), [], "{role:?}: {findings:#?}");
        assert!(findings.iter().any(|finding| finding.check == "rights"), "{role:?}: {findings:#?}");
    }
    stack.down().await;
}

#[tokio::test]
async fn what_is_missing_waiting_or_left_over_at_the_broker_is_named_with_what_to_do() {
    let stack = Stack::builder().config(ROUTE).start().await.unwrap();
    let nats = &stack.config().nats;
    let gateway = Broker::connect(nats, &nats.gateway, "gateway", 16, true).await.unwrap();
    gateway
        .store("tide.in.rpc.job.1.gw.a".to_owned(), async_nats::HeaderMap::new(), "1".into())
        .await
        .unwrap();
    let findings = examine(stack.config(), Role::Setup).await;
    assert_eq!(troubles(&findings), [("requests", Grade::Warning)], "{findings:#?}");
    assert!(
        findings.iter().any(|finding| finding.found.contains("1 requests of route job wait")),
        "{findings:#?}"
    );
    let without = with(&stack, "", &[]);
    let findings = examine(&without, Role::Setup).await;
    assert_eq!(
        troubles(&findings),
        [("streams", Grade::Wrong), ("leftovers", Grade::Warning)],
        "{findings:#?}"
    );
    let broker = stack.admin().await.unwrap();
    broker.jetstream().delete_stream("TIDE_REPLY").await.unwrap();
    let findings = examine(stack.config(), Role::Setup).await;
    let streams = findings.iter().find(|finding| finding.check == "streams").unwrap();
    assert_eq!(
        (streams.grade, streams.next.as_deref()),
        (Grade::Wrong, Some("tidegate apply")),
        "{findings:#?}"
    );
    assert!(streams.found.contains("TIDE_REPLY"), "{findings:#?}");
    stack.down().await;
}

#[tokio::test]
async fn a_user_that_the_broker_refuses_is_named_with_its_key() {
    let stack = Stack::builder().config(ROUTE).start().await.unwrap();
    let wrong = with(&stack, ROUTE, &[("nats.worker.password", "nonsense".to_owned())]);
    let findings = examine(&wrong, Role::All).await;
    assert_eq!(troubles(&findings), [("user", Grade::Wrong)], "{findings:#?}");
    let next = findings.iter().find_map(|finding| finding.next.clone().filter(|_| finding.check == "user"));
    assert!(next.unwrap().contains("nats.worker.password"), "{findings:#?}");
    stack.down().await;
}

#[test]
fn without_a_broker_the_command_says_so_once_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let doctor = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["doctor", "--json"])
        .env("TIDEGATE_NATS__URL", "nats://127.0.0.1:1")
        .current_dir(dir.path())
        .output()
        .unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let wrong: Vec<_> =
        findings.as_array().unwrap().iter().filter(|finding| finding["grade"] == "wrong").collect();
    assert!(doctor.status.code() == Some(1) && wrong.len() == 1, "{findings}");
    assert!(wrong[0]["found"].as_str().unwrap().contains("no NATS answers"), "{findings}");
}
