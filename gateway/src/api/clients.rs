//! `subscribe`, `unsubscribe`, `disconnect`, `refresh`: orders for connections on any gateway.

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_shared::{
    channel::Channel,
    protocol::{
        Error,
        codes::{self, Disconnect},
        json,
    },
};

use super::{Api, ApiResult, EmptyResult, incomplete, local::PeerQuestion, raw};
use crate::outbox::order::{Action, Order};

/// The longest reason in bytes: the room in a close frame.
const LONGEST_REASON: usize = 123;

/// There are no overrides: the namespace says what a subscription can do.
#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SubscribeParams {
    channel: String,
    user: String,
    client: String,
    session: String,
    #[serde(with = "json::note")]
    info: Bytes,
    b64info: String,
    #[serde(with = "json::note")]
    data: Bytes,
    b64data: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UnsubscribeParams {
    channel: String,
    user: String,
    client: String,
    session: String,
    code: Option<u32>,
    reason: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DisconnectParams {
    user: String,
    client: String,
    session: String,
    whitelist: Vec<String>,
    disconnect: Option<Close>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Close {
    code: u32,
    reason: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RefreshParams {
    user: String,
    client: String,
    session: String,
    expired: bool,
    expire_at: u64,
    #[serde(with = "json::note")]
    info: Bytes,
    b64info: String,
}

impl Api {
    pub(super) async fn subscribe(&self, request: SubscribeParams) -> ApiResult {
        let channel = self.shared_channel(&request.channel)?;
        let info = either("info", request.info, &request.b64info)?;
        let data = either("data", request.data, &request.b64data)?;
        let action = Action::Subscribe { channel: channel.name().to_owned(), info, data };
        let SubscribeParams { user, client, session, .. } = request;
        self.order(Order { user, client, session, whitelist: Vec::new(), action }).await
    }

    pub(super) async fn unsubscribe(&self, request: UnsubscribeParams) -> ApiResult {
        let channel = self.shared_channel(&request.channel)?.name().to_owned();
        let code = request.code.unwrap_or(codes::UNSUBSCRIBED_BY_SERVER.code);
        if !(2000..3000).contains(&code) {
            return Err(codes::BAD_REQUEST.because("an unsubscription's code is between 2000 and 2999"));
        }
        let known = codes::UNSUBSCRIPTIONS.iter().find(|known| known.code == code);
        let general = known.unwrap_or(&codes::UNSUBSCRIBED_BY_SERVER);
        let reason = reason(request.reason, general.reason)?;
        let action = Action::Unsubscribe { channel, code, reason };
        let UnsubscribeParams { user, client, session, .. } = request;
        self.order(Order { user, client, session, whitelist: Vec::new(), action }).await
    }

    pub(super) async fn disconnect(&self, request: DisconnectParams) -> ApiResult {
        let action = match request.disconnect {
            None => ending(&codes::FORCE_DISCONNECT),
            Some(Close { code, reason: said }) => {
                let code = u16::try_from(code).unwrap_or_default();
                if !(3000..5000).contains(&code) {
                    return Err(codes::BAD_REQUEST.because("a disconnect's code is between 3000 and 4999"));
                }
                let known = codes::DISCONNECTS.iter().find(|known| known.code == code);
                let general = known.map_or("disconnected by a service", |known| &known.reason);
                Action::Disconnect { code, reason: reason(said, general)? }
            }
        };
        let DisconnectParams { user, client, session, whitelist, .. } = request;
        self.order(Order { user, client, session, whitelist, action }).await
    }

    /// Without parameters the connections have to reconnect with a fresh token.
    pub(super) async fn refresh(&self, request: RefreshParams) -> ApiResult {
        let info = either("info", request.info, &request.b64info)?;
        let action = if request.expired {
            ending(&codes::EXPIRED)
        } else if request.expire_at == 0 && info.is_empty() {
            ending(&codes::STATE_INVALIDATED)
        } else {
            Action::Refresh { expire_at: (request.expire_at > 0).then_some(request.expire_at), info }
        };
        let RefreshParams { user, client, session, .. } = request;
        self.order(Order { user, client, session, whitelist: Vec::new(), action }).await
    }

    /// Parses the name of a channel that is not personal.
    fn shared_channel(&self, name: &str) -> Result<Channel, Error> {
        let channel = self.channel(name)?;
        if self.rules.owner(&channel).is_some() {
            let why = "a personal channel is its user's alone, on every connection";
            return Err(codes::PERMISSION_DENIED.because(why));
        }
        Ok(channel)
    }

    async fn order(&self, order: Order) -> ApiResult {
        if [&order.user, &order.client, &order.session].iter().all(|name| name.is_empty()) {
            return Err(codes::BAD_REQUEST.because("say whose connections: user, client or session"));
        }
        let request = PeerQuestion::Order(order);
        self.local.answer(&request);
        let others =
            self.peers.ask(raw(&request)?).await.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        if others.silent > 0 {
            return Err(incomplete(others.silent));
        }
        raw(&EmptyResult {})
    }
}

fn ending(disconnect: &Disconnect) -> Action {
    Action::Disconnect { code: disconnect.code, reason: disconnect.reason.clone().into_owned() }
}

fn reason(said: String, general: &str) -> Result<String, Error> {
    if said.len() > LONGEST_REASON || said.chars().any(char::is_control) {
        return Err(codes::BAD_REQUEST.because("a reason is one line of at most 123 bytes"));
    }
    Ok(if said.is_empty() { general.to_owned() } else { said })
}

/// Reads JSON, plain or in base64. Other bytes are refused, since JSON clients receive it.
fn either(name: &str, json: Bytes, base64: &str) -> Result<Bytes, Error> {
    let refuse =
        |problem: &dyn std::fmt::Display| codes::BAD_REQUEST.because(format!("b64{name}: {problem}"));
    if base64.is_empty() {
        return Ok(json);
    }
    if !json.is_empty() {
        return Err(codes::BAD_REQUEST.because(format!("either {name} or b64{name}")));
    }
    let bytes = BASE64.decode(base64.as_bytes()).map_err(|error| refuse(&error))?;
    match serde_json::from_slice::<&RawValue>(&bytes) {
        Ok(_) => Ok(bytes.into()),
        Err(error) => Err(refuse(&format!("not JSON: {error}"))),
    }
}
