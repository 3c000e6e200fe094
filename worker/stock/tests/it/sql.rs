//! The handler `sql` with a real PostgreSQL.

use std::fs;

use tidegate_cli::postgres::Postgres;

use crate::support::Tide;

#[tokio::test]
async fn a_request_takes_effect_once_in_postgresql_and_every_type_is_converted_by_the_server() {
    let server = Postgres::start().await.unwrap();
    let migrations = tempfile::tempdir().unwrap();
    let create = "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE notes (id UUID PRIMARY KEY, author INT, at TIMESTAMPTZ, \
                  cost NUMERIC, tags JSONB, mood mood, n SMALLINT CHECK (n < 10))";
    fs::write(migrations.path().join("1.sql"), create).unwrap();
    let insert = "INSERT INTO notes VALUES (:body.id, :user, :body.at, :body.cost, :body.tags, :body.mood, :body.n) RETURNING *";
    let route = format!(
        "[[route]]\nname = \"notes\"\nmatch = \"rpc.notes\"\nhandler = \"sql\"\n[route.sql]\nurl = \"{}\"\nanswer = \"row\"\n\
         migrations = \"{}\"\nstatements = [\"{insert}\"]\n",
        server.url(),
        migrations.path().display()
    );
    let tide = Tide::start_with(&route, 2).await;
    let body = r#"{"id": "6e9f3c9e-0000-4000-8000-000000000001", "at": "2026-11-26T12:00:00Z", "cost": 1.25, "tags": ["a"], "mood": "good", "n": 5}"#;
    let request = tide.ask("notes", body).await;
    let answer: serde_json::Value = serde_json::from_slice(&tide.body(&request).await).unwrap();
    assert_eq!(
        (&answer["author"], &answer["cost"], &answer["tags"][0]),
        (&42.into(), &1.25.into(), &"a".into())
    );
    // The same request again, as after a crash between the commit and the answer.
    tide.settled().await;
    tide.purge(&request).await;
    tide.send_as(&request, "another").await;
    tide.settled().await;
    assert_eq!(server.query("SELECT count(*) FROM notes").unwrap(), "1");
    assert_eq!(server.query("SELECT count(*) FROM tide_inbox WHERE route = 'notes'").unwrap(), "1");
    for (body, code) in [
        (body.to_owned(), 409),
        (body.replace("01\"", "02\"").replace("\"good\"", "\"fine\""), 422),
        (body.replace("01\"", "02\"").replace("5}", "11}"), 422),
        (body.replace("01\"", "02\"").replace("2026-11", "2026-13"), 422),
    ] {
        let request = tide.ask("notes", body).await;
        assert_eq!(tide.error(&request).await.0, code);
    }
    assert_eq!(server.query("SELECT count(*) FROM notes").unwrap(), "1");
    assert_eq!(
        server.query("SELECT count(*) FROM tide_inbox").unwrap(),
        "1",
        "a rejected request leaves no trace"
    );
}
