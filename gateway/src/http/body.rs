//! Reads a request's body: bounded in bytes, alone and together with all others, and in time;
//! refused before it is sent when its length says that it is too long.

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Duration, timeout};

use crate::outbox::total::Counted;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is longer than the limit.
    TooLong,
    /// It breaks off, or its chunks are malformed.
    Broken,
    /// It did not come in time.
    Late,
    /// Too much waits for all clients together.
    Busy,
}

/// Reads a body of at most `limit` bytes within `patience`. `held` counts its bytes meanwhile.
pub(super) async fn read(
    body: Body,
    limit: usize,
    patience: Duration,
    held: Counted,
) -> Result<Bytes, Unread> {
    if usize::try_from(body.size_hint().lower()).map_or(true, |least| least > limit) {
        return Err(Unread::TooLong);
    }
    timeout(patience, collect(body, limit, held)).await.unwrap_or(Err(Unread::Late))
}

async fn collect(body: Body, limit: usize, mut held: Counted) -> Result<Bytes, Unread> {
    let (mut parts, mut whole) = (body.into_data_stream(), BytesMut::new());
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| Unread::Broken)?;
        if whole.len().saturating_add(part.len()) > limit {
            return Err(Unread::TooLong);
        }
        if !held.has_share(part.len()) {
            return Err(Unread::Busy);
        }
        held += part.len();
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}
