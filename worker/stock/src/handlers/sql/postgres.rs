//! PostgreSQL for `sql`.
//!
//! Every value is sent as text and converted by the server to the type that the statement needs there, so dates, UUIDs, numbers
//! and enumerations need no conversion in the statement. Rows come back as JSON that the server made.

use std::{str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Either, Executor, PgConnection, PgPool, Row, SqlSafeStr, Statement as _, Transaction,
    TypeInfo,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, Postgres as Driver},
    query::Query,
};

use super::{
    CONNECTIONS, MOST_ROWS, Purpose, Run, Settings, Trouble, migrations, migrations::Migration, of_rows,
    statement::Statement, transaction::transactions,
};

/// How long a request waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(10);
/// Workers that start together prepare the database in turn.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('tidegate worker'))";
const INBOX: &str = "CREATE TABLE IF NOT EXISTS tide_inbox (route TEXT NOT NULL, id TEXT NOT NULL, answer BYTEA, \
                     done_at BIGINT NOT NULL, PRIMARY KEY (route, id))";
const INBOX_INDEX: &str = "CREATE INDEX IF NOT EXISTS tide_inbox_done_at ON tide_inbox (route, done_at)";

/// An open database.
#[derive(Debug)]
pub(crate) struct Postgres {
    pool: PgPool,
    pub(crate) statements: Vec<Statement>,
    texts: Vec<Arc<str>>,
}

impl Postgres {
    pub(crate) async fn open(
        url: &str,
        settings: &Settings,
        statements: Vec<Statement>,
        (migrations, purpose): (&[Migration], Purpose),
    ) -> Result<Self, (String, String)> {
        let of_url = |error: sqlx::Error| ("url".to_owned(), format!("cannot open the database: {error}"));
        let options = PgConnectOptions::from_str(url).map_err(of_url)?;
        let options = options.application_name("tidegate-worker");
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE);
        let pool = pool.connect_with(options).await.map_err(of_url)?;
        let mut transaction = pool.begin().await.map_err(of_url)?;
        let (once, needed) = (settings.once, !migrations.is_empty());
        let tables =
            [(once || needed, LOCK), (once, INBOX), (once, INBOX_INDEX), (needed, migrations::TABLE)];
        migrate(&mut transaction, &tables, migrations).await?;
        let mut texts = Vec::new();
        for (place, statement) in statements.iter().enumerate() {
            let as_rows = settings.has_rows(place, statements.len());
            let text = prepare(&mut transaction, statement, as_rows).await;
            texts.push(text.map_err(|error| (format!("statements.{place}"), error.to_string()))?);
        }
        match purpose {
            Purpose::Work => transaction.commit().await,
            Purpose::Check => transaction.rollback().await,
        }
        .map_err(of_url)?;
        Ok(Self { pool, statements, texts })
    }

    async fn begin(&self) -> sqlx::Result<Transaction<'_, Driver>> {
        self.pool.begin().await
    }
}

transactions!(Postgres, PgConnection);

/// Asks the server for the types of the parameters, and returns the statement that converts texts to them.
async fn prepare(
    connection: &mut PgConnection,
    statement: &Statement,
    as_rows: bool,
) -> sqlx::Result<Arc<str>> {
    let plain = statement.text(|place| format!("${}", place + 1));
    let prepared = connection.prepare(AssertSqlSafe(plain).into_sql_str()).await?;
    let types: Vec<String> = match prepared.parameters() {
        Some(Either::Left(types)) => types.iter().map(|kind| kind.name().to_owned()).collect(),
        _ => Vec::new(),
    };
    let text = statement.text(|place| {
        let kind = types.get(place).map_or("text", String::as_str);
        format!("(${}::text)::{kind}", place + 1)
    });
    let text = if as_rows {
        format!("WITH tide_result AS ({text}) SELECT row_to_json(tide_result)::text FROM tide_result").into()
    } else {
        text
    };
    connection.prepare(AssertSqlSafe(Arc::clone(&text)).into_sql_str()).await?;
    Ok(text)
}

fn bound<'q>(text: &Arc<str>, values: &[Value]) -> Query<'q, Driver, PgArguments> {
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(text)));
    for value in values {
        query = query.bind(match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        });
    }
    query
}

/// The JSON that the server has made of a row.
fn object(row: &PgRow) -> sqlx::Result<String> {
    row.try_get(0)
}
