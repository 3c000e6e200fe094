//! The open loop of scenarios with few requests: they are sent on schedule, whether or not earlier ones are answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{Receiver, channel},
    task::JoinSet,
    time::timeout,
};

use crate::{
    request_path::RequestPath,
    stats::{Failures, Series},
};

/// After its last request a slice waits this long for answers: longer than any call waits.
const TAIL: Duration = Duration::from_secs(10);

/// The results of one slice.
#[derive(Debug)]
pub(crate) struct SliceResult {
    pub(crate) series: Series,
    pub(crate) lag: Series,
    pub(crate) failures: Failures,
}

/// Sends the time at each time of an even schedule. In a thread, because the runtime's timers count in milliseconds.
pub(crate) fn ticks(rate: u32, length: Duration) -> Receiver<Instant> {
    let (sender, ticks) = channel(1024);
    std::thread::spawn(move || {
        let started = Instant::now();
        let times = (0_u32..).map(|n| started + Duration::from_secs(1) * n / rate.max(1));
        for due in times.take_while(|due| *due < started + length) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.blocking_send(due).is_err() {
                return;
            }
        }
    });
    ticks
}

/// Asks `rate` times a second for `length`, and waits for the answers.
pub(crate) async fn slice(
    way: &Arc<RequestPath>,
    rate: u32,
    length: Duration,
) -> anyhow::Result<SliceResult> {
    let mut slice =
        SliceResult { series: Series::new()?, lag: Series::new()?, failures: Failures::default() };
    let (mut asked, mut n) = (JoinSet::new(), 0);
    let mut ticks = ticks(rate, length);
    while let Some(due) = ticks.recv().await {
        slice.lag.record(due.elapsed())?;
        let way = Arc::clone(way);
        asked.spawn(async move {
            // From the intended time: a late request has waited, too.
            way.ask(n).await.map(|()| due.elapsed())
        });
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
