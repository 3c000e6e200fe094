//! Who may publish to clients: into the stream of a namespace, or past the streams where the namespace has no history.

use super::store;
use crate::{
    access::{Account, Kind, Right},
    config::{Config, Namespace},
    subject::Subjects,
};

/// What a gateway publishes past the streams, in namespaces without history. The other gateways hear it in their common account.
pub(super) fn passing(config: &Config, subjects: &Subjects) -> Vec<Right> {
    let namespaces = config.all_namespaces();
    let live = namespaces.iter().filter(|namespace| !namespace.has_history());
    let mut rights: Vec<Right> = live
        .map(|namespace| {
            const WHY: &str = "publishes past the streams: a namespace without history";
            Right::new(subjects.all_live(&namespace.name), Kind::Talk, WHY)
        })
        .collect();
    if !rights.is_empty() {
        rights.push(Right::new(
            format!("_INBOX_{}.>", config.nats.service.user),
            Kind::Confirm(Account::Service),
            "confirms a service's publications in namespaces without history",
        ));
    }
    rights
}

/// The right to publish in one namespace: for its stream, or without history for the gateways themselves.
pub(super) fn publications(namespace: &Namespace, subjects: &Subjects, why: &'static str) -> Right {
    let subject = subjects.all_channels(&namespace.name).0;
    if namespace.has_history() {
        store(subject, why)
    } else {
        Right::new(subject, Kind::Tell(Account::Gateway, subjects.all_live(&namespace.name)), why)
    }
}
