//! A broker that is too old.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use tidegate_cli::stack::setup;
use tidegate_shared::config::Config;

#[tokio::test]
async fn a_broker_that_is_too_old_is_refused_with_the_version_that_is_needed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let info = r#"{"server_id":"OLD","server_name":"old","version":"2.10.29","go":"","host":"","port":1,"headers":true,"max_payload":1048576,"proto":1,"client_id":1}"#;
        write!(stream, "INFO {info}\r\n").unwrap();
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
            if line.starts_with("PING") {
                stream.write_all(b"PONG\r\n").unwrap();
            }
        }
    });
    let config = Config::from_sources(None, [("TIDEGATE_NATS__URL".to_owned(), url)].into(), &[]).unwrap();
    let error = setup::connect(&config).await.unwrap_err().to_string();
    assert_eq!(error, "nats-server 2.10.29 is too old: Tidegate needs 2.14.3 or newer");
}
