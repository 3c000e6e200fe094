//! Headers that a publisher wrote by hand. The broker stores and delivers them as they are, so that no library between the
//! publisher and the gateway has made them valid.

use tidegate_cli::stack::Stack;
use tidegate_shared::protocol::HistoryRequest;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    PATIENCE, connect, fresh, history, in_both_fanouts, kept_by, next, nothing_panicked, resume, texts,
};

/// A connection to NATS as the service user, whose bytes the test writes itself.
struct Publisher {
    socket: BufReader<TcpStream>,
}

impl Publisher {
    async fn connect(stack: &Stack) -> Self {
        let address = stack.nats_url().trim_start_matches("nats://").to_owned();
        let mut publisher = Self { socket: BufReader::new(TcpStream::connect(address).await.unwrap()) };
        let service = &stack.config().nats.service;
        let connect = serde_json::json!({"user": service.user, "pass": service.password.expose(), "headers": true,
            "verbose": false, "lang": "by hand", "version": "1"});
        publisher.write(format!("CONNECT {connect}\r\n").as_bytes()).await;
        publisher.stored().await;
        publisher
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).await.unwrap();
    }

    /// Publishes with a header block as it stands.
    async fn publish(&mut self, subject: &str, headers: &[u8], payload: &str) {
        let (head, total) = (headers.len(), headers.len() + payload.len());
        self.write(format!("HPUB {subject} {head} {total}\r\n").as_bytes()).await;
        self.write(headers).await;
        self.write(format!("{payload}\r\n").as_bytes()).await;
        self.stored().await;
    }

    /// Waits until the broker has taken everything.
    async fn stored(&mut self) {
        self.write(b"PING\r\n").await;
        let mut line = String::new();
        while line.trim() != "PONG" {
            assert!(!line.starts_with("-ERR"), "{line}");
            line.clear();
            timeout(PATIENCE, self.socket.read_line(&mut line)).await.unwrap().unwrap();
        }
    }
}

fn block(line: &[u8]) -> Vec<u8> {
    [b"NATS/1.0\r\n".as_slice(), line, b"\r\n\r\n"].concat()
}

/// Header blocks that are not UTF-8, are no headers, or name what the broker writes into its copies.
fn odd_blocks() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 16] = [
        b"Tide-Client: b\r\nTide-Info: {\"name\":\"Jos\xe9\"}",
        b"Tide-Tag-caf\xc3\xa9: 1",
        b"Tide-Tag-\xff\xfe: 1",
        b"Tide Tag: 1",
        b"no colon",
        b": no name",
        b" folded before the first",
        b"\x00\x01\x02: \x03",
        b"Nats-Sequence: 999999",
        b"Nats-Sequence: 18446744073709551615",
        b"Nats-Sequence: none\r\nnats-sequence: 7",
        b"Nats-Last-Sequence: 18446744073709551615",
        b"Nats-Last-Sequence: 0",
        b"Nats-Subject: tide.ch.kept.other\r\nNats-Stream: other",
        b"Nats-Time-Stamp: 1970-01-01T00:00:00Z",
        b"Nats-Num-Pending: 1000000",
    ];
    let whole: [&[u8]; 7] = [
        b"NATS/1.0 204 EOB\r\n\r\n",
        b"NATS/1.0 404 Message Not Found\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 none\r\n\r\n",
        b"NATS/2.0\r\n\r\n",
        b"oops\r\n\r\n",
        b"NATS/1.0\r\nTide-Tag-a: 1",
    ];
    lines.into_iter().map(block).chain(whole.into_iter().map(<[u8]>::to_vec)).collect()
}

/// One such message would otherwise cut every gateway from the broker, each time the channel is read.
async fn a_message_with_any_headers_reaches_its_channel_live_in_history_and_on_recovery(fanout: &str) {
    let stack = kept_by(fanout, 1).await;
    let mut publisher = Publisher::connect(&stack).await;
    let blocks = odd_blocks();
    for (index, block) in blocks.iter().enumerate() {
        let what = String::from_utf8_lossy(block).into_owned();
        let (channel, subject) = (format!("kept:{index}"), format!("tide.ch.kept.{index}"));
        let (client, mut events) = connect(&stack, 0, "42").await;
        let start = fresh(&client, &channel).await;
        publisher.publish(&subject, block, "0").await;
        for n in 1..4 {
            publisher.publish(&subject, b"NATS/1.0\r\n\r\n", &n.to_string()).await;
        }
        let mut offset = start.offset;
        for n in 0..4 {
            let (data, at) = next(&mut events).await;
            assert_eq!(data, n.to_string(), "{what}");
            assert!(at > offset && at < 1000, "offset {at} behind {offset}: {what}");
            offset = at;
        }
        let ask = HistoryRequest { channel: channel.clone(), limit: 10, ..HistoryRequest::default() };
        let page = history(&client, ask).await.unwrap();
        let offsets: Vec<_> = page.publications.iter().map(|publication| publication.offset).collect();
        assert!(offsets.len() == 4 && offsets.is_sorted() && offsets[3] == offset, "{offsets:?}: {what}");
        let (again, _events) = connect(&stack, 0, "43").await;
        let back = resume(&again, &channel, start.offset, &start.epoch).await;
        assert!(back.recovered && texts(&back) == ["0", "1", "2", "3"], "{back:?}: {what}");
    }
    assert!(!stack.log().contains("disconnected from NATS"), "the gateway kept its connection");
    nothing_panicked(&stack);
}

/// Gateways with `fanout = "wildcard"` receive every subject of a namespace.
#[tokio::test]
async fn a_subject_that_is_no_channel_is_left_out_and_the_others_go_on() {
    let stack = kept_by("wildcard", 1).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    fresh(&client, "kept:a").await;
    let mut publisher = Publisher::connect(&stack).await;
    for token in [b"a\xc2\xa0b".as_slice(), b"\xe3\x80\x80", b"\xe9", b"caf\xc3\xa9", b"=", b"=zz", b"%41"] {
        let subject = [b"tide.ch.kept.".as_slice(), token].concat();
        for head in [&b"PUB "[..], b"HPUB "] {
            let rest: &[u8] =
                if head == b"PUB " { b" 1\r\n1\r\n" } else { b" 12 13\r\nNATS/1.0\r\n\r\n1\r\n" };
            publisher.write(&[head, &subject, rest].concat()).await;
        }
        publisher.stored().await;
        publisher.publish("tide.ch.kept.a", b"NATS/1.0\r\n\r\n", "2").await;
        assert_eq!(next(&mut events).await.0, "2", "{}", String::from_utf8_lossy(token));
    }
    assert!(!stack.log().contains("disconnected from NATS"), "the gateway kept its connection");
    nothing_panicked(&stack);
}

in_both_fanouts!(a_message_with_any_headers_reaches_its_channel_live_in_history_and_on_recovery);
