//! SQLite for `sql`.

use std::{str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::TryStreamExt;
use serde_json::{Map, Value};
use sqlx::{
    AssertSqlSafe, Column, Executor, Row, SqlSafeStr, SqliteConnection, SqlitePool, Transaction, TypeInfo,
    ValueRef,
    query::Query,
    sqlite::{
        Sqlite as Driver, SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
        SqliteRow,
    },
};
use tokio::time::{Instant, sleep};

use super::{
    CONNECTIONS, MOST_ROWS, Purpose, Run, Settings, Trouble, migrations, migrations::Migration, of_rows,
    statement::Statement, transaction::transactions,
};

/// How long a write waits for writes of other workers: SQLite has one writer at a time.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to open a file that other workers are opening.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const BEGIN: &str = "BEGIN IMMEDIATE";
const INBOX: &str = "CREATE TABLE IF NOT EXISTS tide_inbox (route TEXT NOT NULL, id TEXT NOT NULL, answer BLOB, \
                     done_at INTEGER NOT NULL, PRIMARY KEY (route, id)) STRICT, WITHOUT ROWID";
const INBOX_INDEX: &str = "CREATE INDEX IF NOT EXISTS tide_inbox_done_at ON tide_inbox (route, done_at)";

/// An open database.
#[derive(Debug)]
pub(crate) struct Sqlite {
    pool: SqlitePool,
    pub(crate) statements: Vec<Statement>,
    texts: Vec<Arc<str>>,
}

impl Sqlite {
    pub(crate) async fn open(
        url: &str,
        settings: &Settings,
        statements: Vec<Statement>,
        (migrations, purpose): (&[Migration], Purpose),
    ) -> Result<Self, (String, String)> {
        let of_url = |error: sqlx::Error| ("url".to_owned(), format!("cannot open the database: {error}"));
        let options = SqliteConnectOptions::from_str(url).map_err(of_url)?;
        // A check creates no file.
        let missing = purpose == Purpose::Check && !options.get_filename().exists();
        let options = if missing {
            SqliteConnectOptions::from_str("sqlite::memory:").map_err(of_url)?
        } else {
            options
        };
        let in_memory = missing || url.contains(":memory:");
        let pool = open(options, if in_memory { 1 } else { CONNECTIONS }).await.map_err(of_url)?;
        let mut transaction = pool.begin_with(BEGIN).await.map_err(of_url)?;
        let once = settings.once;
        let tables = [(once, INBOX), (once, INBOX_INDEX), (!migrations.is_empty(), migrations::TABLE)];
        migrate(&mut transaction, &tables, migrations).await?;
        let mut texts = Vec::new();
        for (place, statement) in statements.iter().enumerate() {
            let text = statement.text(|place| format!("?{}", place + 1));
            let prepared = transaction.prepare(AssertSqlSafe(Arc::clone(&text)).into_sql_str()).await;
            prepared.map_err(|error| (format!("statements.{place}"), error.to_string()))?;
            texts.push(text);
        }
        match purpose {
            Purpose::Work => transaction.commit().await,
            Purpose::Check => transaction.rollback().await,
        }
        .map_err(of_url)?;
        Ok(Self { pool, statements, texts })
    }

    /// Takes the lock for writing at once: a transaction that reads first could not get it later.
    async fn begin(&self) -> sqlx::Result<Transaction<'_, Driver>> {
        self.pool.begin_with(BEGIN).await
    }
}

transactions!(Sqlite, SqliteConnection);

/// The database of a test, beside the handler's own connections.
#[derive(Debug)]
pub(crate) struct Database(SqlitePool);

impl Database {
    pub(crate) async fn open(url: &str) -> sqlx::Result<Self> {
        open(SqliteConnectOptions::from_str(url)?, 1).await.map(Self)
    }

    /// Runs statements without parameters.
    pub(crate) async fn run(&self, statements: &str) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.0).await.map(drop)
    }

    /// The rows that a query finds, as a list of JSON objects.
    pub(crate) async fn rows(&self, query: &str) -> sqlx::Result<String> {
        let rows = sqlx::query(AssertSqlSafe(query.to_owned())).fetch_all(&self.0).await?;
        let objects: Vec<String> = rows.iter().map(object).collect::<Result<_, _>>()?;
        Ok(format!("[{}]", objects.join(",")))
    }
}

/// Opens a file for several processes.
pub(crate) async fn open(options: SqliteConnectOptions, connections: u32) -> sqlx::Result<SqlitePool> {
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    // A database in memory lives as long as its only connection.
    let pool = SqlitePoolOptions::new().max_connections(connections).idle_timeout(None).max_lifetime(None);
    let started = Instant::now();
    loop {
        match pool.clone().connect_with(options.clone()).await {
            // The switch to WAL does not honour the busy timeout: workers that start together have to try in turn.
            Err(error) if is_busy(&error) && started.elapsed() < BUSY_TIMEOUT => sleep(BUSY_PAUSE).await,
            opened => return opened,
        }
    }
}

/// Whether another process has locked the file: `SQLITE_BUSY`, or one of its extended codes.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}

fn bound<'q>(text: &Arc<str>, values: &'q [Value]) -> Query<'q, Driver, SqliteArguments> {
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(text)));
    for value in values {
        query = match value {
            Value::Null => query.bind(None::<String>),
            Value::Bool(value) => query.bind(*value),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => query.bind(whole),
                None => query.bind(number.as_f64()),
            },
            Value::String(text) => query.bind(text),
            Value::Array(_) | Value::Object(_) => query.bind(value.to_string()),
        };
    }
    query
}

/// A row as a JSON object. Bytes become base64.
fn object(row: &SqliteRow) -> sqlx::Result<String> {
    let mut object = Map::new();
    for (place, column) in row.columns().iter().enumerate() {
        let raw = row.try_get_raw(place)?;
        let kind = if raw.is_null() { "NULL".to_owned() } else { raw.type_info().name().to_owned() };
        let value = match kind.as_str() {
            "NULL" => Value::Null,
            "INTEGER" => row.try_get_unchecked::<i64, _>(place)?.into(),
            "REAL" => row.try_get_unchecked::<f64, _>(place)?.into(),
            "BLOB" => BASE64.encode(&row.try_get_unchecked::<Vec<u8>, _>(place)?).into(),
            _ => row.try_get_unchecked::<String, _>(place)?.into(),
        };
        object.insert(column.name().to_owned(), value);
    }
    Ok(Value::Object(object).to_string())
}
