//! The broker's time of day, by which it carries schedules out.

use std::{fmt::Display, time::SystemTime};

use serde::Deserialize;

use super::{Broker, Refusal};

/// The part of the broker's answer about a stream or a consumer that is read here.
#[derive(Deserialize)]
struct Info {
    ts: String,
}

impl Broker {
    /// Asks the broker for the time of day. It is in the answer to every question about a stream or a consumer: `question` is
    /// one of them that this user may ask, such as `STREAM.INFO.TIDE_PARK`.
    pub async fn time(&self, question: &str) -> Result<SystemTime, Refusal> {
        let away = |error: &dyn Display| Refusal::Unavailable(error.to_string());
        let asked = self.jetstream.request(question.to_owned(), &serde_json::json!({})).await;
        let info: Info = asked.map_err(|error| away(&error))?;
        humantime::parse_rfc3339(&info.ts).map_err(|error| away(&error))
    }
}
