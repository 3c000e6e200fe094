//! Tests of the gateway from outside, with a real broker, real processes and real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod answers;
mod api;
mod audiences;
mod backlog;
mod bad_input;
mod brief;
mod broker_down;
mod burst;
mod cache;
mod channels;
mod connect;
mod copies;
mod decided;
mod door;
mod drain;
mod event_source;
mod fanout;
mod faults;
mod flood;
mod forged;
mod forged_tokens;
mod frame_corpus;
mod headers;
mod hooks;
mod isolation;
mod keys;
mod large;
mod limits;
mod long_history;
mod lost;
mod native_pings;
mod one_way;
mod parts;
mod presence;
mod proxies;
mod quiet;
mod quota;
mod recovery;
mod requests;
mod server_side;
mod signer;
mod socket;
mod start;
mod stream_client;
mod strict;
mod support;
mod tls;
mod together;
mod tokens;
mod trace;
mod transports;
mod wishes;
