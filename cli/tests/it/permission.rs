//! The permissions of each user of the broker, and what each is refused.

use async_nats::{ConnectOptions, Event};
use tidegate_cli::stack::Stack;
use tidegate_shared::config::NatsUser;
use tokio::sync::mpsc;

use crate::support::eventually;

/// Administration: refused to every role tested here; some of it even to the setup user.
const ADMINISTRATION: [&str; 12] = [
    "$JS.API.STREAM.CREATE.X",
    "$JS.API.STREAM.UPDATE.TIDE_IN_echo",
    "$JS.API.STREAM.DELETE.TIDE_IN_echo",
    "$JS.API.STREAM.PURGE.TIDE_IN_echo",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.MSG.GET.TIDE_IN_echo",
    "$JS.API.STREAM.MSG.DELETE.TIDE_IN_echo",
    "$JS.API.CONSUMER.CREATE.TIDE_IN_echo.x",
    "$JS.API.CONSUMER.DELETE.TIDE_IN_echo.echo",
    "$JS.API.DIRECT.GET.TIDE_IN_echo",
    "$JS.API.INFO",
    "$SYS.REQ.SERVER.PING",
];
/// Subjects that no role may subscribe to as a whole.
const FOREIGN: [&str; 8] =
    [">", "tide.>", "tide.in.>", "tide.reply.>", "tide.ch.>", "_INBOX.>", "$SYS.>", "$JS.ACK.>"];

struct Role {
    publish: &'static [&'static str],
    subscribe: &'static [&'static str],
    not_publish: &'static [&'static str],
    not_subscribe: &'static [&'static str],
}

const GATEWAY: Role = Role {
    publish: &[
        "tide.in.rpc.echo.1.gw.a",
        "tide.ch.chat.lobby",
        "tide.barrier",
        "tide.emulate.gw",
        "tide.peer.gw",
        "tide.hook.connect",
        "$JS.API.DIRECT.GET.TIDE_REPLY.tide.reply.gw.a",
        "$JS.API.DIRECT.GET.TIDE_IN_echo.tide.in.rpc.echo.1.k.a",
        "$JS.API.DIRECT.GET.TIDE_PARK.tide.park.k.a",
        "$JS.API.DIRECT.GET.TIDE_PARK.tide.due.rpc.echo.1.k.a",
        "$JS.API.STREAM.INFO.TIDE_IN_echo",
        "$JS.API.STREAM.PURGE.TIDE_CH_kept",
        "$JS.API.DIRECT.GET.TIDE_LAST_kept",
        "$JS.API.DIRECT.GET.TIDE_LAST_user",
    ],
    subscribe: &[
        "tide.answer.gw.*",
        "tide.answer.k.x",
        "tide.live.chat.*",
        "tide.push.all",
        "tide.emulate.gw",
        "tide.peer.*",
        "tide.ctl.*",
        "_INBOX_gateway.>",
    ],
    not_publish: &[
        "tide.reply.gw.a",
        "tide.ctl.disconnect",
        "$JS.API.STREAM.PURGE.TIDE_CH_chat",
        "$JS.API.STREAM.PURGE.TIDE_LAST_kept",
        "$JS.API.DIRECT.GET.TIDE_LAST_chat",
        "$JS.API.STREAM.PURGE.TIDE_REPLY",
        "tide.park.gw.a",
        "tide.dead.default.echo",
        "tide.answer.gw.a",
        "tide.live.chat.lobby",
        "tide.push.all",
        "$JS.API.DIRECT.GET.TIDE_REPLY",
        "$JS.API.DIRECT.GET.TIDE_REPLY.tide.park.k.a",
        "$JS.API.DIRECT.GET.TIDE_PARK",
        "$JS.API.DIRECT.GET.TIDE_PARK.tide.park.gw.a",
        "$JS.API.CONSUMER.MSG.NEXT.TIDE_IN_echo.echo",
        "$JS.ACK.TIDE_IN_echo.echo.1.1.1.1.1",
        "_INBOX_gateway.a",
        "_INBOX_worker.a",
    ],
    not_subscribe: &["tide.hook.*", "_INBOX_worker.>", "_INBOX_service.>"],
};

const WORKER: Role = Role {
    publish: &[
        "tide.reply.gw.a",
        "tide.answer.gw.a",
        "tide.answer.k.a",
        "tide.ch.chat.lobby",
        "tide.park.gw.a",
        "tide.dead.default.echo",
        "$JS.API.CONSUMER.INFO.TIDE_IN_echo.echo",
        "$JS.API.CONSUMER.MSG.NEXT.TIDE_PARK.echo",
        "$JS.ACK.TIDE_IN_echo.echo.1.1.1.1.1",
        "$JS.API.DIRECT.GET.TIDE_REPLY.tide.reply.gw.a",
        "$JS.API.DIRECT.GET.TIDE_PARK.tide.park.k.a",
    ],
    subscribe: &["tide.hook.connect", "tide.hook.*", "_INBOX_worker.>"],
    not_publish: &[
        "tide.in.rpc.echo.1.gw.a",
        "tide.due.rpc.echo.1.gw.a",
        "tide.answer",
        "tide.answer.gw",
        "tide.live.chat.lobby",
        "tide.push.all",
        "tide.barrier",
        "tide.emulate.gw",
        "tide.ctl.publish",
        "tide.peer.gw",
        "tide.hook.connect",
        "$JS.API.CONSUMER.MSG.NEXT.TIDE_REPLY.x",
        "$JS.API.DIRECT.GET.TIDE_REPLY",
        "$JS.API.STREAM.INFO.TIDE_IN_echo",
        "_INBOX_gateway.a",
    ],
    not_subscribe: &[
        "tide.answer.>",
        "tide.live.>",
        "tide.push.>",
        "tide.emulate.>",
        "tide.peer.>",
        "tide.ctl.>",
        "_INBOX_gateway.>",
    ],
};

const PURGER: Role = Role {
    publish: &[
        "$JS.API.CONSUMER.INFO.TIDE_IN_echo.echo",
        "$JS.API.STREAM.INFO.TIDE_IN_echo",
        "$JS.API.STREAM.PURGE.TIDE_IN_echo",
    ],
    subscribe: &["_INBOX_purger.>"],
    not_publish: &[
        "$JS.API.STREAM.PURGE.TIDE_PARK",
        "$JS.API.STREAM.PURGE.TIDE_REPLY",
        "$JS.API.STREAM.PURGE.TIDE_DEAD",
        "$JS.API.STREAM.PURGE.TIDE_CH_kept",
        "$JS.API.CONSUMER.MSG.NEXT.TIDE_IN_echo.echo",
        "$JS.ACK.TIDE_IN_echo.echo.1.1.1.1.1",
        "tide.in.rpc.echo.1.gw.a",
        "tide.reply.gw.a",
        "tide.ch.chat.lobby",
        "_INBOX_gateway.a",
    ],
    not_subscribe: &["tide.answer.>", "tide.live.>", "tide.ctl.>", "_INBOX_gateway.>", "_INBOX_worker.>"],
};

const SERVICE: Role = Role {
    publish: &[
        "tide.ch.chat.lobby",
        "tide.ch.user.42",
        "tide.push.all",
        "tide.push.client.gw.a",
        "tide.ctl.publish",
        "tide.ctl.broadcast",
        "tide.ctl.subscribe",
        "tide.ctl.unsubscribe",
        "tide.ctl.disconnect",
        "tide.ctl.refresh",
        "tide.ctl.presence",
        "tide.ctl.presence_stats",
        "tide.ctl.history",
        "tide.ctl.channels",
        "tide.ctl.info",
        "tide.ctl.batch",
        "tide.ctl.rpc",
    ],
    subscribe: &["tide.hook.connect", "tide.hook.*", "_INBOX_service.>"],
    not_publish: &[
        "tide.in.rpc.echo.1.gw.a",
        "tide.hook.connect",
        "tide.reply.gw.a",
        "tide.park.gw.a",
        "tide.dead.default.echo",
        "tide.live.chat.lobby",
        "tide.answer.gw.a",
        "tide.ctl.history_remove",
        "tide.peer.gw",
        "$JS.API.STREAM.PURGE.TIDE_CH_kept",
        "$JS.API.DIRECT.GET.TIDE_REPLY.tide.reply.gw.a",
        "$JS.API.CONSUMER.MSG.NEXT.TIDE_IN_echo.echo",
        "$JS.ACK.TIDE_IN_echo.echo.1.1.1.1.1",
        "_INBOX_gateway.a",
        "_INBOX_worker.a",
    ],
    not_subscribe: &[
        "tide.answer.>",
        "tide.live.>",
        "tide.push.>",
        "tide.peer.>",
        "tide.ctl.>",
        "_INBOX_gateway.>",
        "_INBOX_worker.>",
    ],
};

/// Tries every subject as one user. The broker reports refusals in order, so the last one completes them.
async fn try_as(stack: &Stack, user: &NatsUser, role: &Role) {
    let (said, mut refusals) = mpsc::channel(256);
    let client = ConnectOptions::with_user_and_password(user.user.clone(), user.password.expose().to_owned())
        .custom_inbox_prefix(format!("_INBOX_{}", user.user))
        .event_callback(move |event| {
            let said = said.clone();
            async move {
                if let Event::ServerError(error) = event {
                    said.send(error.to_string().to_lowercase()).await.unwrap();
                }
            }
        })
        .connect(stack.nats_url())
        .await
        .unwrap();
    let administration: Vec<&str> =
        ADMINISTRATION.into_iter().filter(|subject| !role.publish.contains(subject)).collect();
    let mut held = Vec::new();
    for subject in role.subscribe.iter().chain(role.not_subscribe).chain(&FOREIGN) {
        held.push(client.subscribe(*subject).await.unwrap());
    }
    for subject in role.publish.iter().chain(role.not_publish).chain(&administration) {
        client.publish(*subject, "".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let refused = |kind: &str, subject: &str| format!("for {kind} to \"{}\"", subject.to_lowercase());
    let expected: Vec<String> =
        (role.not_subscribe.iter().chain(&FOREIGN).map(|s| refused("subscription", s)))
            .chain(role.not_publish.iter().chain(&administration).map(|s| refused("publish", s)))
            .collect();
    for expected in expected {
        let said = tokio::time::timeout(std::time::Duration::from_secs(10), refusals.recv()).await;
        let said = said.unwrap_or_else(|_| panic!("{}: not refused {expected}", user.user)).unwrap();
        assert!(said.contains(&expected), "{}: expected {expected}, got {said}", user.user);
    }
    assert!(refusals.try_recv().is_err());
}

#[tokio::test]
async fn each_user_has_the_permissions_of_its_role_and_no_others() {
    let config = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n[[namespace]]\nname = \"chat\"\n\
                  [[namespace]]\nname = \"kept\"\nhistory_size = 1\n";
    let stack = Stack::builder().config(config).start().await.unwrap();
    let nats = &stack.config().nats;
    try_as(&stack, &nats.gateway, &GATEWAY).await;
    try_as(&stack, &nats.worker, &WORKER).await;
    try_as(&stack, &nats.purger, &PURGER).await;
    try_as(&stack, &nats.service, &SERVICE).await;
    stack.down().await;
}

#[tokio::test]
async fn a_connection_needs_a_password_and_setup_can_neither_delete_nor_empty_requests_or_answers() {
    let route = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n";
    let stack = Stack::builder().config(route).start().await.unwrap();
    assert!(async_nats::connect(stack.nats_url()).await.is_err());
    let broker = tidegate_cli::stack::setup::connect(stack.config()).await.unwrap();
    for stream in ["TIDE_PARK", "TIDE_REPLY", "TIDE_DEAD", "TIDE_IN_echo"] {
        assert!(broker.jetstream().delete_stream(stream).await.is_err());
        assert!(broker.purge_below(stream, 1).await.is_err());
        let stream = broker.jetstream().get_stream(stream).await.unwrap();
        assert!(stream.delete_message(1).await.is_err());
    }
    for refused in ["DELETE.TIDE_IN_echo", "PURGE.TIDE_IN_echo", "MSG.DELETE.TIDE_IN_echo"] {
        let refused = format!("$JS.API.STREAM.{refused}");
        eventually("the broker says so", || stack.log_of("nats").contains(&refused)).await;
    }
    stack.down().await;
}
