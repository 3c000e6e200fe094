//! Connection storms: handshakes wait until the gateway comes to them.

use futures_util::future::try_join_all;
use tokio::{net::TcpStream, time::timeout};

use crate::support::{PATIENCE, connect, quick, start};

/// More than the 128 that wait by default.
const STORM: usize = 1000;

#[tokio::test]
async fn a_thousand_sockets_connect_while_the_gateway_does_nothing() {
    let stack = start(quick("").gateways(1)).await;
    let address = stack.gateways()[0].public;
    stack.pause("gateway-1").unwrap();
    // A handshake that finds no room is sent again after 1 s, 2 s, 4 s ..., and finds none as long as the gateway stands.
    let storm = try_join_all((0..STORM).map(|_| TcpStream::connect(address)));
    let sockets = timeout(PATIENCE, storm).await;
    stack.resume("gateway-1").unwrap();
    assert_eq!(sockets.expect("all connect in time").unwrap().len(), STORM);
    connect(&stack, 0, "42").await;
}
