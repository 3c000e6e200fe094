//! The trace of a call of the server API: its caller's, or a new one. Methods that store requests ask for it.

use tidegate_shared::trace::Trace;
use tokio::task_local;

task_local! {
    static TRACE: Trace;
}

/// Runs a call whose caller sent this trace, if it did.
pub(crate) async fn within<T>(trace: Option<Trace>, call: impl Future<Output = T>) -> T {
    match trace {
        Some(trace) => TRACE.scope(trace, call).await,
        None => call.await,
    }
}

/// The trace of the call that runs now.
pub(super) fn current() -> Trace {
    TRACE.try_with(Trace::clone).unwrap_or_else(|_| Trace::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_has_its_callers_trace_or_one_of_its_own() {
        let trace = Trace::random();
        assert_eq!(within(Some(trace.clone()), async { current() }).await, trace);
        assert_ne!(within(None, async { current() }).await, trace);
    }
}
