//! Who may do what in personal, private and user-limited channels, for every user and every combination of keys.

use std::sync::LazyLock;

use proptest::prelude::*;
use tidegate_shared::config::Audience;

use super::*;

const ACTIONS: [Action; 4] = [Action::Subscribe, Action::Publish, Action::History, Action::Presence];

/// Rules with one namespace, `mine`.
fn rules(change: impl FnOnce(&mut Namespace)) -> Rules {
    let mut config = Config::load(None, &[]).unwrap();
    let mut namespace = config.all_namespaces().swap_remove(0);
    namespace.name = "mine".to_owned();
    change(&mut namespace);
    config.namespaces = vec![namespace];
    let verifier = Verifier::new(&config).ok().unwrap();
    Rules::new(&config, verifier, GatewayId::random())
}

fn claim(user: Option<&str>, subscribed: bool, token: bool) -> Claim<'_> {
    Claim { user, subscribed, token }
}

fn is_closed(access: Option<Access>) -> bool {
    matches!(access, Some(Access::Denied(_)))
}

/// The rules of a namespace with personal channels decide what a user id is.
fn is_user_id(user: &str) -> bool {
    static RULES: LazyLock<Rules> = LazyLock::new(|| rules(|namespace| namespace.personal = true));
    RULES.verifier.is_user_id(user)
}

/// User ids of every kind: directory names with commas, hashes, spaces inside, letters of several bytes, long ones.
fn user() -> impl Strategy<Value = String> {
    let odd = "[a,#$:*>. =é💥]{1,12}";
    let long = (200_usize..300).prop_map(|length| "é".repeat(length / 2) + &"x".repeat(length % 2));
    prop_oneof![odd.prop_map(String::from), "\\PC{1,20}", long, Just("cn=a,dc=b".to_owned())]
        .prop_filter("it can be a user id", |user| is_user_id(user))
}

/// Users whose ids are parts of one another.
fn two_users() -> impl Strategy<Value = (String, String)> {
    let parts = |user: String| {
        let part = user.split([',', '#', ' ', '$', ':']).next_back().unwrap_or_default().to_owned();
        (user, part)
    };
    let around = |(user, before): (String, String)| (format!("{before},{user}#{user}"), user);
    prop_oneof![(user(), user()), user().prop_map(parts), (user(), user()).prop_map(around)]
        .prop_filter("two users", |(one, other)| one != other && is_user_id(one) && is_user_id(other))
}

fn audiences() -> impl Strategy<Value = [Audience; 4]> {
    let one_of = |values: &'static [Audience]| proptest::sample::select(values.to_vec());
    let read = Audience::READ;
    (one_of(Audience::SUBSCRIBE), one_of(Audience::PUBLISH), one_of(read), one_of(read))
        .prop_map(|(subscribe, publish, history, presence)| [subscribe, publish, history, presence])
}

fn set(namespace: &mut Namespace, [subscribe, publish, history, presence]: [Audience; 4]) {
    namespace.allow_subscribe = subscribe;
    namespace.allow_publish = publish;
    namespace.allow_history = history;
    namespace.allow_presence = presence;
}

proptest! {
    #[test]
    fn a_personal_channel_is_open_to_its_user_alone(
        (owner, other) in two_users(), audiences in audiences(),
        user_limited: bool, subscribed: bool, token: bool,
    ) {
        let rules = rules(|namespace| {
            set(namespace, audiences);
            namespace.personal = true;
            namespace.user_limited = user_limited;
        });
        let own: Vec<Channel> = rules.automatic(Some(&owner)).collect();
        prop_assert_eq!(own.iter().map(Channel::name).collect::<Vec<_>>(), [format!("#{owner}"), format!("mine:#{owner}")]);
        for channel in &own {
            let parsed = Channel::parse(channel.name()).ok();
            prop_assert_eq!(parsed.as_ref(), Some(channel), "the name is a channel's name");
            for action in ACTIONS {
                for stranger in [Some(other.as_str()), None] {
                    let access = rules.access(action, channel, claim(stranger, subscribed, token));
                    prop_assert!(is_closed(access), "{:?} {:?}: {:?}", stranger, action, access);
                }
            }
        }
        let reading = rules.access(Action::History, &own[0], claim(Some(&owner), true, false));
        prop_assert_eq!(reading, Some(Access::Granted));
        let subscribing = rules.access(Action::Subscribe, &own[1], claim(Some(&owner), false, false));
        prop_assert_eq!(subscribing, Some(Access::Granted));
    }

    #[test]
    fn what_a_private_channel_carries_comes_from_and_goes_to_its_subscribers_alone(
        rest in "[a#,:]{0,5}", user in user(), audiences in audiences(), user_limited: bool, token: bool, authenticated: bool,
    ) {
        let rules = rules(|namespace| {
            set(namespace, audiences);
            namespace.user_limited = user_limited;
        });
        let channel = Channel::parse(&format!("mine:${rest}")).unwrap();
        let user = authenticated.then_some(user.as_str());
        for action in [Action::Publish, Action::History, Action::Presence] {
            let access = rules.access(action, &channel, claim(user, false, token));
            prop_assert!(is_closed(access), "{:?}: {:?}", action, access);
        }
        prop_assert!(is_closed(rules.access(Action::Subscribe, &channel, claim(user, false, false))));
    }

    #[test]
    fn a_channel_for_some_users_takes_nothing_from_other_users(
        listed in "[a-c]{1,3}", other in "[a-d]{1,4}", audiences in audiences(), subscribed: bool, token: bool,
    ) {
        prop_assume!(listed != other);
        let rules = rules(|namespace| {
            set(namespace, audiences);
            namespace.user_limited = true;
        });
        for name in [format!("mine:room#{listed}"), format!("mine:#{listed},x")] {
            let channel = Channel::parse(&name).unwrap();
            for action in ACTIONS {
                for stranger in [Some(other.as_str()), None] {
                    prop_assert!(is_closed(rules.access(action, &channel, claim(stranger, subscribed, token))));
                }
            }
        }
    }
}

#[test]
fn subscribers_publish_into_a_private_channel_as_the_rule_of_its_namespace_says() {
    let channel = Channel::parse("mine:$vip").unwrap();
    for (audience, access) in [
        (Audience::Authenticated, Access::Granted),
        (Audience::Subscriber, Access::Granted),
        (Audience::Anyone, Access::Granted),
        (Audience::Hook, Access::Ask),
        (Audience::Nobody, Access::Denied(Denial::Rule)),
    ] {
        let rules = rules(|namespace| namespace.allow_publish = audience);
        let decided = rules.access(Action::Publish, &channel, claim(Some("42"), true, false));
        assert_eq!(decided, Some(access), "{audience:?}");
    }
}

#[test]
fn the_longest_user_id_has_personal_channels_and_a_longer_one_is_no_user_id() {
    for (personal, longest) in [(false, 254), (true, 255 - "mine:#".len())] {
        let rules = rules(|namespace| namespace.personal = personal);
        let user = "x".repeat(longest);
        assert!(rules.verifier.is_user_id(&user) && !rules.verifier.is_user_id(&format!("{user}x")));
        assert_eq!(rules.automatic(Some(&user)).count(), 1 + usize::from(personal));
        for channel in rules.automatic(Some(&user)) {
            assert_eq!(Channel::parse(channel.name()), Ok(channel));
        }
    }
}
