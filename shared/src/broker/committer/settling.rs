//! Messages that were sent alone, until the broker has said what became of them.

use std::pin::pin;

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use crate::broker::Refusal;

/// Waits for something. Those that were sent alone are told meanwhile what the broker said.
pub(super) async fn meanwhile<T>(
    settling: &mut FuturesUnordered<BoxFuture<'static, ()>>,
    something: impl Future<Output = T>,
) -> T {
    let mut something = pin!(something);
    loop {
        tokio::select! {
            biased;
            done = &mut something => return done,
            Some(()) = settling.next(), if !settling.is_empty() => {}
        }
    }
}

/// What a refusal says about a message that an earlier try may have stored.
pub(super) fn certain(refusal: Refusal, maybe_stored: bool) -> Refusal {
    match refusal {
        Refusal::Taken => Refusal::Taken,
        _ if maybe_stored => Refusal::Unknown,
        refusal => refusal,
    }
}
