//! How the durations and sizes of stored messages must relate, so that no message is taken for one that is gone.

use super::{Problem, problem};
use crate::config::Config;

/// The shortest limit of a stored answer: a dead letter's error fits.
const LEAST_ANSWER: u64 = 1024;

/// Checks what the streams of requests and answers promise to each other.
pub(super) fn answers(config: &Config) -> Result<(), Problem> {
    let streams = &config.streams;
    if streams.duplicate_window < config.gateway.answer_timeout {
        return problem(
            "streams.duplicate_window",
            "must be at least gateway.answer_timeout: for so long a gateway repeats a message whose acknowledgement was lost",
        );
    }
    if streams.result_ttl < streams.duplicate_window {
        return problem(
            "streams.result_ttl",
            "must be at least streams.duplicate_window: NATS would refuse a request as a repetition although its answer has expired",
        );
    }
    if streams.answer_max_bytes < LEAST_ANSWER {
        return problem("streams.answer_max_bytes", "must be at least 1 KiB, so that an error fits");
    }
    if streams.answer_max_bytes > streams.reply_max_bytes / 2 {
        return problem(
            "streams.answer_max_bytes",
            "must be at most half of streams.reply_max_bytes: a longer answer could find no room even when the stream is nearly empty",
        );
    }
    Ok(())
}
