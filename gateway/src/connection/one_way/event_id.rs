//! The encoding of an event cursor: short, with characters that a header may have, at most `MAX_LEN` bytes. Pure.
//!
//! Bytes in base64url: the version, a digest of the requested channels, the number of server-side channels, their names
//! and positions, then a position for each requested channel. A position is a number and an offset. The number stands
//! for an epoch: 0 for no position, 1 for a new epoch, which follows, 2 and more for those so far. Positions that do
//! not fit are left out at the end.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;

/// The longest id in bytes: every event has one, and a browser sends it back in a header.
pub(crate) const MAX_LEN: usize = 4096;
const MAX_BYTES: usize = MAX_LEN / 4 * 3;
const VERSION: u8 = 1;
/// The most bytes that the numbers of one entry take.
const ENTRY: usize = 24;
/// The bit of a byte which says that more bytes of the number follow.
const MORE: u8 = 0x80;
const NO_PLACE: u64 = 0;
const NEW_EPOCH: u64 = 1;

/// A digest of the requested channels, in their order.
pub(super) type Wishes = [u8; 6];

/// The position of a client in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChannelPlace {
    pub(super) epoch: Arc<str>,
    pub(super) offset: u64,
}

/// A decoded event id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EventId {
    pub(super) wishes: Wishes,
    /// The positions in server-side subscriptions, such as the personal channel.
    pub(super) given: Vec<(Box<str>, ChannelPlace)>,
    pub(super) places: Vec<Option<ChannelPlace>>,
}

impl EventId {
    pub(super) fn encode(&self) -> String {
        let mut writer = Writer { bytes: vec![VERSION], epochs: Vec::new() };
        writer.bytes.extend_from_slice(&self.wishes);
        // Names are long: they may take half of the id.
        let mut names = 0;
        let given = self.given.iter().take_while(|(name, place)| {
            names += name.len() + place.epoch.len() + ENTRY;
            names <= MAX_BYTES / 2
        });
        let given: Vec<_> = given.collect();
        writer.number(given.len() as u64);
        for (name, place) in given {
            writer.text(name);
            writer.place(Some(place));
        }
        for place in &self.places {
            let fits = writer.bytes.len();
            writer.place(place.as_ref());
            if writer.bytes.len() > MAX_BYTES {
                writer.bytes.truncate(fits);
                break;
            }
        }
        BASE64URL_NOPAD.encode(&writer.bytes)
    }

    /// Reads a client's event id. `None` if no gateway has written it.
    pub(super) fn decode(text: &str) -> Option<Self> {
        if text.len() > MAX_LEN {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        Reader { rest: &bytes, epochs: Vec::new() }.id().ok()
    }
}

struct Writer {
    bytes: Vec<u8>,
    epochs: Vec<Arc<str>>,
}

impl Writer {
    fn place(&mut self, place: Option<&ChannelPlace>) {
        let Some(place) = place else { return self.number(NO_PLACE) };
        if let Some(index) = self.epochs.iter().position(|epoch| *epoch == place.epoch) {
            self.number(NEW_EPOCH + 1 + index as u64);
        } else {
            self.number(NEW_EPOCH);
            self.text(&place.epoch);
            self.epochs.push(Arc::clone(&place.epoch));
        }
        self.number(place.offset);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Seven bits per byte, the lowest first; the eighth says that more follow.
    fn number(&mut self, mut number: u64) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                self.bytes.push(low);
                return;
            }
            self.bytes.push(low | MORE);
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    epochs: Vec<Arc<str>>,
}

/// The bytes are not an event id.
struct Unreadable;

impl<'a> Reader<'a> {
    fn id(mut self) -> Result<EventId, Unreadable> {
        if self.take(1)? != [VERSION] {
            return Err(Unreadable);
        }
        let wishes = self.take(size_of::<Wishes>())?.try_into().map_err(|_| Unreadable)?;
        let mut given = Vec::new();
        for _ in 0..self.number()? {
            given.push((self.text()?.into(), self.place()?.ok_or(Unreadable)?));
        }
        let mut places = Vec::new();
        while !self.rest.is_empty() {
            places.push(self.place()?);
        }
        Ok(EventId { wishes, given, places })
    }

    fn place(&mut self) -> Result<Option<ChannelPlace>, Unreadable> {
        let epoch = match self.number()? {
            NO_PLACE => return Ok(None),
            NEW_EPOCH => {
                let epoch: Arc<str> = self.text()?.into();
                self.epochs.push(Arc::clone(&epoch));
                epoch
            }
            known => {
                let index = usize::try_from(known - NEW_EPOCH - 1).map_err(|_| Unreadable)?;
                self.epochs.get(index).map(Arc::clone).ok_or(Unreadable)?
            }
        };
        Ok(Some(ChannelPlace { epoch, offset: self.number()? }))
    }

    fn text(&mut self) -> Result<&'a str, Unreadable> {
        let len = usize::try_from(self.number()?).map_err(|_| Unreadable)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| Unreadable)
    }

    fn number(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.take(1)? else { return Err(Unreadable) };
            let bits = u64::from(byte & !MORE);
            if bits << shift >> shift != bits {
                return Err(Unreadable);
            }
            number |= bits << shift;
            if byte & MORE == 0 {
                return Ok(number);
            }
        }
        Err(Unreadable)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Unreadable)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = ChannelPlace> {
        ("[0-9a-f]{1,16}|_", any::<u64>())
            .prop_map(|(epoch, offset)| ChannelPlace { epoch: epoch.into(), offset })
    }

    fn id(places: usize) -> impl Strategy<Value = EventId> {
        let given = prop::collection::vec(("#?\\PC{1,60}".prop_map(Box::from), place()), 0..4);
        let places = prop::collection::vec(prop::option::of(place()), 0..places);
        (any::<Wishes>(), given, places).prop_map(|(wishes, given, places)| EventId { wishes, given, places })
    }

    fn like(offset: u64, count: usize) -> EventId {
        let place = ChannelPlace { epoch: "18a0c3f2e4b6d700".into(), offset };
        EventId {
            given: vec![("#42".into(), place.clone())],
            places: vec![Some(place); count],
            ..EventId::default()
        }
    }

    #[test]
    fn an_id_is_short() {
        assert_eq!(like(5_000, 0).encode().len(), 43);
        assert_eq!(like(5_000_000, 1).encode().len(), 52);
        assert_eq!(like(5_000_000, 128).encode().len(), 899);
    }

    #[test]
    fn positions_that_do_not_fit_are_left_out_at_the_end() {
        let text = like(u64::MAX, 1000).encode();
        assert!(text.len() <= MAX_LEN && text.len() > MAX_LEN - 20, "{}", text.len());
        let read = EventId::decode(&text).unwrap();
        assert!(
            read.places.len() > 250 && read.places.iter().all(|place| *place == like(u64::MAX, 1).places[0])
        );
    }

    #[test]
    fn an_id_that_no_gateway_has_written_is_refused() {
        let text = like(7, 3).encode();
        for bad in
            ["", "1", "AQ", "~~~~", "42", "abc:7", &text[..20], &format!("{text}="), &"A".repeat(MAX_LEN + 4)]
        {
            assert_eq!(EventId::decode(bad), None, "{bad}");
        }
        let bytes = |bytes: &[u8]| EventId::decode(&BASE64URL_NOPAD.encode(bytes));
        let head = [1, 0, 0, 0, 0, 0, 0];
        assert!(bytes(&[&head[..], &[0]].concat()).is_some());
        for (tail, what) in [
            (&[0, 2, 5][..], "an epoch that was not defined"),
            (&[0, 1, 200, 1], "an epoch longer than the id"),
            (&[0, 1, 1, 0xff, 5], "an epoch that is no text"),
            (
                &[0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
                "a number that is too large",
            ),
            (&[1, 1, b'#', 0], "a server-side channel without a position"),
            (&[0xff, 0xff, 3, 0, 1, 0, 0], "fewer channels than it says"),
            (&[0xff], "half a number"),
        ] {
            assert_eq!(bytes(&[&head[..], tail].concat()), None, "{what}");
        }
        assert_eq!(bytes(&[2, 0, 0, 0, 0, 0, 0, 0]), None, "another version");
    }

    proptest! {
        #[test]
        fn an_id_survives_encoding_and_decoding(id in id(40)) {
            prop_assert_eq!(EventId::decode(&id.encode()), Some(id));
        }

        #[test]
        fn an_id_is_bounded_and_url_safe_and_keeps_the_first_positions(id in id(400)) {
            let text = id.encode();
            prop_assert!(text.len() <= MAX_LEN);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            let read = EventId::decode(&text).unwrap();
            prop_assert_eq!(&read.places[..], &id.places[..read.places.len()]);
            prop_assert_eq!(read.given, id.given);
        }

        #[test]
        fn any_input_is_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
            EventId::decode(&text);
            let mut bytes = bytes;
            EventId::decode(&BASE64URL_NOPAD.encode(&bytes));
            bytes.insert(0, VERSION);
            if let Some(id) = EventId::decode(&BASE64URL_NOPAD.encode(&bytes)) {
                prop_assert!(id.places.len() <= bytes.len());
            }
        }
    }
}
