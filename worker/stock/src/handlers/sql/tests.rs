//! The handler `sql` with SQLite: effects and answers. PostgreSQL is in tests/it/sql.rs.

use std::collections::BTreeMap;

use tidegate_shared::config::{Config, Role};

use super::*;
use crate::input::tests::input;

const CREATE: &str =
    "CREATE TABLE notes (id TEXT PRIMARY KEY, author TEXT, text TEXT NOT NULL, n INTEGER CHECK (n < 10))";
const INSERT: &str = "INSERT INTO notes (id, author, text, n) VALUES (:id, :user, :body.text, :body.n)";

async fn open(directory: &std::path::Path, keys: &str, purpose: Purpose) -> Result<Sql, (String, String)> {
    let migrations = directory.join("migrations");
    tokio::fs::create_dir_all(&migrations).await.unwrap();
    tokio::fs::write(migrations.join("1.sql"), CREATE).await.unwrap();
    let (file, migrations) = (directory.join("notes.db"), migrations.display().to_string());
    let toml = format!(
        "[[route]]\nname = 'notes'\nmatch = 'rpc.notes.add'\nhandler = 'sql'\n[route.sql]\nurl = 'sqlite:{}'\nmigrations = '{migrations}'\n{keys}\n",
        file.display()
    );
    let path = directory.join("tidegate.toml");
    tokio::fs::write(&path, toml).await.unwrap();
    let config = Config::from_sources_as(Role::Worker, Some(&path), BTreeMap::new(), &[]).unwrap();
    let route = &config.routes[0];
    Sql::open(route, route.sql.as_ref().unwrap(), 1000, purpose).await
}

async fn call(sql: &Sql, id: &str, body: &str) -> Result<String, Failure> {
    let answer = sql.call(Input { id: id.to_owned(), ..input(body) }).await?;
    Ok(String::from_utf8(answer.body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_request_takes_effect_once_and_gets_the_same_answer_again() {
    let directory = tempfile::tempdir().unwrap();
    let keys = format!("answer = 'row'\nstatements = [\"{INSERT} RETURNING id, n, author, rowid\"]");
    let sql = open(directory.path(), &keys, Purpose::Work).await.unwrap();
    let first = call(&sql, "a", r#"{"text": "x", "n": 5}"#).await.unwrap();
    assert_eq!(first, r#"{"author":"42","id":"a","n":5,"rowid":1}"#);
    assert_eq!(call(&sql, "a", r#"{"text": "x", "n": 5}"#).await.unwrap(), first);
    // Another worker, after a restart: migrations are run once.
    drop(sql);
    let sql =
        open(directory.path(), "answer = 'rows'\nstatements = ['SELECT id, n FROM notes']", Purpose::Work)
            .await
            .unwrap();
    assert_eq!(call(&sql, "b", "").await.unwrap(), r#"[{"id":"a","n":5}]"#);
}

#[tokio::test]
async fn what_the_database_refuses_is_rejected_and_nothing_of_the_transaction_stays() {
    let directory = tempfile::tempdir().unwrap();
    let keys =
        format!("answer = 'count'\nstatements = [\"DELETE FROM notes WHERE id <> :id\", \"{INSERT}\"]");
    let sql = open(directory.path(), &keys, Purpose::Work).await.unwrap();
    assert_eq!(call(&sql, "a", r#"{"text": "x"}"#).await.unwrap(), "1");
    for (body, expected) in
        [(r#"{"text": null}"#, 422), (r#"{"text": "y", "n": 11}"#, 422), ("not JSON", 422)]
    {
        let failure = call(&sql, "b", body).await.unwrap_err();
        assert!(matches!(failure, Failure::Reject { code, .. } if code == expected), "{body}: {failure:?}");
    }
    drop(sql);
    let keys = format!("once = false\nviolation = 'dead'\nstatements = [\"{INSERT}\"]");
    let sql = open(directory.path(), &keys, Purpose::Work).await.unwrap();
    // The row of "a" is there: the failed transactions did not delete it.
    assert!(matches!(call(&sql, "a", r#"{"text": "x"}"#).await.unwrap_err(), Failure::Dead { .. }));
}

#[tokio::test]
async fn an_answer_that_is_too_long_leaves_no_effect() {
    let directory = tempfile::tempdir().unwrap();
    let keys = format!("answer = 'row'\nstatements = [\"{INSERT} RETURNING text\"]");
    let sql = open(directory.path(), &keys, Purpose::Work).await.unwrap();
    let long = format!(r#"{{"text": "{}"}}"#, "x".repeat(1000));
    assert!(matches!(call(&sql, "a", &long).await.unwrap_err(), Failure::Dead { .. }));
    assert_eq!(call(&sql, "a", r#"{"text": "short"}"#).await.unwrap(), r#"{"text":"short"}"#);
}

#[tokio::test]
async fn a_statement_with_a_typo_is_named_and_a_check_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    for (keys, key, says) in [
        ("statements = ['INSERT INTO nots VALUES (:id)']", "statements.0", "no such table"),
        ("statements = ['SELECT 1', 'SELECT :usr']", "statements.1", "no field"),
    ] {
        let (found, text) = open(directory.path(), keys, Purpose::Check).await.map(drop).unwrap_err();
        assert_eq!(found, key);
        assert!(text.contains(says), "{text}");
    }
    let keys = format!("statements = [\"{INSERT}\"]");
    open(directory.path(), &keys, Purpose::Check).await.unwrap();
    assert!(!directory.path().join("notes.db").exists());
}

#[tokio::test]
async fn old_requests_leave_the_inbox() {
    let directory = tempfile::tempdir().unwrap();
    let sql = open(directory.path(), "statements = ['SELECT 1']", Purpose::Work).await.unwrap();
    call(&sql, "a", "").await.unwrap();
    let Database::Sqlite(sqlite) = &sql.database else { panic!() };
    let now = seconds(SystemTime::now());
    assert_eq!(sqlite.prune("notes", now - 60).await.unwrap(), 0);
    assert_eq!(sqlite.prune("notes", now + 60).await.unwrap(), 1);
}
