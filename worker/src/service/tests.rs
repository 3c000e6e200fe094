use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tower::{
    ServiceExt, buffer::BufferLayer, layer::layer_fn, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer,
    timeout::TimeoutLayer,
};

use super::*;
use crate::{Router, State, handler::on, job::tests::job};

/// What the handlers of these tests share: how many run, and what lets them end.
#[derive(Debug, Clone)]
struct Shared {
    running: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    gate: Arc<Semaphore>,
}

impl Shared {
    fn new(permits: usize) -> Self {
        Self { running: Arc::default(), most: Arc::default(), gate: Arc::new(Semaphore::new(permits)) }
    }
}

async fn work(State(shared): State<Shared>) {
    let running = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(running, Ordering::SeqCst);
    shared.gate.acquire().await.unwrap().forget();
    tokio::task::yield_now().await;
    shared.running.fetch_sub(1, Ordering::SeqCst);
}

/// The handler of the one route of a router.
fn only<S: Clone + Send + Sync + 'static>(router: Router<S>) -> HandlerService {
    router.into_routes().pop().unwrap().into_handler()
}

/// A handler with a layer around its route, and one with the layer around its router.
fn both<L>(shared: &Shared, layer: L) -> [HandlerService; 2]
where
    L: Layer<HandlerService> + Clone + Send + Sync + 'static,
    L::Service: Service<Job, Response = Result<Answer, Failure>> + Clone + Send + Sync + 'static,
    <L::Service as Service<Job>>::Error: Into<BoxError>,
    <L::Service as Service<Job>>::Future: Send,
{
    let router = || Router::with_state(shared.clone());
    [
        only(router().route("a", on(work).layer(layer.clone()))),
        only(router().route("a", on(work)).layer(layer)),
    ]
}

async fn call(handler: &HandlerService) -> Result<Answer, Failure> {
    handler.clone().oneshot(job(None, b"")).await.unwrap()
}

fn retries(result: Result<Answer, Failure>) -> String {
    match result {
        Err(Failure::Retry { error, after: None }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn towers_timeout_works_around_a_route_and_around_a_router_and_makes_a_retry() {
    let shared = Shared::new(0);
    for handler in both(&shared, TimeoutLayer::new(Duration::from_secs(3))) {
        assert_eq!(retries(call(&handler).await), "request timed out");
    }
}

#[tokio::test]
async fn towers_concurrency_limit_works_around_a_route_and_around_a_router() {
    for around in [0, 1] {
        let shared = Shared::new(20);
        let [route, router] = both(&shared, ConcurrencyLimitLayer::new(2));
        let handler = if around == 0 { route } else { router };
        let calls = futures_util::future::join_all((0..20).map(|_| call(&handler))).await;
        assert!(calls.iter().all(Result::is_ok));
        assert_eq!(shared.most.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn towers_buffer_works_around_a_route_and_around_a_router() {
    let shared = Shared::new(6);
    for handler in both(&shared, BufferLayer::new(4)) {
        let calls = futures_util::future::join_all((0..3).map(|_| call(&handler))).await;
        assert!(calls.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn towers_load_shed_sees_that_a_layer_inside_of_it_is_full() {
    for around in [0, 1] {
        let shared = Shared::new(0);
        let limited = || on(work).layer(ConcurrencyLimitLayer::new(1));
        let router = Router::with_state(shared.clone());
        let handler = match around {
            0 => only(router.route("a", limited().layer(LoadShedLayer::new()))),
            _ => only(router.route("a", limited()).layer(LoadShedLayer::new())),
        };
        let (first, second) = tokio::join!(call(&handler), async {
            let second = call(&handler).await;
            shared.gate.add_permits(1);
            second
        });
        assert!(first.is_ok());
        assert_eq!(retries(second), "service overloaded");
    }
}

#[tokio::test]
async fn a_layer_whose_service_can_take_no_job_fails_the_job_that_comes() {
    #[derive(Clone)]
    struct Broken;
    impl Service<Job> for Broken {
        type Response = Result<Answer, Failure>;
        type Error = BoxError;
        type Future = std::future::Pending<Result<Self::Response, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("out of order".into()))
        }
        fn call(&mut self, _: Job) -> Self::Future {
            panic!("it is not ready")
        }
    }
    for handler in both(&Shared::new(0), layer_fn(|_: HandlerService| Broken)) {
        assert_eq!(retries(call(&handler).await), "out of order");
    }
}

#[tokio::test]
async fn a_handlers_own_failure_passes_its_layers_unchanged() {
    async fn rejects() -> Result<(), Failure> {
        Err(Failure::reject(422, "no"))
    }
    let router = Router::new().route("a", on(rejects).layer(TimeoutLayer::new(Duration::from_secs(9))));
    let failure = call(&only(router.layer(BufferLayer::new(1)))).await.unwrap_err();
    assert!(matches!(failure, Failure::Reject { code: 422, .. }), "{failure:?}");
}

#[tokio::test]
async fn a_routers_layers_are_around_all_its_routes_and_around_those_of_routers_merged_into_it() {
    #[derive(Clone, Default)]
    struct Passed(Arc<std::sync::Mutex<Vec<&'static str>>>);
    impl Passed {
        /// A layer that notes its name whenever a job passes it.
        fn by(
            &self,
            name: &'static str,
        ) -> impl Layer<HandlerService, Service = HandlerService> + Send + Sync + 'static {
            let passed = self.clone();
            layer_fn(move |inner: HandlerService| {
                let passed = passed.clone();
                BoxCloneSyncService::new(inner.map_request(move |job: Job| {
                    passed.0.lock().unwrap().push(name);
                    job
                }))
            })
        }
    }
    async fn handler(State(name): State<&'static str>) -> bytes::Bytes {
        name.into()
    }
    let passed = Passed::default();
    let inner = Router::with_state("inner").layer(passed.by("inner router")).route("a", on(handler));
    let outer = Router::with_state("outer")
        .route("b", on(handler).layer(passed.by("first of b")).layer(passed.by("second of b")))
        .layer(passed.by("outer router"))
        .merge(inner);
    assert_eq!(format!("{outer:?}"), "[\"b\", \"a\"]");
    let expected = [
        ("outer", vec!["outer router", "second of b", "first of b"]),
        ("inner", vec!["outer router", "inner router"]),
    ];
    for (bound, (body, expected)) in outer.into_routes().into_iter().zip(expected) {
        assert_eq!(call(&bound.into_handler()).await.unwrap().body, body);
        assert_eq!(std::mem::take(&mut *passed.0.lock().unwrap()), expected);
    }
}
