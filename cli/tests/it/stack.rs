//! Starting, restarting, ending.

use tidegate_cli::stack::{Phase, Stack, setup};

#[tokio::test]
async fn the_broker_starts_alone_and_a_second_plan_is_empty() {
    let stack = Stack::builder().start().await.unwrap();
    let broker = setup::connect(stack.config()).await.unwrap();
    assert_eq!(setup::plan(&broker, stack.config()).await.unwrap(), []);
    let status = stack.status();
    assert_eq!((status.len(), status[0].phase), (1, Phase::Ready));
    stack.down().await;
}
