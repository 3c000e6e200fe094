//! `tidegate-trial generate`: a process that plays thousands of clients of one server. It reads orders from its standard input,
//! one a line, and answers each with what it has counted.
//!
//! It shares a core with the broker, so it must be cheap: one thread over epoll, messages are found by their bytes and not by
//! reading their JSON, and nothing is allocated for a delivery.

use std::{
    io::{BufRead, Write},
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
};

use anyhow::Context;
use mio::Waker;

use self::{
    clock::millis,
    engine::{Engine, WAKE},
};
pub(crate) use self::{
    clock::now,
    dialect::Dialect,
    order::{Answer, Channels, Cuts, Host, Order, Pace, Through, Verb},
    tally::Tally,
};

mod alarm;
mod clock;
mod count;
mod dialect;
mod engine;
mod frame;
mod link;
mod mark;
mod meter;
mod nats_text;
mod order;
mod orders;
mod post;
pub(crate) mod raw;
mod schedule;
mod seen;
mod socket;
mod tally;

/// How long the loop waits without an order. It answers pings meanwhile.
const NAP: u64 = millis(1000);

/// Plays clients until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    crate::process::raise_descriptors()?;
    let mut engine = Engine::new()?;
    let orders = read_orders(Arc::new(Waker::new(engine.registry(), WAKE)?));
    let mut out = std::io::stdout().lock();
    loop {
        let order = match orders.try_recv() {
            Ok(order) => order,
            Err(TryRecvError::Empty) => {
                engine.turn(now() + NAP)?;
                continue;
            }
            Err(TryRecvError::Disconnected) => return Ok(()),
        };
        let answer = match order {
            Ok(Order::End) => return Ok(()),
            Ok(order) => engine.carry_out(order),
            Err(error) => Err(error.into()),
        };
        let answer = match answer {
            Ok(tally) => Answer::Done(Box::new(tally)),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
}

/// What a client of the Centrifuge protocol writes first: the request that opens the WebSocket, and the frame that says who it is.
pub(crate) fn opening(host: &Host) -> anyhow::Result<[Vec<u8>; 2]> {
    let address = host.addresses.first().context("a host without an address")?;
    let token = engine::token(host, "opening")?;
    let mut greeting = Vec::new();
    host.dialect.frame(&host.dialect.greeting(&token, &dialect::Position::default()), &mut greeting);
    Ok([Dialect::upgrade(&address.to_string(), &host.path).into_bytes(), greeting])
}

/// Reads orders in a thread of their own, and wakes the loop for each.
fn read_orders(waker: Arc<Waker>) -> Receiver<serde_json::Result<Order>> {
    let (orders, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if orders.send(serde_json::from_str(&line)).is_err() {
                break;
            }
            let _ = waker.wake();
        }
        drop(orders);
        let _ = waker.wake();
    });
    receiver
}
