//! The echo that `make conformance` tests. Its argument is the address.

use tidegate_gateway::conformance;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9101".to_owned());
    conformance::echo(TcpListener::bind(address).await?).await;
    Ok(())
}
