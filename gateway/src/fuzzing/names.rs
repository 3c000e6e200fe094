//! Names that are chosen outside: channels, methods, patterns, ids, and the subjects they become.

use tidegate_shared::{
    channel::Channel,
    id::{ClientId, GatewayId, RequestId},
    route::{Method, Pattern},
    subject::{Subjects, part},
    token::Token,
};

/// Two names and a subject, separated by NUL.
pub(super) fn names(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let mut parts = text.splitn(3, '\0');
    let (one, other) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    tokens(one, other);
    channels(one, other);
    methods(one, other);
    subjects(parts.next().unwrap_or(one));
}

fn is_plain(token: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=".contains(&byte);
    !token.is_empty() && token.len() <= 120 && token.bytes().all(plain)
}

fn tokens(one: &str, other: &str) {
    let token = Token::encode(one);
    assert!(is_plain(token.as_str()), "{token:?}");
    assert_eq!(token == Token::encode(other), one == other, "no two names share a token");
    if let Some(back) = Token::decode(token.as_str()) {
        assert_eq!(back, one);
    }
    if let Some(name) = Token::decode(one) {
        assert!(!one.contains(['.', '*', '>', ' ']), "{one} is no token and means {name}");
    }
}

fn channels(one: &str, other: &str) {
    let subjects = Subjects::new("tide");
    let Ok(channel) = Channel::parse(one) else { return };
    assert_eq!(channel.name(), one, "a name is never changed");
    assert!(is_plain(channel.token().as_str()));
    // An undeclared namespace is refused before a subject is made of it.
    if is_plain(channel.namespace()) && !channel.namespace().contains('=') {
        let (stored, live) = (subjects.channel(&channel), subjects.live(&channel));
        for subject in [&stored, &live] {
            assert_eq!(subject.split('.').count(), 4, "{subject}");
            assert!(subject.split('.').all(is_plain), "{subject}");
        }
        let key = format!("{}.{}", channel.namespace(), channel.token());
        assert_eq!(subjects.live_key(&live), Some(key.as_str()));
        if let Ok(second) = Channel::parse(other) {
            assert_eq!(
                subjects.channel(&second) == stored,
                second.name() == one,
                "no two channels share a subject"
            );
        }
    }
    if let Some(user) = channel.personal_user() {
        assert_eq!(Channel::personal(user), channel);
        assert!(!channel.is_private() && channel.lists(Some(user)).is_none());
    }
    assert_ne!(channel.lists(None), Some(true), "nobody is listed");
    assert_ne!(channel.lists(Some("")), Some(true));
}

fn methods(one: &str, other: &str) {
    let pattern = one.parse::<Pattern>().ok();
    if let Some(pattern) = &pattern {
        assert_eq!(pattern.to_string().parse::<Pattern>().as_ref(), Ok(pattern));
        assert!(pattern.overlaps(pattern));
    }
    if let (Some(a), Ok(b)) = (&pattern, other.parse::<Pattern>()) {
        assert_eq!(a.overlaps(&b), b.overlaps(a));
        if let Some(method) = b.only_method() {
            assert_eq!(a.matches(&method), a.overlaps(&b), "{one} and {other}");
        }
    }
    let Ok(method) = Method::parse(other) else { return };
    assert!(!method.name.is_empty() && method.key.is_none_or(|key| !key.is_empty()));
    assert!(method.name.split('.').all(|word| !word.is_empty()));
    let keyed = RequestId::keyed(one, method.name, method.key.unwrap_or_default());
    assert!(keyed.is_keyed() && RequestId::parse(keyed.as_str()).as_ref() == Some(&keyed));
    if let Some(pattern) = pattern.filter(|pattern| pattern.matches(method.name)) {
        for name in pattern.names() {
            let word = pattern.capture(method.name, name).expect("a matching method has every word");
            assert!(!word.is_empty() && !word.contains('.'));
        }
    }
}

fn subjects(subject: &str) {
    let subjects = Subjects::new("tide");
    if let Some(id) = RequestId::parse(subject) {
        assert_eq!(id.as_str(), subject);
        assert!(subject.split('.').count() == 2 && !subject.contains(['*', '>', ' ']));
        assert_eq!(Subjects::id_in(&subjects.reply(&id)), Some(subject));
        assert_eq!(Subjects::id_in(&subjects.park(&id)), Some(subject));
    }
    if let Some(client) = ClientId::parse(subject) {
        assert_eq!(GatewayId::parse(client.gateway().as_str()), Some(client.gateway()));
        assert_eq!(subjects.push_client(&client).split('.').count(), 5);
    }
    if let Some(gateway) = Subjects::gateway_in(subject) {
        assert_eq!(Subjects::gateway_in(&subjects.lease(&gateway)), Some(gateway));
    }
    if let Some(due) = subjects.due(subject) {
        let again = subjects.again(&due).expect("a due subject leads back");
        assert_eq!(subjects.due(&again), Some(due));
    }
    let _ = (subjects.here_key(subject), subjects.live_key(subject), Subjects::is_inbox(subject));
    let _ = (subjects.again(subject), Subjects::id_in(subject), part(subject));
    assert!(subjects.words(subject).is_none_or(|words| words.count() > 0));
    assert!(subject.ends_with(Subjects::last_token(subject)));
}
