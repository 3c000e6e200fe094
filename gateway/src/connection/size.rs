//! What a connection that does nothing costs: the sizes of what there is one of for each. docs/memory.md adds them up.

use super::*;
use crate::channels::feed::Feed;

/// The size of what a function returns, for types that have no name.
fn size_of_result<A, R>(_: impl Fn(A) -> R) -> usize {
    size_of::<R>()
}

/// As it is spawned: an `async fn` would have the connection twice.
#[expect(clippy::manual_async_fn, reason = "it is not the same")]
fn task(mut connection: Connection) -> impl Future<Output = ()> {
    async move { connection.run().await }
}

/// Whoever makes one of them larger finds out here, and measures what it costs.
#[test]
fn an_idle_connection_is_as_small_as_the_documentation_says() {
    let sizes = [
        ("the connection's task", size_of_result(task), 960),
        ("of it the connection", size_of::<Connection>(), 352),
        ("the outbox with its socket", size_of::<Outbox>(), 168),
        ("a channel's feed", size_of::<Feed>(), 336),
    ];
    let larger = sizes.iter().filter(|(_, size, most)| size > most);
    let larger: Vec<_> =
        larger.map(|(what, size, most)| format!("{what}: {size} bytes, not {most}")).collect();
    assert!(larger.is_empty(), "{larger:#?}");
}
