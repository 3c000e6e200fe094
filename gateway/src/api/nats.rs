//! The server API over NATS: methods as requests on `tide.ctl.<method>`, shared among the gateways. The broker's
//! permissions decide who may call which method. A plain publish runs the method too, without a reply.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use tidegate_shared::{
    broker::Broker, lifecycle::Lifecycle, protocol::codes, sparse::Sparse, subject::Subjects, trace::Trace,
};
use tokio::sync::Semaphore;

use super::{Api, Method, Via, refusal, trace};

/// The queue group that shares the requests among the gateways.
const GROUP: &str = "gateways";
/// Requests a gateway runs at a time; further ones wait.
const SERVED: u32 = 64;

/// Starts to serve. Returns once the broker has the subscription.
pub(crate) async fn start(
    api: Arc<Api>,
    broker: Broker,
    subjects: &Subjects,
    lifecycle: &Lifecycle,
) -> anyhow::Result<()> {
    let requests = broker.client().queue_subscribe(subjects.all_controls(), GROUP.to_owned()).await?;
    broker.settled().await?;
    let serving = lifecycle.clone();
    lifecycle
        .spawn_essential("server API over NATS", async move { serve(requests, api, broker, serving).await });
    Ok(())
}

/// Ends when the gateway drains and all requests it received are answered.
async fn serve(mut requests: Subscriber, api: Arc<Api>, broker: Broker, lifecycle: Lifecycle) {
    let slots = Arc::new(Semaphore::new(SERVED as usize));
    let mut leaving = false;
    loop {
        let message = tokio::select! {
            message = requests.next() => message,
            // Other gateways get new requests from now on; those received here are still answered.
            () = lifecycle.draining(), if !leaving => {
                leaving = true;
                let _ = requests.drain().await;
                continue;
            }
        };
        let Some(message) = message else { break };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (api, broker) = (Arc::clone(&api), broker.clone());
        lifecycle.spawn(async move {
            answer(&api, &broker, message).await;
            drop(slot);
        });
    }
    // When all slots are free the last answer is published, but may not be flushed.
    let _ = slots.acquire_many(SERVED).await;
    let _ = broker.client().flush().await;
}

async fn answer(api: &Api, broker: &Broker, message: Message) {
    if message.reply.as_ref().is_some_and(|reply| !Subjects::is_inbox(reply)) {
        static NO_INBOX: Sparse = Sparse::new();
        if let Some(skipped) = NO_INBOX.due() {
            tracing::warn!(subject = %message.subject, skipped, "refused a request whose reply subject is no inbox");
        }
        return;
    }
    let answer = match Method::parse(Subjects::last_token(&message.subject)) {
        Some(method) => {
            let caller = message.headers.as_ref().and_then(Trace::read);
            trace::within(caller, api.answer(Via::Nats, method, &message.payload)).await
        }
        None => refusal(&codes::METHOD_NOT_FOUND.error()),
    };
    let limit = broker.client().server_info().max_payload;
    let answer = if answer.len() > limit {
        let why = format!("an answer of {} bytes; NATS carries {limit}: ask for less", answer.len());
        refusal(&codes::LIMIT_EXCEEDED.because(why))
    } else {
        answer
    };
    match message.reply {
        Some(inbox) => {
            if let Err(error) = broker.client().publish(inbox, answer).await {
                tracing::warn!(subject = %message.subject, %error, "an answer of the server API could not be sent");
            }
        }
        None if answer.starts_with(br#"{"error""#) => {
            static REFUSED: Sparse = Sparse::new();
            if let Some(skipped) = REFUSED.due() {
                let answer = String::from_utf8_lossy(&answer).into_owned();
                tracing::warn!(subject = %message.subject, answer, skipped, "a message to the server API was refused");
            }
        }
        None => {}
    }
}
