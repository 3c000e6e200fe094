//! Channels: the name that a client writes, and the namespace and the subject token it maps to.
//!
//! Each channel has exactly one name. Permissions are decided elsewhere.

use crate::token::Token;

/// The namespace of channels whose name has no colon.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The namespace of personal channels. A channel's name cannot contain it.
pub const USER_NAMESPACE: &str = "user";
/// The longest name of a channel, in bytes.
pub const MAX_CHANNEL_LEN: usize = 255;

/// Why a name is not a channel name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The name is longer than [`MAX_CHANNEL_LEN`] bytes.
    #[error("a channel name has at most {MAX_CHANNEL_LEN} bytes")]
    TooLong,
    /// The name contains control characters.
    #[error("a channel name has no control characters")]
    Control,
    /// The name contains the namespace `default` or `user`, whose channels are written without it.
    #[error("write the channel without `default:`, or the personal channel as `#<user>`")]
    Reserved,
    /// The name ends after the namespace.
    #[error("a channel name needs something after its namespace")]
    Nameless,
}

/// A well-formed channel name with its namespace and its subject token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Channel {
    name: Box<str>,
    namespace: Box<str>,
    token: Token,
}

impl Channel {
    /// Parses a channel name: `<namespace>:<rest>`, `#<user>`, or a name of the default namespace.
    pub fn parse(name: &str) -> Result<Self, ChannelError> {
        if name.len() > MAX_CHANNEL_LEN {
            return Err(ChannelError::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(ChannelError::Control);
        }
        let (namespace, rest) = match (name.strip_prefix('#'), name.split_once(':')) {
            (Some(user), _) => (USER_NAMESPACE, user),
            (None, Some((DEFAULT_NAMESPACE | USER_NAMESPACE, _))) => return Err(ChannelError::Reserved),
            (None, Some((namespace, rest))) => (namespace, rest),
            (None, None) => (DEFAULT_NAMESPACE, name),
        };
        if rest.is_empty() {
            return Err(ChannelError::Nameless);
        }
        Ok(Self { name: name.into(), namespace: namespace.into(), token: Token::encode(rest) })
    }

    /// Returns the personal channel `#<user>`.
    pub fn personal(user: &str) -> Self {
        Self { name: format!("#{user}").into(), namespace: USER_NAMESPACE.into(), token: Token::encode(user) }
    }

    /// Returns the name as the client wrote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the channel's namespace, which the configuration may not declare.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the channel's token in the subjects of its namespace.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Whether clients need a subscription token for the channel. They do when the part after the namespace begins with `$`.
    pub fn is_private(&self) -> bool {
        let rest = self.name.split_once(':').map_or(&*self.name, |(_, rest)| rest);
        self.personal_user().is_none() && rest.starts_with('$')
    }

    /// If the name limits the channel to users, returns whether `user` is one of them; otherwise `None`. The users stand behind
    /// the last `#`, separated by commas. This is for namespaces with `user_limited = true`; personal channels belong to one user,
    /// see [`Self::further_personal_user`].
    pub fn lists(&self, user: Option<&str>) -> Option<bool> {
        if self.personal_user().is_some() {
            return None;
        }
        let rest = self.name.split_once(':').map_or(&*self.name, |(_, rest)| rest);
        let (_, users) = rest.rsplit_once('#')?;
        Some(user.is_some_and(|user| !user.is_empty() && users.split(',').any(|listed| listed == user)))
    }

    /// Returns the user whose personal channel this is, or `None` for any other channel.
    pub fn personal_user(&self) -> Option<&str> {
        (&*self.namespace == USER_NAMESPACE).then(|| self.name.strip_prefix('#')).flatten()
    }

    /// Returns the user whose channel this is if its namespace has `personal = true`: everything behind a `#` that directly
    /// follows the namespace. A user id may contain commas and further `#`.
    pub fn further_personal_user(&self) -> Option<&str> {
        let (_, rest) = self.name.split_once(':').filter(|_| self.personal_user().is_none())?;
        rest.strip_prefix('#')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Result<(String, String), ChannelError> {
        Channel::parse(name).map(|c| (c.namespace().to_owned(), c.token().to_string()))
    }

    #[test]
    fn a_name_maps_to_one_namespace_and_token() {
        assert_eq!(place("lobby"), Ok(("default".into(), "lobby".into())));
        assert_eq!(place("chat:lobby"), Ok(("chat".into(), "lobby".into())));
        assert_eq!(place("chat:a:b"), Ok(("chat".into(), "a=3Ab".into())));
        assert_eq!(place("#42"), Ok(("user".into(), "42".into())));
        assert_eq!(place(">"), Ok(("default".into(), "=3E".into())));
    }

    #[test]
    fn a_dollar_behind_the_namespace_makes_a_channel_private() {
        let private = |name: &str| Channel::parse(name).unwrap().is_private();
        assert!(private("$vip") && private("chat:$vip") && private("chat:$a:b"));
        assert!(!private("vip$") && !private("chat:vip") && !private("chat:a:$b") && !private("#$42"));
        assert!(!private("#a:$b"));
    }

    #[test]
    fn a_further_personal_channel_belongs_to_everything_behind_its_hash() {
        let of = |name: &str| Channel::parse(name).unwrap().further_personal_user().map(str::to_owned);
        assert_eq!(of("mine:#42").as_deref(), Some("42"));
        assert_eq!(of("mine:#cn=a,dc=b").as_deref(), Some("cn=a,dc=b"));
        assert_eq!(of("mine:#x#42").as_deref(), Some("x#42"));
        assert_eq!(of("mine:#a:b").as_deref(), Some("a:b"));
        for name in ["mine:room#42", "mine:$#42", "room#42", "#42", "#a:#42"] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn users_behind_the_last_hash_are_the_only_ones_listed() {
        let lists = |name: &str, user| Channel::parse(name).unwrap().lists(user);
        for (name, user) in
            [("chat#42", "42"), ("dialogs:room#42,43", "43"), ("a#1#42", "42"), ("chat:#42", "42")]
        {
            assert_eq!(lists(name, Some(user)), Some(true), "{name}");
        }
        for (name, user) in [
            ("chat#42", "4"),
            ("chat#42", "2"),
            ("a#1#42", "1"),
            ("chat#4*", "42"),
            ("chat#*", "42"),
            ("chat#>", "42"),
            ("chat#42.43", "42"),
            ("chat#42, 43", "43"),
            ("chat#", ""),
            ("chat#42,", ""),
        ] {
            assert_eq!(lists(name, Some(user)), Some(false), "{name}");
        }
        assert_eq!(lists("chat#42", None), Some(false));
        assert_eq!(lists("chat#", None), Some(false));
        assert_eq!(lists("chat:lobby", Some("42")), None);
        assert_eq!(lists("#42", Some("42")), None, "a personal channel is something else");
    }

    proptest::proptest! {
        #[test]
        fn no_name_lists_a_user_that_is_not_spelled_out_in_it(name in "[a-c:]{0,3}#[abc,.*>#]{0,8}", user in "[abc.*>]{1,3}") {
            let Ok(channel) = Channel::parse(&name) else { return Ok(()) };
            let Some(listed) = channel.lists(Some(&user)) else { return Ok(()) };
            let spelled_out = format!(",{},", name.rsplit('#').next().unwrap()).contains(&format!(",{user},"));
            proptest::prop_assert_eq!(listed, spelled_out);
        }
    }

    #[test]
    fn names_that_would_be_a_second_name_are_refused() {
        assert_eq!(place("default:x"), Err(ChannelError::Reserved));
        assert_eq!(place("user:42"), Err(ChannelError::Reserved));
        assert_eq!(place("chat:"), Err(ChannelError::Nameless));
        assert_eq!(place("#"), Err(ChannelError::Nameless));
        assert_eq!(place(&"x".repeat(256)), Err(ChannelError::TooLong));
        assert_eq!(place("a\nb"), Err(ChannelError::Control));
    }
}
