//! The decision whether a client may do something in a channel. Pure.

use tidegate_shared::{
    config::Audience,
    protocol::{Error, codes},
};

/// What a client wants to do in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Receive it.
    Subscribe,
    /// Publish into it.
    Publish,
    /// Read its past publications.
    History,
    /// Read its members.
    Presence,
}

impl Action {
    /// Whether it only reads.
    pub(super) fn is_reading(self) -> bool {
        matches!(self, Self::History | Self::Presence)
    }
}

/// What a client has to show for a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It is authenticated.
    pub(crate) authenticated: bool,
    /// It is subscribed to it.
    pub(crate) subscribed: bool,
    /// It sends a subscription token, which is verified later.
    pub(crate) token: bool,
    /// Whether the channel's name lists its user. `None` if the name lists no users.
    pub(crate) listed: Option<bool>,
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Granted,
    /// A back end decides.
    Ask,
    Denied(Denial),
}

/// Why access is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The namespace's rule denies it.
    Rule,
    /// The channel is for other users.
    NotListed,
    /// A subscription token is missing.
    NoToken,
}

impl Denial {
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Rule => codes::PERMISSION_DENIED.error(),
            Self::NotListed => codes::PERMISSION_DENIED.because("the channel is for other users"),
            Self::NoToken => codes::PERMISSION_DENIED.because("the channel needs a subscription token"),
        }
    }
}

/// Decides. `audience` is the namespace's rule for the action; `private` says that the channel's name requires a token.
pub(super) fn decide(action: Action, audience: Audience, private: bool, standing: Standing) -> Access {
    if standing.listed == Some(false) {
        return Access::Denied(Denial::NotListed);
    }
    match action {
        Action::Subscribe => subscribe(audience, private, standing),
        // Only subscribers, who have shown a token, read from a private channel or write into it.
        Action::History | Action::Presence | Action::Publish if private && !standing.subscribed => {
            Access::Denied(Denial::NoToken)
        }
        Action::History | Action::Presence | Action::Publish => by_rule(audience, standing),
    }
}

fn subscribe(audience: Audience, private: bool, standing: Standing) -> Access {
    let listed = standing.listed == Some(true);
    match audience {
        Audience::Nobody if !listed => Access::Denied(Denial::Rule),
        _ if standing.token => Access::Granted,
        _ if private => Access::Denied(Denial::NoToken),
        _ if listed => Access::Granted,
        Audience::Token => Access::Denied(Denial::NoToken),
        _ => by_rule(audience, standing),
    }
}

fn by_rule(audience: Audience, standing: Standing) -> Access {
    let granted = match audience {
        Audience::Nobody | Audience::Token => false,
        Audience::Authenticated => standing.authenticated,
        Audience::Anyone => true,
        Audience::Subscriber => standing.subscribed,
        Audience::Hook => return Access::Ask,
    };
    if granted { Access::Granted } else { Access::Denied(Denial::Rule) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRANTED: Access = Access::Granted;
    const RULE: Access = Access::Denied(Denial::Rule);
    const TOKEN: Access = Access::Denied(Denial::NoToken);

    const NOTHING: Standing =
        Standing { authenticated: false, subscribed: false, token: false, listed: None };
    const USER: Standing = Standing { authenticated: true, ..NOTHING };
    const MEMBER: Standing = Standing { subscribed: true, ..NOTHING };
    const WITH_TOKEN: Standing = Standing { token: true, ..NOTHING };

    #[test]
    fn subscribing_follows_the_audience_and_the_token() {
        for (audience, nothing, user, with_token) in [
            (Audience::Nobody, RULE, RULE, RULE),
            (Audience::Authenticated, RULE, GRANTED, GRANTED),
            (Audience::Anyone, GRANTED, GRANTED, GRANTED),
            (Audience::Token, TOKEN, TOKEN, GRANTED),
            (Audience::Hook, Access::Ask, Access::Ask, GRANTED),
        ] {
            let decided =
                [NOTHING, USER, WITH_TOKEN].map(|who| decide(Action::Subscribe, audience, false, who));
            assert_eq!(decided, [nothing, user, with_token], "{audience:?}");
            let token = if audience == Audience::Nobody { RULE } else { TOKEN };
            assert_eq!(decide(Action::Subscribe, audience, true, USER), token, "private, {audience:?}");
            assert_eq!(
                decide(Action::Subscribe, audience, true, WITH_TOKEN),
                with_token,
                "private, {audience:?}"
            );
        }
    }

    #[test]
    fn publishing_and_reading_follow_the_audience() {
        for (audience, nothing, user, member) in [
            (Audience::Nobody, RULE, RULE, RULE),
            (Audience::Authenticated, RULE, GRANTED, RULE),
            (Audience::Anyone, GRANTED, GRANTED, GRANTED),
            (Audience::Subscriber, RULE, RULE, GRANTED),
            (Audience::Hook, Access::Ask, Access::Ask, Access::Ask),
        ] {
            for action in [Action::Publish, Action::History, Action::Presence] {
                let decided = [NOTHING, USER, MEMBER].map(|who| decide(action, audience, false, who));
                assert_eq!(decided, [nothing, user, member], "{action:?} {audience:?}");
                assert_eq!(
                    decide(action, audience, false, WITH_TOKEN),
                    nothing,
                    "a token is for subscribing"
                );
            }
            for action in [Action::Publish, Action::History, Action::Presence] {
                assert_eq!(decide(action, audience, true, USER), TOKEN, "private, {action:?} {audience:?}");
                assert_eq!(
                    decide(action, audience, true, MEMBER),
                    member,
                    "private, {action:?} {audience:?}"
                );
            }
        }
    }

    #[test]
    fn listed_users_may_subscribe_except_to_a_private_channel_without_a_token() {
        let listed = Standing { listed: Some(true), ..USER };
        for audience in Audience::SUBSCRIBE {
            assert_eq!(decide(Action::Subscribe, *audience, false, listed), GRANTED, "{audience:?}");
            assert_eq!(decide(Action::Subscribe, *audience, true, listed), TOKEN, "{audience:?}");
        }
        assert_eq!(decide(Action::Publish, Audience::Nobody, false, listed), RULE, "other rules still apply");
    }

    proptest! {
        #[test]
        fn a_channel_that_lists_other_users_denies_everything(
            action in proptest::sample::select(
                vec![Action::Subscribe, Action::Publish, Action::History, Action::Presence]
            ),
            audience in proptest::sample::select(
                [Audience::SUBSCRIBE, Audience::PUBLISH, Audience::READ].concat()
            ),
            private: bool, authenticated: bool, subscribed: bool, token: bool,
        ) {
            let standing = Standing { authenticated, subscribed, token, listed: Some(false) };
            prop_assert_eq!(decide(action, audience, private, standing), Access::Denied(Denial::NotListed));
        }
    }
}
