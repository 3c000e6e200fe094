//! The rows that the workers stored, read from the database file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

use super::verdict::RowCounts;

/// Reads the ids of all rows.
pub(super) async fn ids(database: &Path) -> anyhow::Result<Vec<String>> {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let mut connection =
        options.connect().await.with_context(|| format!("opening {}", database.display()))?;
    let ids = sqlx::query_scalar("SELECT id FROM quakes").fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(ids)
}

/// Compares the rows with the events sent and with the events that must have a row.
pub(super) fn count(ids: &[String], sent: &BTreeSet<String>, expected: &BTreeSet<String>) -> RowCounts {
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for id in ids {
        *rows.entry(id).or_default() += 1;
    }
    RowCounts {
        stored: ids.len(),
        twice: ids.len() - rows.len(),
        missing: expected.iter().filter(|id| !rows.contains_key(id.as_str())).cloned().collect(),
        unknown: rows.keys().filter(|id| !sent.contains(**id)).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_one_by_one() {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let ids = ["a", "a", "b", "x"].map(str::to_owned);
        let rows = count(&ids, &set(&["a", "b", "c"]), &set(&["a", "c"]));
        assert_eq!((rows.stored, rows.twice, rows.unknown), (4, 1, 1));
        assert_eq!(rows.missing, set(&["c"]));
    }
}
