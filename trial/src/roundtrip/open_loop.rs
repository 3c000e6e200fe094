//! The open loop: requests are sent on schedule, whether or not earlier ones are answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::request_path::RequestPath;
use crate::stats::{Failures, Series};

/// After its last request a slice waits this long for answers: longer than any call waits.
const TAIL: Duration = Duration::from_secs(10);

/// The results of one slice.
#[derive(Debug)]
pub(super) struct SliceResult {
    pub(super) series: Series,
    pub(super) lag: Series,
    pub(super) failures: Failures,
}

/// Asks `rate` times a second for `length`, and waits for the answers.
pub(super) async fn slice(
    way: &Arc<RequestPath>,
    rate: u32,
    length: Duration,
) -> anyhow::Result<SliceResult> {
    let mut slice =
        SliceResult { series: Series::new()?, lag: Series::new()?, failures: Failures::default() };
    let interval = Duration::from_secs(1) / rate;
    let mut asked = JoinSet::new();
    let started = Instant::now();
    let mut due = started;
    let mut n = 0;
    while due < started + length {
        sleep_until(due.into()).await;
        slice.lag.record(due.elapsed())?;
        let way = Arc::clone(way);
        asked.spawn(async move {
            let sent = Instant::now();
            way.ask(n).await.map(|()| sent.elapsed())
        });
        due += interval;
        n += 1;
    }
    let collecting = async {
        while let Some(ended) = asked.join_next().await {
            match ended? {
                Ok(time) => slice.series.record(time)?,
                Err(error) => slice.failures.note(error),
            }
        }
        anyhow::Ok(())
    };
    let collected = timeout(TAIL, collecting).await;
    collected.unwrap_or(Ok(()))?;
    for _ in 0..asked.len() {
        slice.failures.note("never answered");
    }
    Ok(slice)
}
