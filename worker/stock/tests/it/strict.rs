//! A strict order, while workers are killed, come and go.

use sqlx::SqlitePool;
use tidegate_cli::stack::Kind;
use tidegate_shared::envelope::Request;

use crate::support::{Tide, eventually};

const KEYS: usize = 10;
const NUMBERS: usize = 30;
const FAULTS: usize = 10;

#[tokio::test]
async fn effects_are_in_order_although_workers_are_killed_and_their_number_changes() {
    let route = "[[route]]\nname = \"quakes\"\nmatch = \"rpc.quakes\"\nhandler = \"quakes\"\norder = \"strict\"\n\
                 partitions = 8\nmax_attempts = 3\n";
    let tide = Tide::start_with(route, 3).await;
    for number in 0..NUMBERS {
        for key in 0..KEYS {
            let quake = format!(
                r#"{{"id":"{key}-{number}","time_ms":1517364031800,"mag":1.1,"net":"n{key}","lon":118.7,"lat":-7.8}}"#
            );
            let user = Some(format!("u{key}"));
            tide.send(&Request { user, ..tide.request("quakes", quake) }).await;
        }
    }
    let file = tide.stack.dir().join("quakes.db");
    let database = eventually("the database is there", async || {
        SqlitePool::connect(&format!("sqlite:{}", file.display())).await.ok()
    })
    .await;
    let ids = async || {
        let rows = sqlx::query_scalar::<_, String>("SELECT id FROM quakes ORDER BY rowid");
        rows.fetch_all(&database).await.unwrap_or_default()
    };
    for fault in 0..FAULTS {
        let enough = (fault + 1) * KEYS * NUMBERS / (FAULTS + 2);
        eventually("some are stored", async || (ids().await.len() >= enough).then_some(())).await;
        if fault % 2 == 0 {
            tide.stack.kill(&format!("worker-{}", fault / 2 % 2 + 1)).await.unwrap();
        } else {
            tide.stack.scale(Kind::Worker, 2 + fault % 3).await.unwrap();
        }
    }
    tide.settled().await;
    let ids = ids().await;
    for key in 0..KEYS {
        let own = ids.iter().filter_map(|id| id.strip_prefix(&format!("{key}-")));
        let numbers: Vec<usize> = own.map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers, (0..NUMBERS).collect::<Vec<_>>(), "key {key}");
    }
    assert_eq!(tide.count("TIDE_DEAD").await, 0);
}
