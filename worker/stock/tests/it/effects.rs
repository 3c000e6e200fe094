//! The handler `sql` with both databases, while workers are killed: every request takes effect once.

use std::fs;

use sqlx::SqlitePool;
use tidegate_cli::postgres::Postgres;
use tidegate_shared::{envelope::Request, id::RequestId, topology::REPLY};

use crate::support::{Tide, eventually};

const WORKERS: usize = 3;
const REQUESTS: usize = 300;
const KILLS: usize = 5;
/// The tables would take an effect twice.
const TABLE: &str = "CREATE TABLE effects (id TEXT NOT NULL, n BIGINT NOT NULL)";
const COUNT: &str = "SELECT (SELECT count(*) FROM effects) || ' ' || (SELECT count(DISTINCT n) FROM effects) || ' ' || \
                     (SELECT count(*) FROM tide_inbox)";

#[tokio::test]
async fn every_request_takes_effect_once_in_sqlite_and_postgresql_although_workers_are_killed() {
    let (postgres, scratch) = (Postgres::start().await.unwrap(), tempfile::tempdir().unwrap());
    let (file, migrations) = (scratch.path().join("effects.db"), scratch.path().join("migrations"));
    fs::create_dir(&migrations).unwrap();
    fs::write(migrations.join("1.sql"), TABLE).unwrap();
    let mut routes = String::new();
    for (name, url) in [("lite", format!("sqlite:{}", file.display())), ("postgres", postgres.url())] {
        let route = format!(
            "[[route]]\nname = \"{name}\"\nmatch = \"rpc.{name}\"\nhandler = \"sql\"\nconcurrency = 4\n[route.sql]\nurl = \"{url}\"\n\
             migrations = \"{}\"\nstatements = [\"INSERT INTO effects (id, n) VALUES (:id, :body.n)\"]\n",
            migrations.display()
        );
        routes.push_str(&route);
    }
    let tide = Tide::start_with(&routes, WORKERS).await;
    for n in 0..REQUESTS {
        for route in ["lite", "postgres"] {
            let id = RequestId::keyed("42", route, &n.to_string());
            tide.send(&Request { id, ..tide.request(route, format!("{{\"n\":{n}}}")) }).await;
        }
        if n % (REQUESTS / KILLS) == REQUESTS / KILLS / 2 {
            let wanted = n as u64;
            eventually("some are answered", async || (tide.count(REPLY).await >= wanted).then_some(())).await;
            tide.stack.kill(&format!("worker-{}", n % WORKERS + 1)).await.unwrap();
        }
    }
    tide.settled().await;
    let once = format!("{REQUESTS} {REQUESTS} {REQUESTS}");
    assert_eq!(tide.count(REPLY).await, 2 * REQUESTS as u64);
    assert_eq!(postgres.query(COUNT).unwrap(), once);
    let sqlite = SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>(COUNT).fetch_one(&sqlite).await.unwrap(), once);
    assert_eq!(tide.count("TIDE_DEAD").await, 0);
}
