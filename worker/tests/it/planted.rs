//! Planted panics.

use std::{fmt, sync::LazyLock};

use tracing::{
    Dispatch, Event, Metadata, Subscriber, field, span,
    subscriber::{DefaultGuard, NoSubscriber, set_default},
};

/// A log subscriber that panics in the task whose log message starts like this: a way to plant a panic in the middle of
/// the library's own tasks.
pub(crate) struct PanicsAt(&'static str);

impl PanicsAt {
    /// Plants the panic in all tasks of this test's thread until the guard is dropped, and in the workers that start meanwhile.
    pub(crate) fn log_message(start: &'static str) -> DefaultGuard {
        // With a single subscriber, tracing asks the thread that first meets a log line whether anybody wants it: another test's.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
        LazyLock::force(&SECOND);
        set_default(Self(start))
    }
}

impl Subscriber for PanicsAt {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("tidegate_worker")
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut |field: &field::Field, value: &dyn fmt::Debug| {
            let planted = field.name() == "message" && format!("{value:?}").starts_with(self.0);
            assert!(!planted, "planted");
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
