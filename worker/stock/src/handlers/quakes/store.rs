//! The table of earthquakes: one SQLite file that several worker processes share.

use std::path::Path;

use anyhow::Context as _;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};

use super::quake::Quake;
use crate::handlers::sql::sqlite;

/// Connections per worker. More would only wait for each other.
const CONNECTIONS: u32 = 4;
/// The table of earthquakes.
#[derive(Debug, Clone)]
pub(crate) struct Store(SqlitePool);

impl Store {
    /// Opens the file, and creates it if it does not exist.
    pub(crate) async fn open(path: &Path) -> anyhow::Result<Self> {
        let unusable = || {
            format!(
                "cannot use quakes.database = {} (name a file that this worker may write)",
                path.display()
            )
        };
        if let Some(directory) = path.parent() {
            tokio::fs::create_dir_all(directory).await.with_context(unusable)?;
        }
        Self::try_open(path).await.with_context(unusable)
    }

    async fn try_open(path: &Path) -> sqlx::Result<Self> {
        let pool = sqlite::open(SqliteConnectOptions::new().filename(path), CONNECTIONS).await?;
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS quakes (
                id TEXT PRIMARY KEY, time_ms INTEGER NOT NULL, mag REAL, place TEXT, net TEXT NOT NULL,
                lon REAL NOT NULL, lat REAL NOT NULL, depth_km REAL, request_id TEXT NOT NULL
            ) STRICT",
        )
        .execute(&pool)
        .await?;
        Ok(Self(pool))
    }

    /// Stores an earthquake unless it is stored already. Returns whether this request stored it, now or in an earlier attempt.
    pub(crate) async fn store(&self, quake: &Quake, request_id: &str) -> sqlx::Result<bool> {
        let inserted = sqlx::query(
            "INSERT INTO quakes (id, time_ms, mag, place, net, lon, lat, depth_km, request_id)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&quake.id)
        .bind(quake.time_ms)
        .bind(quake.mag)
        .bind(&quake.place)
        .bind(&quake.net)
        .bind(quake.lon)
        .bind(quake.lat)
        .bind(quake.depth_km)
        .bind(request_id)
        .execute(&self.0)
        .await?;
        if inserted.rows_affected() > 0 {
            return Ok(true);
        }
        let by: String = sqlx::query_scalar("SELECT request_id FROM quakes WHERE id = ?")
            .bind(&quake.id)
            .fetch_one(&self.0)
            .await?;
        Ok(by == request_id)
    }

    #[cfg(test)]
    pub(crate) async fn count(&self) -> sqlx::Result<i64> {
        sqlx::query_scalar("SELECT count(*) FROM quakes").fetch_one(&self.0).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn workers_that_start_together_all_open_a_new_file() {
        for _ in 0..20 {
            let dir =
                std::env::temp_dir().join(format!("quakes-{}", tidegate_shared::id::random_token::<8>()));
            let path = dir.join("quakes.db");
            let mut opening = tokio::task::JoinSet::new();
            for _ in 0..16 {
                let path = path.clone();
                opening.spawn(async move { Store::open(&path).await.map(drop) });
            }
            while let Some(opened) = opening.join_next().await {
                opened.unwrap().unwrap();
            }
            tokio::fs::remove_dir_all(dir).await.unwrap();
        }
    }
}
