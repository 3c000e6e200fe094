//! A worker inside a program of its own: its `main`, its runtime, its logging, its section of `tidegate.toml`.
//!
//! ```toml
//! [[route]]
//! name = "price"
//! match = "rpc.price"
//!
//! [app.shop]
//! currency = "EUR"
//! ```

use std::{error::Error, net::SocketAddr};

use serde::Deserialize;
use tidegate_worker::{Config, Json, Router, State, Worker, on};

/// `[app.shop]` of tidegate.toml, or `TIDEGATE_APP__SHOP__CURRENCY` and so on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shop {
    currency: String,
    #[serde(default)]
    cents: u32,
}

async fn price(State(shop): State<Shop>, Json(pieces): Json<u32>) -> Json<String> {
    let cents = shop.cents.saturating_mul(pieces);
    Json(format!("{}.{:02} {}", cents / 100, cents % 100, shop.currency))
}

fn main() -> Result<(), Box<dyn Error>> {
    // The worker logs with `tracing`, wherever this program sends it.
    tracing_subscriber::fmt().compact().init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let config = Config::for_worker(None)?;
    let shop: Shop = config.app("shop")?;
    let worker = Worker::builder(&config)
        .name("shop")
        .router(Router::with_state(shop).route("price", on(price)))
        .internal(SocketAddr::from(([127, 0, 0, 1], 0)))
        .shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .start()
        .await?;
    if let Some(address) = worker.internal() {
        tracing::info!("http://{address}/metrics");
    }
    // Whatever else this program does, it does meanwhile.
    worker.ended().await?;
    Ok(())
}
