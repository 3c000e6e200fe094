//! Handlers that no router takes. `messages.rs` compiles this file and reads what the compiler says.

use tidegate_worker::{Failure, Grant, Json, Publication, Router, State, User, on};

struct Price(u32);

async fn not_an_extractor(_: Price) {}

async fn body_before_the_last(Json(_): Json<u32>, User(_): User) {}

fn not_async(User(_): User) -> Json<u32> {
    Json(1)
}

async fn not_an_answer() -> Price {
    Price(1)
}

async fn not_a_part_of_an_answer() -> (Json<u32>, Price) {
    (Json(1), Price(1))
}

async fn a_state_of_another_type(State(_): State<String>) {}

async fn an_error_without_meaning() -> Result<(), Failure> {
    std::fs::read_to_string("x")?;
    Ok(())
}

async fn not_a_decision() -> Publication {
    Publication::bytes("a:b", "c")
}

async fn entry() -> Grant {
    Grant::new()
}

fn main() {
    let router: Router = Router::new();
    let router = router.route("a", on(not_an_extractor));
    let router = router.route("b", on(body_before_the_last));
    let router = router.route("c", on(not_async));
    let router = router.route("d", on(not_an_answer));
    let router = router.route("e", on(not_a_part_of_an_answer));
    let router = router.route("f", on(a_state_of_another_type));
    let router = router.decide("connect", not_a_decision);
    let router = router.route("g", on(entry));
    drop((router, an_error_without_meaning));
}
