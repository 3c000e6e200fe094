//! What the users of the broker can bring about: directly, and by means of whoever answers them. The broker's state decides, not
//! its error messages.

mod state;
mod target;
mod trigger;
mod user;

use async_nats::{ConnectOptions, Event, HeaderMap};
use futures_util::StreamExt;
use tidegate_cli::stack::Stack;
use tidegate_shared::{
    access::{Access, Account},
    broker::{Broker, Refusal},
    config::Config,
};

use self::{
    state::{State, changes},
    target::Target,
    user::User,
};

const CONFIG: &str = "[worker]\nack_wait = \"10m\"\n\
    [[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n[[route]]\nname = \"jobs\"\nmatch = \"rpc.jobs\"\n\
    [[namespace]]\nname = \"chat\"\nhistory_size = 1000\n[[namespace]]\nname = \"kept\"\nhistory_size = 5\n\
    [[namespace]]\nname = \"brief\"\n";
/// A body that must not reach anybody but its readers.
const SECRET: &str = "the secret";

/// A broker with something in every stream, and programs of every kind that answer whatever they are asked.
struct Scene {
    stack: Stack,
    admin: Broker,
    access: Access,
    programs: Vec<User>,
    targets: Vec<Target>,
}

impl Scene {
    async fn set() -> Self {
        let stack = Stack::builder().config(CONFIG).start().await.unwrap();
        let (admin, access) = (stack.admin().await.unwrap(), Access::of(stack.config()));
        let put = async |subject: &str, body: &str| {
            admin.store(subject.to_owned(), HeaderMap::new(), body.to_owned().into()).await.unwrap();
        };
        for request in ["tide.in.rpc.echo.1.gw.a", "tide.in.rpc.echo.1.gw.b", "tide.in.rpc.jobs.1.gw.c"] {
            put(request, SECRET).await;
        }
        for subject in [
            "tide.park.gw.a",
            "tide.park.k.a",
            "tide.reply.gw.a",
            "tide.dead.default.echo",
            "tide.ch.chat.a",
            "tide.ch.kept.a",
            "tide.presence.gateway.gw",
        ] {
            put(subject, SECRET).await;
        }
        let worker = User::connect(&stack, Account::Worker).await;
        let inbox = worker.client.new_inbox();
        let mut pulled = worker.client.subscribe(inbox.clone()).await.unwrap();
        worker
            .publish(
                "$JS.API.CONSUMER.MSG.NEXT.TIDE_IN_echo.echo",
                Some(&inbox),
                HeaderMap::new(),
                "{\"batch\":1}",
            )
            .await;
        let pulled = pulled.next().await.unwrap();
        let targets = target::all(&access, &state::read(&admin).await, &pulled.reply.unwrap());
        for (number, target) in targets.iter().enumerate() {
            for store in
                [Account::Gateway, Account::Worker].map(|account| trigger::store_of(account, number).unwrap())
            {
                put(&store, &target.body).await;
            }
        }
        let mut programs = Vec::new();
        for account in [Account::Gateway, Account::Worker, Account::Service] {
            let program = User::connect(&stack, account).await;
            program.serve(&access).await;
            programs.push(program);
        }
        // The streams of last messages copy the others; they may be behind.
        let kept = async |stream: &str| {
            admin.jetstream().get_stream(stream).await.unwrap().cached_info().state.messages
        };
        while kept("TIDE_LAST_chat").await < kept("TIDE_CH_chat").await {}
        while kept("TIDE_LAST_kept").await < kept("TIDE_CH_kept").await {}
        Self { stack, admin, access, programs, targets }
    }

    async fn state(&self) -> State {
        state::read(&self.admin).await
    }

    /// The targets that this user has no right to publish on.
    fn forbidden(&self, account: Account) -> impl Iterator<Item = (usize, &Target)> {
        let allowed = self.access.publishes(account);
        let local = |subject: &str| subject.replace("$JS.API.", "tide.js.");
        self.targets
            .iter()
            .enumerate()
            .filter(move |(_, target)| !allowed.iter().any(|pattern| takes(pattern, &local(&target.subject))))
    }

    /// Fails if anything is stored, lost or changed, or if a program of another account has received what `attacker` may not send.
    async fn unharmed(&self, before: &State, attacker: &User, how: &str) {
        attacker.settled().await;
        for program in &self.programs {
            program.settled().await;
        }
        attacker.settled().await;
        let changes = changes(before, &self.state().await);
        assert!(changes.is_empty(), "{:?} {how}: {changes:#?}", attacker.account);
        let allowed = self.access.publishes(attacker.account);
        for program in &self.programs {
            for subject in program.take_received() {
                let own = program.account == attacker.account
                    || allowed.iter().any(|pattern| takes(pattern, &subject));
                assert!(own, "{:?} {how}: {:?} received {subject}", attacker.account, program.account);
            }
        }
    }
}

/// NATS' own rule of which subjects a pattern takes.
fn takes(pattern: &str, subject: &str) -> bool {
    let mut words = subject.split('.');
    for token in pattern.split('.') {
        match (token, words.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(word)) if token == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

#[tokio::test]
async fn no_user_changes_anything_by_publishing_what_only_others_may() {
    let scene = Scene::set().await;
    let before = scene.state().await;
    let mut tried = 0;
    for account in Account::USERS {
        let attacker = User::connect(&scene.stack, account).await;
        let inbox = attacker.client.new_inbox();
        for (_, target) in scene.forbidden(account) {
            for reply in [None, Some(inbox.as_str())] {
                attacker.publish(&target.subject, reply, HeaderMap::new(), &target.body).await;
                tried += 1;
            }
        }
        scene.unharmed(&before, &attacker, "published").await;
    }
    assert!(tried > 300, "{tried}");
    scene.stack.down().await;
}

#[tokio::test]
async fn no_user_changes_anything_by_having_others_answer_on_a_subject_of_its_choice() {
    let scene = Scene::set().await;
    let before = scene.state().await;
    let mut tried = 0;
    for account in Account::USERS {
        let attacker = User::connect(&scene.stack, account).await;
        for index in 0..trigger::all(account, 0, "").len() {
            let mut how = String::new();
            for (number, target) in scene.forbidden(account) {
                let trigger = &trigger::all(account, number, &target.body)[index];
                // JetStream's API has two names: its own, and the one within the accounts.
                for reply in [target.subject.clone(), target.subject.replace("$JS.API.", "tide.js.")] {
                    attacker
                        .publish(&trigger.subject, Some(&reply), trigger.headers.clone(), &trigger.body)
                        .await;
                    tried += 1;
                }
                how = format!("called {}", trigger.subject);
            }
            scene.unharmed(&before, &attacker, &how).await;
        }
    }
    assert!(tried > 3000, "{tried}");
    scene.stack.down().await;
}

#[tokio::test]
async fn a_stored_body_that_is_read_back_neither_deletes_a_stream_nor_forges_a_request() {
    let scene = Scene::set().await;
    let before = scene.state().await;
    for (account, read) in [
        (Account::Gateway, "$JS.API.DIRECT.GET.TIDE_CH_chat.tide.ch.chat.a"),
        (Account::Worker, "$JS.API.DIRECT.GET.TIDE_REPLY.tide.reply.gw.a"),
    ] {
        let attacker = User::connect(&scene.stack, account).await;
        for reply in [
            "$JS.API.STREAM.DELETE.TIDE_CH_kept",
            "$JS.API.STREAM.PURGE.TIDE_IN_echo",
            "tide.in.rpc.echo.1.gw.forged",
        ] {
            attacker.publish(read, Some(reply), HeaderMap::new(), "").await;
        }
        // A read that finds nothing has an empty body, which a deletion needs.
        attacker
            .publish(
                &format!("{read}nothing"),
                Some("$JS.API.STREAM.DELETE.TIDE_CH_kept"),
                HeaderMap::new(),
                "",
            )
            .await;
        attacker.settled().await;
        assert_eq!(changes(&before, &scene.state().await), Vec::<String>::new(), "{account:?}");
    }
    scene.stack.down().await;
}

#[tokio::test]
async fn every_call_that_the_attempts_are_made_of_gets_an_answer() {
    let scene = Scene::set().await;
    for account in Account::USERS {
        let user = User::connect(&scene.stack, account).await;
        for trigger in trigger::all(account, 0, "x") {
            let request = async_nats::Request::new().headers(trigger.headers).payload(trigger.body.into());
            let answer = user.client.send_request(trigger.subject.clone(), request).await;
            let nobody = trigger.subject == "tide.barrier";
            assert_eq!(answer.is_err(), nobody, "{account:?} {}: {answer:?}", trigger.subject);
        }
    }
    scene.stack.down().await;
}

#[tokio::test]
async fn a_worker_cannot_have_a_request_delivered_to_a_subject_of_its_choice() {
    let scene = Scene::set().await;
    let worker = User::connect(&scene.stack, Account::Worker).await;
    let messages = |state: State| -> State {
        state.into_iter().filter(|(key, _)| key.contains('#') || !key.contains("TIDE_IN_")).collect()
    };
    let before = messages(scene.state().await);
    for (_, target) in scene
        .forbidden(Account::Worker)
        .filter(|(_, target)| target.body.is_empty() || target.body == "forged")
    {
        let pull = "$JS.API.CONSUMER.MSG.NEXT.TIDE_IN_jobs.jobs";
        worker
            .publish(pull, Some(&target.subject), HeaderMap::new(), "{\"batch\":1,\"expires\":1000000}")
            .await;
    }
    worker.settled().await;
    assert_eq!(changes(&before, &messages(scene.state().await)), Vec::<String>::new());
    scene.stack.down().await;
}

#[tokio::test]
async fn no_user_hears_what_is_meant_for_others() {
    let scene = Scene::set().await;
    let mut spies = Vec::new();
    for account in Account::USERS {
        let spy = User::connect(&scene.stack, account).await;
        let own = scene.access.subscribes(account);
        let everything = [
            ">",
            "*.>",
            "tide.>",
            "tide.*.>",
            "$JS.>",
            "$JS.ACK.>",
            "$JS.API.>",
            "_INBOX.>",
            "_R_.>",
            "$SYS.>",
            "tide.in.>",
            "tide.reply.>",
            "tide.ch.>",
        ];
        let others = Account::USERS.into_iter().flat_map(|other| scene.access.subscribes(other));
        let foreign = others.chain(everything.map(str::to_owned)).filter(|subject| !own.contains(subject));
        spy.listen(foreign).await;
        spy.settled().await;
        spies.push(spy);
    }
    // All that goes on between programs, with the secret in it.
    for subject in ["tide.in.rpc.echo.1.gw.d", "tide.ch.chat.d", "tide.ch.kept.d", "tide.presence.gateway.d"]
    {
        store(&scene, Account::Gateway, subject).await;
    }
    for subject in ["tide.reply.gw.d", "tide.park.gw.d", "tide.dead.default.d", "tide.ch.chat.e"] {
        store(&scene, Account::Worker, subject).await;
    }
    for (account, subject) in [
        (Account::Gateway, "tide.hook.connect"),
        (Account::Gateway, "tide.peer.gw"),
        (Account::Gateway, "tide.emulate.gw"),
        (Account::Worker, "tide.answer.gw.a"),
        (Account::Service, "tide.ctl.info"),
        (Account::Service, "tide.push.all"),
        (Account::Service, "tide.ch.chat.f"),
    ] {
        let user = User::connect(&scene.stack, account).await;
        user.client.request(subject, SECRET.into()).await.unwrap();
    }
    for spy in spies {
        spy.settled().await;
        let heard = spy.take_received();
        assert!(heard.is_empty(), "{:?} heard {heard:?}", spy.account);
    }
    scene.stack.down().await;
}

async fn store(scene: &Scene, account: Account, subject: &str) {
    let user = User::connect(&scene.stack, account).await;
    let jetstream = async_nats::jetstream::new(user.client.clone());
    jetstream.publish(subject.to_owned(), SECRET.into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_connection_needs_a_password() {
    let stack = Stack::builder().start().await.unwrap();
    assert!(async_nats::connect(stack.nats_url()).await.is_err());
    stack.down().await;
}

#[tokio::test]
async fn every_user_has_the_rights_that_its_program_needs_and_trying_them_changes_nothing() {
    let scene = Scene::set().await;
    let before = scene.state().await;
    for account in Account::USERS {
        let broker = connect(&scene.stack, account).await;
        broker.try_rights(scene.stack.config(), account, true).await.unwrap();
    }
    assert_eq!(changes(&before, &scene.state().await), Vec::<String>::new());
    scene.stack.down().await;
}

#[tokio::test]
async fn a_namespace_or_route_that_the_broker_grants_nothing_for_is_named() {
    let stack = Stack::builder().config(CONFIG).start().await.unwrap();
    let file = stack.dir().join("changed.toml");
    let more = "[[namespace]]\nname = \"news\"\nhistory_size = 5\n[[route]]\nname = \"late\"\nmatch = \"rpc.late\"\n";
    std::fs::write(&file, format!("{CONFIG}{more}")).unwrap();
    let url = [("nats.url", stack.nats_url().to_owned())];
    let changed = Config::from_sources(Some(&file), std::collections::BTreeMap::new(), &url).unwrap();
    for (account, lacks) in [
        (Account::Gateway, "$JS.API.DIRECT.GET.TIDE_CH_news"),
        (Account::Worker, "$JS.API.CONSUMER.INFO.TIDE_IN_late"),
        (Account::Purger, "$JS.API.STREAM.PURGE.TIDE_IN_late"),
        (Account::Setup, "$JS.API.CONSUMER.CREATE.TIDE_IN_late"),
    ] {
        let broker = connect(&stack, account).await.past_streams(&changed, account == Account::Gateway);
        let said = broker.try_rights(&changed, account, true).await.unwrap_err();
        let (said, user) = (said.to_string(), &account.user(&changed).unwrap().user);
        assert!(said.contains(lacks) && said.contains(user) && said.contains("nats-config"), "{said}");
    }
    stack.down().await;
}

#[tokio::test]
async fn a_gateway_that_may_not_publish_past_the_streams_is_told_so_at_its_start() {
    let stack = Stack::builder().config(CONFIG).start().await.unwrap();
    let file = stack.dir().join("changed.toml");
    std::fs::write(&file, format!("{CONFIG}[[namespace]]\nname = \"ticks\"\n")).unwrap();
    let url = [("nats.url", stack.nats_url().to_owned())];
    let changed = Config::from_sources(Some(&file), std::collections::BTreeMap::new(), &url).unwrap();
    let gateway = connect(&stack, Account::Gateway).await.past_streams(&changed, true);
    let said = gateway.try_rights(&changed, Account::Gateway, true).await.unwrap_err().to_string();
    assert!(said.contains("tide.live.ticks") && said.contains("nats-config"), "{said}");
    assert!(!said.contains("tide.live.brief"), "it may publish there: {said}");
    stack.down().await;
}

#[tokio::test]
async fn a_program_that_may_not_ask_whether_the_server_has_a_publication_is_told_so_at_its_start() {
    let stack = Stack::builder().config(CONFIG).start().await.unwrap();
    let file = stack.dir().join("nats.conf");
    let granted = std::fs::read_to_string(&file).unwrap();
    let earlier = granted.replace("\"tide.barrier\"", "\"tide.none\"");
    assert_ne!(granted, earlier);
    std::fs::write(&file, earlier).unwrap();
    stack.kill("nats").await.unwrap();
    stack.wait_ready("nats").await.unwrap();
    for account in [Account::Gateway, Account::Worker] {
        let broker = connect(&stack, account).await.past_streams(stack.config(), account == Account::Gateway);
        let said = broker
            .try_rights(stack.config(), account, true)
            .await
            .expect_err(&format!("{account:?}"))
            .to_string();
        assert!(said.contains("tide.barrier") && said.contains("nats-config"), "{said}");
    }
    stack.down().await;
}

#[tokio::test]
async fn a_publication_that_the_server_refuses_is_not_called_taken() {
    let stack = Stack::builder().config(CONFIG).start().await.unwrap();
    let file = stack.dir().join("changed.toml");
    std::fs::write(&file, format!("{CONFIG}[[namespace]]\nname = \"ticks\"\n")).unwrap();
    let url = [("nats.url", stack.nats_url().to_owned())];
    let changed = Config::from_sources(Some(&file), std::collections::BTreeMap::new(), &url).unwrap();
    let worker = connect(&stack, Account::Worker).await.past_streams(&changed, false);
    let publish = |channel: &str| worker.store(format!("tide.ch.{channel}"), HeaderMap::new(), "1".into());
    publish("brief.a").await.unwrap();
    assert_eq!(publish("ticks.a").await, Err(Refusal::Unconfirmed));
    publish("brief.a").await.unwrap();
    stack.down().await;
}

async fn connect(stack: &Stack, account: Account) -> Broker {
    let nats = &stack.config().nats;
    Broker::connect(nats, account.user(stack.config()).unwrap(), "test", 16, true).await.unwrap()
}

#[tokio::test]
async fn a_service_that_publishes_for_a_namespace_that_does_not_exist_is_told_and_so_is_the_log() {
    let stack = Stack::builder().config(CONFIG).start().await.unwrap();
    let (say, mut said) = tokio::sync::mpsc::channel(16);
    let service = stack.config().nats.service.clone();
    let client = ConnectOptions::with_user_and_password(service.user, service.password.expose().to_owned())
        .event_callback(move |event| {
            let say = say.clone();
            async move {
                if let Event::ServerError(error) = event {
                    let _ = say.send(error.to_string()).await;
                }
            }
        })
        .connect(stack.nats_url())
        .await
        .unwrap();
    for subject in ["tide.ch.chat.a", "tide.ch.default.a", "tide.ch.user.42", "tide.ch.chta.a"] {
        client.publish(subject, "1".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let error = tokio::time::timeout(std::time::Duration::from_secs(10), said.recv()).await.unwrap().unwrap();
    assert!(error.to_lowercase().contains("publish to \"tide.ch.chta.a\""), "{error}");
    assert!(said.try_recv().is_err(), "the others are allowed");
    let logged = || stack.log_of("nats").contains("tide.ch.chta.a");
    crate::support::eventually("the broker's log names it", logged).await;
    stack.down().await;
}
