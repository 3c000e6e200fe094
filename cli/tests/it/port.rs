//! Ports taken by another process or stack.

use std::net::TcpListener;

use tidegate_cli::stack::Stack;

#[tokio::test]
async fn a_taken_port_is_named_with_its_owner_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let config = format!("[nats]\nurl = \"nats://127.0.0.1:{port}\"\n");
    let error = Stack::builder()
        .config(&config)
        .configured_ports()
        .dir(dir.path())
        .start()
        .await
        .unwrap_err()
        .to_string();
    let us = format!("port {port} of nats (nats.url) is taken by pid {}", std::process::id());
    assert!(error.starts_with(&us), "{error}");
    assert!(!dir.path().join("nats").exists());
}

#[tokio::test]
async fn two_stacks_at_once_share_no_address_and_no_directory() {
    let (one, two) = tokio::try_join!(Stack::builder().start(), Stack::builder().start()).unwrap();
    assert_ne!(one.nats_url(), two.nats_url());
    assert_ne!(one.dir(), two.dir());
    tokio::join!(one.down(), two.down());
}
