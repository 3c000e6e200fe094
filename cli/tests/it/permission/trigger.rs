//! What each user may call that gets an answer: the ways to have somebody else publish on a subject of one's choice.

use async_nats::HeaderMap;
use serde_json::json;
use tidegate_shared::access::Account;

/// A call whose answer goes wherever the caller says.
#[derive(Debug)]
pub(super) struct Trigger {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

fn call(subject: impl Into<String>, body: &(impl ToString + ?Sized)) -> Trigger {
    Trigger { subject: subject.into(), headers: HeaderMap::new(), body: body.to_string() }
}

/// A publish that the stream refuses: the answer is the refusal, and nothing is stored.
fn refused(subject: &str) -> Trigger {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", "NONE");
    Trigger { headers, ..call(subject, "") }
}

/// Where the body of the target with this number is stored, for a user who reads it back.
pub(super) fn store_of(account: Account, number: usize) -> Option<String> {
    match account {
        Account::Gateway => Some(format!("tide.ch.chat.body{number}")),
        Account::Worker => Some(format!("tide.reply.gw.body{number}")),
        _ => None,
    }
}

/// The triggers of one user. The answer has the body if the user can bring that about.
pub(super) fn all(account: Account, number: usize, body: &str) -> Vec<Trigger> {
    let stored = store_of(account, number).unwrap_or_default();
    match account {
        Account::Gateway => vec![
            call(format!("$JS.API.DIRECT.GET.TIDE_CH_chat.{stored}"), ""),
            call("$JS.API.DIRECT.GET.TIDE_CH_chat", &json!({"last_by_subj": stored})),
            call("$JS.API.DIRECT.GET.TIDE_CH_chat", &json!({"multi_last": [stored]})),
            call("$JS.API.STREAM.INFO.TIDE_CH_chat", ""),
            refused("tide.in.rpc.echo.1.gw.refused"),
            refused("tide.ch.chat.refused"),
            refused("tide.presence.gateway.refused"),
            call("$JS.API.DIRECT.GET.TIDE_IN_echo.tide.in.rpc.echo.1.gw.a", ""),
            call("$JS.API.DIRECT.GET.TIDE_PARK.tide.park.k.a", ""),
            call("tide.hook.connect", body),
            call("tide.peer.gw", body),
            call("tide.emulate.gw", body),
            call("tide.barrier", body),
        ],
        Account::Worker => vec![
            call(format!("$JS.API.DIRECT.GET.TIDE_REPLY.{stored}"), ""),
            call("$JS.API.CONSUMER.INFO.TIDE_IN_echo.echo", ""),
            call("$JS.API.CONSUMER.MSG.NEXT.TIDE_PARK.echo", &json!({"batch": 1, "no_wait": true})),
            refused("tide.ch.chat.refused"),
            refused("tide.reply.gw.refused"),
            refused("tide.park.gw.refused"),
            refused("tide.dead.default.refused"),
            call("$JS.API.DIRECT.GET.TIDE_PARK.tide.park.k.a", ""),
            call("tide.answer.gw.a", body),
        ],
        Account::Service => {
            vec![call("tide.ctl.info", body), call("tide.push.all", body), refused("tide.ch.chat.refused")]
        }
        Account::Purger => vec![
            call("$JS.API.STREAM.INFO.TIDE_IN_echo", ""),
            call("$JS.API.STREAM.PURGE.TIDE_IN_echo", &json!({"seq": 1})),
            call("$JS.API.CONSUMER.INFO.TIDE_IN_echo.echo", ""),
        ],
        Account::Setup => vec![
            call("$JS.API.STREAM.INFO.TIDE_IN_echo", ""),
            call("$JS.API.STREAM.CREATE.TIDE_IN_echo", "not JSON"),
            call("$JS.API.STREAM.DELETE.TIDE_CH_chat", "refused because of this body"),
            call("$JS.API.CONSUMER.INFO.TIDE_IN_echo.echo", ""),
            call("$JS.API.CONSUMER.CREATE.TIDE_IN_echo.echo", "not JSON"),
        ],
        Account::Ops => vec![
            call("$JS.API.STREAM.INFO.TIDE_IN_echo", ""),
            call("$JS.API.STREAM.LIST", ""),
            call("$JS.API.STREAM.NAMES", ""),
            call("$JS.API.CONSUMER.INFO.TIDE_IN_echo.echo", ""),
            call("$JS.API.CONSUMER.LIST.TIDE_IN_echo", ""),
            call("$JS.API.CONSUMER.NAMES.TIDE_IN_echo", ""),
        ],
        Account::Store => Vec::new(),
    }
}
