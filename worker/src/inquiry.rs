//! What gateways ask a worker about the requests that it runs, their orders to cancel one, and their word that a client is gone.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_nats::Message;
use tidegate_shared::{
    broker::Refusal,
    id::{ClientId, RequestId},
    lifecycle::Lifecycle,
    listener::listen,
    subject::Subjects,
};

use crate::engine::Engine;

/// Answers the questions of gateways, and takes their orders, until the worker has finished.
pub(crate) async fn serve(engine: &Arc<Engine>, lifecycle: &Lifecycle) -> Result<(), Refusal> {
    let away = |error: async_nats::SubscribeError| Refusal::Unavailable(error.to_string());
    let (client, subjects) = (engine.broker.client(), &engine.subjects);
    let questions = client.subscribe(subjects.all_running()).await.map_err(away)?;
    let orders = client.subscribe(subjects.all_cancels()).await.map_err(away)?;
    let ends = client.subscribe(subjects.all_gone()).await.map_err(away)?;
    tokio::join!(
        listen(questions, lifecycle, |question| tell(engine, question)),
        listen(orders, lifecycle, |order| {
            if let Some(id) = Subjects::id_in(&order.subject).and_then(RequestId::parse) {
                engine.running.cancel(&id);
            }
        }),
        listen(ends, lifecycle, |end| {
            if let Some(client) = Subjects::id_in(&end.subject).and_then(ClientId::parse) {
                engine.running.gone(&client);
            }
        }),
    );
    Ok(())
}

/// Answers only if this worker runs the request.
fn tell(engine: &Arc<Engine>, question: Message) {
    let id = Subjects::id_in(&question.subject).and_then(RequestId::parse);
    let found = id.and_then(|id| engine.running.find(&id, &engine.name, now(engine)));
    let (Some(found), Some(reply)) = (found, question.reply.filter(|reply| Subjects::is_inbox(reply))) else {
        return;
    };
    let Ok(told) = serde_json::to_vec(&found) else { return };
    let client = engine.broker.client().clone();
    engine.deliveries.spawn(async move {
        if let Err(error) = client.publish(reply, told.into()).await {
            tracing::debug!(%error, "an answer about a running request was not sent");
        }
    });
}

/// The time now by the engine's clock, since 1970.
pub(crate) fn now(engine: &Engine) -> Duration {
    engine.clock.about_now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
