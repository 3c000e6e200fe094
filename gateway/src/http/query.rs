//! Reads query parameters. Pure. Unknown parameters are ignored, since clients add their own.

use bytes::Bytes;

/// The parameter with the first message of clients that can only send GET.
const FIRST_MESSAGE: &str = "cf_connect";

/// Whether the query contains one of the pairs, unescaped.
pub(super) fn has(query: Option<&str>, pairs: &[&str]) -> bool {
    query.unwrap_or_default().split('&').any(|pair| pairs.contains(&pair))
}

/// The client's first message, if the query has one.
pub(crate) fn first_message(query: Option<&str>) -> Option<Bytes> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == FIRST_MESSAGE).map(|(_, value)| decoded(value))
}

/// Undoes percent encoding. An invalid escape is kept as it is.
fn decoded(value: &str) -> Bytes {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => {
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, behind))
            }
            (b'+', _) => Some((b' ', behind)),
            _ => None,
        };
        let (byte, behind) = escaped.unwrap_or((byte, behind));
        bytes.push(byte);
        rest = behind;
    }
    bytes.into()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_message_is_decoded() {
        let message = |query| first_message(Some(query));
        assert_eq!(message("a=1&cf_connect=%7B%22id%22%3a1%7D").unwrap(), r#"{"id":1}"#);
        assert_eq!(message("cf_connect=a+b%20c%2B").unwrap(), "a b c+");
        assert_eq!(message("cf_connect=100%&x").unwrap(), "100%");
        assert_eq!(message("cf_connect=%zz%4").unwrap(), "%zz%4");
        assert_eq!(message("cf_connect=").unwrap(), "");
        assert_eq!(message("other=1"), None);
        assert_eq!(first_message(None), None);
    }

    #[test]
    fn a_pair_is_there_or_not() {
        assert!(has(Some("a=1&format=protobuf"), &["format=protobuf"]));
        assert!(!has(Some("format=protobuf2"), &["format=protobuf"]));
        assert!(!has(None, &["format=protobuf"]));
    }
}
