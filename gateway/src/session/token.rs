//! Subscription tokens: whether this client may receive a channel, and until when. `sub_refresh` brings a fresh one.

use std::time::Instant;

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    protocol::{Reply, SubRefreshRequest, SubRefreshResult, codes},
};

use super::{
    Connected, Effect, Effects, Now, Phase, Session, refuse, refuse_withdrawn_key, refuse_without_key,
    validity::{Renewer, Validity},
};
use crate::policy::{
    rules::{Access, Action},
    tokens::{Invalid, Permit},
};

/// What a token or a back end grants with a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// The connection's info in this channel.
    pub(super) info: Bytes,
    /// Data for the client in the reply to `subscribe`.
    pub(super) data: Bytes,
    /// How long the subscription is valid.
    pub(super) validity: Validity,
}

impl Session {
    /// Decides whether the client may receive `channel`. Returns `None` if a back end has to be asked, and the refusal
    /// as an error.
    pub(super) fn admit(
        &mut self,
        id: u32,
        channel: &Channel,
        token: &str,
        now: Now,
    ) -> Result<Option<Terms>, Effects> {
        match self.access(Action::Subscribe, channel, !token.is_empty()) {
            None => Err(refuse(id, codes::UNKNOWN_CHANNEL)),
            Some(Access::Denied(denial)) => Err(refuse(id, denial.error())),
            Some(Access::Ask) => Ok(None),
            Some(Access::Granted) if token.is_empty() => Ok(Some(Terms::default())),
            Some(Access::Granted) => {
                let permit = self.permit(id, token, now)?;
                self.terms(permit, channel.name(), now).map(Some)
            }
        }
    }

    pub(super) fn sub_refresh(&mut self, id: u32, request: &SubRefreshRequest, now: Now) -> Effects {
        if request.token.is_empty() {
            return self.close(codes::BAD_PROTOCOL);
        }
        self.sub_refreshed(id, request, now).unwrap_or_else(|refusal| refusal)
    }

    fn sub_refreshed(&mut self, id: u32, request: &SubRefreshRequest, now: Now) -> Result<Effects, Effects> {
        let permit = self.permit(id, &request.token, now)?;
        // Some SDKs leave the channel out; the token names it too.
        let name = if request.channel.is_empty() { permit.channel.clone() } else { request.channel.clone() };
        if name.is_empty() {
            return Err(self.close(codes::BAD_PROTOCOL));
        }
        let terms = self.terms(permit, &name, now)?;
        let ttl = terms.validity.ttl;
        let result = SubRefreshResult { expires: ttl.is_some(), ttl: ttl.unwrap_or_default() };
        let Phase::Connected(connected) = &mut self.phase else { return Ok(Vec::new()) };
        let renewed =
            Channel::parse(&name).is_ok_and(|channel| connected.subscriptions.renew(&channel, terms));
        if !renewed {
            return Err(refuse(id, codes::PERMISSION_DENIED.because("not subscribed")));
        }
        Ok(vec![Effect::Reply(Reply { id, sub_refresh: Some(result), ..Reply::default() })])
    }

    fn permit(&self, id: u32, token: &str, now: Now) -> Result<Permit, Effects> {
        self.rules.verifier.verify_subscription(token, now.unix.as_secs()).map_err(|invalid| match invalid {
            Invalid::Expired => refuse(id, codes::TOKEN_EXPIRED),
            Invalid::Forged => refuse(id, codes::PERMISSION_DENIED.because("not a subscription token")),
            Invalid::UnknownKey { issuer } => refuse_without_key(id, issuer),
            Invalid::WithdrawnKey { issuer } => refuse_withdrawn_key(id, issuer),
        })
    }

    /// A token for another user, client or channel is permanent, so it ends the connection.
    fn terms(&mut self, permit: Permit, channel: &str, now: Now) -> Result<Terms, Effects> {
        let Phase::Connected(connected) = &self.phase else { return Err(Vec::new()) };
        let fits = connected.user == permit.user
            && permit.channel == channel
            && permit.client.as_deref().is_none_or(|client| client == self.client.as_str());
        if !fits {
            self.rules.verifier.note_mismatch("subscription", now.unix.as_secs());
            return Err(self.close(codes::INVALID_TOKEN));
        }
        let validity = self.validity(permit.expires_at, Renewer::Client, now);
        Ok(Terms { info: permit.info, data: permit.data, validity })
    }
}

impl Connected {
    /// Ends the expired subscriptions.
    pub(super) fn expire_subscriptions(&mut self, now: Instant) -> Effects {
        self.subscriptions.take_expired(now).into_iter().flat_map(expired).collect()
    }
}

/// Leaves the channel first, so that no publication follows the push that ends the subscription.
pub(super) fn expired(channel: Channel) -> [Effect; 2] {
    let push = codes::UNSUBSCRIBED_EXPIRED.push(channel.name());
    [Effect::Leave { channel }, Effect::Reply(push)]
}
