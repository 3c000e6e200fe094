//! The demo, from the feed to the verdict.

use std::path::PathBuf;

use tidegate_cli::demo::{self, KeepFiles, Options};

#[tokio::test]
async fn the_demo_counts_no_loss_and_no_duplicate_while_processes_are_killed() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/quakes/earthquakes.ndjson");
    let counts = demo::run(&Options { file, kills: true, keep: KeepFiles::Failed }).await.unwrap();
    assert_eq!(counts.problems(), Vec::<String>::new(), "{}", counts.table());
    assert_eq!(counts.kills, ["worker-1", "gateway-2"]);
    assert!(counts.deliveries.interruptions > 0, "a gateway with subscribers was killed: {}", counts.table());
}

#[tokio::test]
async fn a_report_the_handler_rejects_fails_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("feed.ndjson");
    let feed = include_str!("../../../examples/quakes/earthquakes.ndjson");
    let mut lines: Vec<_> = feed.lines().take(20).collect();
    lines.push(r#"{"id":"bad","net":"ci","mag":1.0}"#);
    std::fs::write(&file, lines.join("\n")).unwrap();
    let counts = demo::run(&Options { file, kills: false, keep: KeepFiles::Never }).await.unwrap();
    assert_eq!(
        (counts.requests.rejected, counts.lost(), counts.rows.stored),
        (1, 0, 20),
        "{}",
        counts.table()
    );
    assert!(counts.problems().iter().any(|problem| problem.contains("bad: 422")), "{:?}", counts.problems());
}
