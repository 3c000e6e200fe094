//! All routes on one screen. Two listeners: the public one has client transports only, the internal one health and metrics.

use std::sync::Arc;

use axum::{Router, routing::get};

pub(crate) use self::health::Vitals;
use crate::{connection::Shared, origin::Origins};

pub(crate) mod accept;
mod health;
mod upgrade;

/// What the public listener serves.
pub(crate) fn public(connections: Arc<Shared>, origins: Origins) -> Router {
    let state = upgrade::Door { connections, origins };
    Router::new().route("/connection/websocket", get(upgrade::websocket)).with_state(state)
}

/// What the internal listener serves.
pub(crate) fn internal(vitals: Vitals) -> Router {
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .with_state(vitals)
}
