//! How the durations and sizes of stored messages must relate, so that no message is taken for one that is gone.

use super::{Problem, problem};
use crate::config::Config;

/// Checks what the streams of requests and answers promise to each other.
pub(super) fn answers(config: &Config) -> Result<(), Problem> {
    let (streams, text, size) = (&config.streams, humantime::format_duration, bytesize::ByteSize);
    if streams.duplicate_window < config.gateway.answer_timeout {
        return problem(
            "streams.duplicate_window",
            format!(
                "is {}, and has to be at least gateway.answer_timeout, which is {}: for so long a gateway repeats a message \
                 whose acknowledgement was lost",
                text(streams.duplicate_window),
                text(config.gateway.answer_timeout)
            ),
        );
    }
    if streams.result_ttl < streams.duplicate_window {
        return problem(
            "streams.result_ttl",
            format!(
                "is {}, and has to be at least streams.duplicate_window, which is {}: NATS would take a request for a \
                 repetition although its answer has expired",
                text(streams.result_ttl),
                text(streams.duplicate_window)
            ),
        );
    }
    if streams.reply_max_bytes / 2 < streams.answer_max_bytes {
        return problem(
            "streams.reply_max_bytes",
            format!(
                "is {}, and has to be at least twice streams.answer_max_bytes, which is {}: the longest answer has to find \
                 room",
                size(streams.reply_max_bytes),
                size(streams.answer_max_bytes)
            ),
        );
    }
    Ok(())
}
