//! Authenticated connections whose first channels are still being prepared. An order for a user is for them too.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use tidegate_shared::id::ClientId;

use crate::outbox::Outbox;

/// The arriving connections, by user.
#[derive(Default)]
pub(crate) struct Arriving(Mutex<HashMap<String, HashMap<ClientId, Arc<Outbox>>>>);

/// An arriving connection. Dropped when it has joined its channels, or has ended.
pub(crate) struct ArrivingGuard {
    all: Arc<Arriving>,
    user: String,
    client: ClientId,
}

impl Arriving {
    /// Adds an arriving connection of this user.
    pub(crate) fn begin(
        self: &Arc<Self>,
        user: &str,
        client: ClientId,
        outbox: Arc<Outbox>,
    ) -> ArrivingGuard {
        self.0.lock().entry(user.to_owned()).or_default().insert(client.clone(), outbox);
        ArrivingGuard { all: Arc::clone(self), user: user.to_owned(), client }
    }

    /// The arriving connections of one user.
    pub(crate) fn of(&self, user: &str) -> Vec<(ClientId, Arc<Outbox>)> {
        let all = self.0.lock();
        let some = all.get(user).into_iter().flatten();
        some.map(|(client, outbox)| (client.clone(), Arc::clone(outbox))).collect()
    }
}

impl Drop for ArrivingGuard {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Entry::Occupied(mut some) = all.entry(std::mem::take(&mut self.user)) {
            some.get_mut().remove(&self.client);
            if some.get().is_empty() {
                some.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::{id::GatewayId, protocol::Encoding};

    use super::*;

    #[test]
    fn a_dropped_guard_removes_its_arriving_connection() {
        let (arriving, gateway) = (Arc::<Arriving>::default(), GatewayId::random());
        let begin = |user: &str| {
            let outbox = Arc::new(Outbox::new(Encoding::Json, 100));
            arriving.begin(user, ClientId::random(&gateway), outbox)
        };
        let (first, second, _other) = (begin("42"), begin("42"), begin("43"));
        assert_eq!(arriving.of("42").len(), 2);
        drop(first);
        assert_eq!(arriving.of("42").len(), 1);
        drop(second);
        assert!(arriving.of("42").is_empty());
        assert_eq!(arriving.0.lock().len(), 1);
    }
}
