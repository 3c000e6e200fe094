//! `quakes`: stores one earthquake and publishes it.
//!
//! An earthquake is one row, however often it is reported. Only the report that stored it publishes it.

use bytes::Bytes;
use serde::Serialize;
use tidegate_worker::{Failure, Json, Publication, Publications, RequestId, ResultExt};

use self::quake::Quake;
pub(crate) use self::store::Store;

mod quake;
mod store;

/// The error code for a report that is not an earthquake.
const INVALID: u32 = 422;
/// From this magnitude on an earthquake does damage, and is also published to `quakes:alerts`.
const ALERT_MAGNITUDE: f64 = 4.5;

/// The answer to a report.
#[derive(Debug, Serialize)]
pub(crate) struct Reported {
    id: String,
    /// Whether this report stored the earthquake. `false` when an earlier one had.
    stored: bool,
    /// The channels it was published to.
    channels: Vec<String>,
}

/// Handles one report.
pub(crate) async fn report(
    store: Store,
    RequestId(request): RequestId,
    body: Bytes,
) -> Result<(Json<Reported>, Publications), Failure> {
    let quake = Quake::read(&body).or_reject(INVALID)?;
    let stored = store.store(&quake, &request).await.or_retry()?;
    let channels = if stored { channels(&quake) } else { Vec::new() };
    let publications = channels.iter().map(|channel| Publication::bytes(channel, body.clone())).collect();
    Ok((Json(Reported { id: quake.id, stored, channels }), publications))
}

fn channels(quake: &Quake) -> Vec<String> {
    let mut channels = vec![format!("quakes:{}", quake.net)];
    if quake.mag.is_some_and(|mag| mag >= ALERT_MAGNITUDE) {
        channels.push("quakes:alerts".to_owned());
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: &[u8] = br#"{"id":"us1","time_ms":1517364031800,"mag":5.3,"mag_type":"mb","place":"Indonesia","net":"us","tsunami":0,"sig":436,"lon":118.7,"lat":-7.8,"depth_km":15.18}"#;

    async fn reported(store: &Store, key: &str, body: &'static [u8]) -> Result<(bool, Vec<String>), Failure> {
        let request = RequestId(format!("k.{key}"));
        let (Json(reported), Publications(publications)) =
            report(store.clone(), request, Bytes::from_static(body)).await?;
        assert_eq!(publications.len(), reported.channels.len());
        Ok((reported.stored, reported.channels))
    }

    #[tokio::test]
    async fn an_earthquake_is_one_row_and_is_published_by_the_report_that_stored_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("new/quakes.db")).await.unwrap();
        let both = vec!["quakes:us".to_owned(), "quakes:alerts".to_owned()];
        assert_eq!(reported(&store, "1", STRONG).await.unwrap(), (true, both.clone()));
        // The same request after a crash before its answer was stored: it gets the same answer.
        assert_eq!(reported(&store, "1", STRONG).await.unwrap(), (true, both));
        assert_eq!(reported(&store, "2", STRONG).await.unwrap(), (false, Vec::new()));
        assert_eq!(store.count().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_malformed_report_is_rejected_and_its_bad_field_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("quakes.db")).await.unwrap();
        let failure = reported(&store, "1", br#"{"id":"us1"}"#).await.unwrap_err();
        assert!(
            matches!(failure, Failure::Reject { code: 422, message, .. } if message == "time_ms: missing")
        );
        assert_eq!(store.count().await.unwrap(), 0);
    }
}
