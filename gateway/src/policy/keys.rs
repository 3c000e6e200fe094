//! Fetches the keys of issuers that publish them, in the background, one fetch at a time per issuer.
//!
//! Addresses come from the configuration, never from a token. Never checks a token: `tokens` does, with the keys
//! fetched so far.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::{FutureExt, future::join_all};
use tidegate_shared::lifecycle::Lifecycle;
use tokio::{sync::Notify, time::Instant};

use crate::{
    metrics::Metrics,
    policy::tokens::{FetchedKeys, Verifier},
};

/// The longest key set in bytes.
const MAX_BODY: usize = 256 * 1024;
/// The wait after the first failed fetch. Each further failure doubles it, up to the cool-down.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How often keys are fetched, and how long they may be used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchPace {
    /// Time between scheduled fetches.
    pub(crate) refresh: Duration,
    /// The shortest time between two fetches, however many unknown keys tokens name.
    pub(crate) cool_down: Duration,
    /// How long keys are used while fetching fails.
    pub(crate) max_stale: Duration,
    /// How long one fetch may take.
    pub(crate) timeout: Duration,
}

/// Reports missing keys to the fetching tasks.
#[derive(Default)]
pub(crate) struct Keys {
    wanted: HashMap<usize, Arc<Notify>>,
}

/// The task of one issuer.
struct Fetcher {
    http: reqwest::Client,
    keys: Arc<FetchedKeys>,
    wanted: Arc<Notify>,
    pace: FetchPace,
    metrics: Metrics,
    fetched: Option<Instant>,
    failures: u32,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("more than {MAX_BODY} bytes")]
    TooLong,
    #[error("{0}")]
    NotAKeySet(#[from] crate::policy::tokens::NotAKeySet),
}

impl FetchPace {
    /// The limits that are not configurable, around `refresh`.
    pub(crate) fn every(refresh: Duration) -> Self {
        Self {
            refresh,
            cool_down: Duration::from_secs(30),
            max_stale: Duration::from_hours(1),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Keys {
    /// Fetches every key set once, and starts the tasks that refresh them. A failed first fetch is retried later.
    pub(crate) async fn start(
        verifier: &Verifier,
        pace: FetchPace,
        metrics: &Metrics,
        lifecycle: &Lifecycle,
    ) -> anyhow::Result<Self> {
        let mut wanted = HashMap::new();
        let mut fetchers = Vec::new();
        for (issuer, keys) in verifier.fetched_keys() {
            let fetcher = Fetcher::new(Arc::clone(keys), pace, metrics.clone())?;
            wanted.insert(issuer, Arc::clone(&fetcher.wanted));
            fetchers.push(fetcher);
        }
        join_all(fetchers.iter_mut().map(Fetcher::fetch)).await;
        for fetcher in fetchers {
            let draining = lifecycle.clone();
            lifecycle.spawn_essential("fetching keys of an issuer", async move {
                tokio::select! {
                    () = fetcher.run() => {}
                    () = draining.draining() => {}
                }
            });
        }
        Ok(Self { wanted })
    }

    /// Requests a fetch, because a token names a missing key of this issuer. Many requests cause one fetch.
    pub(crate) fn want(&self, issuer: usize) {
        if let Some(wanted) = self.wanted.get(&issuer) {
            wanted.notify_one();
        }
    }
}

impl Fetcher {
    fn new(keys: Arc<FetchedKeys>, pace: FetchPace, metrics: Metrics) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(pace.timeout)
            .build()
            .context("cannot prepare fetching the keys of issuers")?;
        Ok(Self { http, keys, wanted: Arc::default(), pace, metrics, fetched: None, failures: 0 })
    }

    async fn run(mut self) {
        loop {
            self.pause().await;
            self.fetch().await;
        }
    }

    /// Waits until the next fetch is due.
    async fn pause(&self) {
        if self.failures > 0 {
            let wait = FIRST_RETRY.saturating_mul(1 << (self.failures - 1).min(16));
            return tokio::time::sleep(wait.min(self.pace.cool_down)).await;
        }
        let asked = async {
            tokio::time::sleep(self.pace.cool_down).await;
            self.wanted.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(self.pace.refresh) => {}
            () = asked => {}
        }
    }

    async fn fetch(&mut self) {
        self.keys.fetching();
        let result = self.download().await.and_then(|document| Ok(self.keys.replace(&document)?));
        // Requests made during the fetch share its result.
        let _ = self.wanted.notified().now_or_never();
        match result {
            Ok(keys) => {
                self.fetched = Some(Instant::now());
                self.failures = 0;
                self.metrics.keys_fetched(&self.keys.name, "ok");
                tracing::info!(issuer = self.keys.name, keys, "keys fetched");
            }
            Err(failure) => self.failed(&failure),
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.failures = self.failures.saturating_add(1);
        self.metrics.keys_fetched(&self.keys.name, failure.outcome());
        tracing::warn!(issuer = self.keys.name, url = self.keys.url, error = %failure, "cannot fetch keys");
        if self.fetched.take_if(|fetched| fetched.elapsed() >= self.pace.max_stale).is_some() {
            self.keys.forget();
            tracing::error!(
                issuer = self.keys.name,
                "the issuer's keys are too old: its tokens are refused until keys are fetched"
            );
        }
    }

    async fn download(&self) -> Result<Vec<u8>, Failure> {
        let mut response = self.http.get(&self.keys.url).send().await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(Failure::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Failure::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

impl Failure {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "status",
            Self::TooLong | Self::NotAKeySet(_) => "malformed",
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Unreachable(error.without_url().into())
    }
}

#[cfg(test)]
mod tests;
