//! Fossil deltas: a payload told as the difference to the one before it.
//!
//! A delta is text around literals: the size of the result, then copies (`N@O,`) and inserts (`N:bytes`), then a checksum
//! of the result (`N;`), every number in a base 64 of its own. Pure: knows bytes only, and never decides who gets a delta
//! and who the whole payload.

/// Bytes hashed at once: shorter repetitions are found only at the ends.
const BLOCK: usize = 16;
/// How many places of the old payload with the same hash are compared with one place of the new payload.
const MAX_CANDIDATES: usize = 64;
/// A match this long is taken without looking for a longer one.
const ENOUGH: usize = 4 * BLOCK;
/// How many bytes may be compared for each byte of input, so that no payload is slow to encode.
const EFFORT: usize = 8;
/// The digits of numbers, most significant first.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Why a delta was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The bytes are not a delta.
    #[error("malformed delta")]
    Malformed,
    /// The result would be larger than the caller allows.
    #[error("a result of {size} bytes is more than the {limit} allowed")]
    TooLarge {
        /// What the delta announces.
        size: usize,
        /// What the caller allows.
        limit: usize,
    },
    /// A copy reaches beyond the old payload, so the delta was made from another one.
    #[error("a copy reaches beyond the old payload")]
    OutOfRange,
    /// The result is not as long as announced.
    #[error("the result is not as long as announced")]
    Size,
    /// The result is not what was encoded, so the delta was made from another payload.
    #[error("the checksum does not match")]
    Checksum,
}

/// Encodes `new` as its difference to `old`.
///
/// If `new` is UTF-8 then so is the delta, whatever `old` is: no character is cut, and the delta can travel as a JSON string.
/// It is at most 21 bytes longer than `new`, and takes time in proportion to the input. Payloads end at 4 GiB, where the
/// format's numbers do.
pub fn create(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder {
        old,
        new,
        text: std::str::from_utf8(new).is_ok(),
        inserted: 0,
        effort: old.len().saturating_add(new.len()).saturating_mul(EFFORT),
        delta: Vec::new(),
    };
    put_number(&mut encoder.delta, new.len());
    encoder.delta.push(b'\n');
    encoder.copies();
    encoder.insert_until(new.len());
    put_number(&mut encoder.delta, checksum(new) as usize);
    encoder.delta.push(b';');
    encoder.delta
}

/// Returns how long the result of a delta will be, by its own account.
pub fn output_size(delta: &[u8]) -> Result<usize, DeltaError> {
    Reader { rest: delta }.size()
}

/// Decodes a delta that was made from `old`. Neither the result nor what is allocated exceeds `limit` bytes.
pub fn apply(old: &[u8], delta: &[u8], limit: usize) -> Result<Vec<u8>, DeltaError> {
    let mut reader = Reader { rest: delta };
    let size = reader.size()?;
    if size > limit {
        return Err(DeltaError::TooLarge { size, limit });
    }
    let mut new = Vec::with_capacity(size);
    loop {
        let number = reader.number()?;
        let len = number as usize;
        let part = match reader.byte()? {
            b'@' => {
                let from = reader.number()? as usize;
                if reader.byte()? != b',' {
                    return Err(DeltaError::Malformed);
                }
                from.checked_add(len).and_then(|to| old.get(from..to)).ok_or(DeltaError::OutOfRange)?
            }
            b':' => reader.take(len)?,
            b';' if !reader.rest.is_empty() => return Err(DeltaError::Malformed),
            b';' if new.len() != size => return Err(DeltaError::Size),
            b';' if checksum(&new) != number => return Err(DeltaError::Checksum),
            b';' => return Ok(new),
            _ => return Err(DeltaError::Malformed),
        };
        if part.len() > size - new.len() {
            return Err(DeltaError::Size);
        }
        new.extend_from_slice(part);
    }
}

/// What has been written of a delta.
struct Encoder<'a> {
    old: &'a [u8],
    new: &'a [u8],
    /// Whether characters are kept whole.
    text: bool,
    /// How much of `new` is in the delta.
    inserted: usize,
    /// How many comparisons are left.
    effort: usize,
    delta: Vec<u8>,
}

/// A part of the new payload that the old one has too.
#[derive(Clone, Copy)]
struct Match {
    old: usize,
    new: usize,
    len: usize,
}

impl Encoder<'_> {
    /// Writes all copies that pay, with the inserts between them.
    fn copies(&mut self) {
        let head = Match { old: 0, new: 0, len: common_prefix(self.old, self.new) };
        let head = self.worthy(head);
        if let Some(head) = head {
            self.copy(head);
        }
        let rest = self.new.get(self.inserted..).unwrap_or_default();
        let len = common_suffix(self.old, rest);
        let tail = Match { old: self.old.len() - len, new: self.new.len() - len, len };
        let tail = self.worthy(tail);
        self.middle(tail.map_or(self.new.len(), |tail| tail.new));
        if let Some(tail) = tail {
            self.copy(tail);
        }
    }

    /// Looks for blocks of the old payload in what is left of the new one before `end`.
    fn middle(&mut self, end: usize) {
        let mut at = self.inserted;
        if end - at < BLOCK || self.old.len() < BLOCK {
            return;
        }
        let index = Index::new(self.old);
        let mut hash = None;
        while at + BLOCK <= end && self.effort > 0 {
            let Some(window) = self.new.get(at..at + BLOCK) else { return };
            let rolling = hash.get_or_insert_with(|| RollingHash::new(window));
            if let Some(found) = self.best(index.candidates(rolling), at, end) {
                self.copy(found);
                at = self.inserted;
                hash = None;
                continue;
            }
            if let (Some(gone), Some(came)) = (window.first(), self.new.get(at + BLOCK)) {
                rolling.roll(*gone, *came);
            }
            at += 1;
        }
    }

    /// Returns the longest match around `at` that pays, of those that contain a candidate's block.
    fn best(&mut self, candidates: impl Iterator<Item = usize>, at: usize, end: usize) -> Option<Match> {
        let mut best: Option<Match> = None;
        for place in candidates {
            let ahead = common_prefix(
                self.old.get(place..).unwrap_or_default(),
                self.new.get(at..end).unwrap_or_default(),
            );
            let behind = common_suffix(
                self.old.get(..place).unwrap_or_default(),
                self.new.get(self.inserted..at).unwrap_or_default(),
            );
            self.effort = self.effort.saturating_sub(ahead + behind + 1);
            let found = Match { old: place - behind, new: at - behind, len: ahead + behind };
            if let Some(found) = self.worthy(found)
                && best.is_none_or(|best| found.len > best.len)
            {
                best = Some(found);
            }
            if ahead >= ENOUGH || at + ahead == end || self.effort == 0 {
                break;
            }
        }
        best
    }

    /// Returns the match cut to whole characters, if its copy is shorter than the bytes themselves.
    fn worthy(&self, found: Match) -> Option<Match> {
        let mut start = found.new;
        let mut end = found.new + found.len;
        while start < end && !self.may_cut(start) {
            start += 1;
        }
        while start < end && !self.may_cut(end) {
            end -= 1;
        }
        let cut = Match { old: found.old + (start - found.new), new: start, len: end - start };
        // The copy's own two signs, and the sign and number of the insert it may set apart.
        let cost = digits(cut.len) + digits(cut.old) + 2 + digits(self.new.len()) + 1;
        (cut.len > cost).then_some(cut)
    }

    /// Whether a copy or an insert of the new payload may end here.
    fn may_cut(&self, at: usize) -> bool {
        !self.text || self.new.get(at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
    }

    fn copy(&mut self, found: Match) {
        self.insert_until(found.new);
        put_number(&mut self.delta, found.len);
        self.delta.push(b'@');
        put_number(&mut self.delta, found.old);
        self.delta.push(b',');
        self.inserted = found.new + found.len;
    }

    fn insert_until(&mut self, end: usize) {
        let bytes = self.new.get(self.inserted..end).unwrap_or_default();
        if !bytes.is_empty() {
            put_number(&mut self.delta, bytes.len());
            self.delta.push(b':');
            self.delta.extend_from_slice(bytes);
        }
        self.inserted = end;
    }
}

/// Where the blocks of the old payload are, by their hash.
struct Index {
    /// For each hash the number of its first block; 0 is none.
    first: Vec<usize>,
    /// For each block the number of the next one with the same hash.
    next: Vec<usize>,
}

impl Index {
    fn new(old: &[u8]) -> Self {
        let blocks = old.chunks_exact(BLOCK);
        let count = blocks.len();
        let mut index = Self { first: vec![0; count.next_power_of_two()], next: vec![0; count] };
        // Backwards, so that the first of equal blocks is tried first: more of the payload follows it.
        for (number, block) in blocks.enumerate().rev() {
            let slot = index.slot(&RollingHash::new(block));
            if let (Some(first), Some(next)) = (index.first.get_mut(slot), index.next.get_mut(number)) {
                *next = std::mem::replace(first, number + 1);
            }
        }
        index
    }

    fn slot(&self, hash: &RollingHash) -> usize {
        hash.value() & (self.first.len() - 1)
    }

    /// Returns where blocks with this hash begin.
    fn candidates(&self, hash: &RollingHash) -> impl Iterator<Item = usize> {
        let follow = |block: usize| (block != 0).then_some(block);
        let first = self.first.get(self.slot(hash)).copied().and_then(follow);
        std::iter::successors(first, move |block| self.next.get(block - 1).copied().and_then(follow))
            .map(|block| (block - 1) * BLOCK)
            .take(MAX_CANDIDATES)
    }
}

/// A hash of [`BLOCK`] bytes that moves on by one byte at little cost.
struct RollingHash {
    /// The sum of the bytes.
    sum: u32,
    /// The sum of all sums on the way: each byte times its distance from the end.
    weighted: u32,
}

impl RollingHash {
    fn new(block: &[u8]) -> Self {
        block.iter().fold(Self { sum: 0, weighted: 0 }, |hash, byte| {
            let sum = hash.sum.wrapping_add(u32::from(*byte));
            Self { sum, weighted: hash.weighted.wrapping_add(sum) }
        })
    }

    fn roll(&mut self, gone: u8, came: u8) {
        let gone = u32::from(gone);
        self.sum = self.sum.wrapping_sub(gone).wrapping_add(u32::from(came));
        // The first byte of a block is in all its sums: once for each of the block's bytes.
        self.weighted = self.weighted.wrapping_sub(gone << BLOCK.ilog2()).wrapping_add(self.sum);
    }

    /// Both sums, spread so that the low bits depend on all of them.
    fn value(&self) -> usize {
        let spread = ((self.weighted << 16) ^ self.sum).wrapping_mul(0x9E37_79B1);
        ((spread >> 16) ^ spread) as usize
    }
}

/// What has not been read of a delta.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn size(&mut self) -> Result<usize, DeltaError> {
        let size = self.number()?;
        if self.byte()? != b'\n' {
            return Err(DeltaError::Malformed);
        }
        Ok(size as usize)
    }

    /// Reads a number of at least one digit that fits 32 bits.
    fn number(&mut self) -> Result<u32, DeltaError> {
        let mut number = None;
        while let Some((digit, rest)) =
            self.rest.split_first().and_then(|(digit, rest)| Some((digit_value(*digit)?, rest)))
        {
            let shifted = number.unwrap_or(0_u32).checked_mul(64).ok_or(DeltaError::Malformed)?;
            number = Some(shifted | digit);
            self.rest = rest;
        }
        number.ok_or(DeltaError::Malformed)
    }

    fn byte(&mut self) -> Result<u8, DeltaError> {
        let (byte, rest) = self.rest.split_first().ok_or(DeltaError::Malformed)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DeltaError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DeltaError::Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }
}

fn digit_value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'0'..=b'9' => digit - b'0',
        b'A'..=b'Z' => digit - b'A' + 10,
        b'_' => 36,
        b'a'..=b'z' => digit - b'a' + 37,
        b'~' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

/// How many digits a number has.
fn digits(number: usize) -> usize {
    number.checked_ilog2().map_or(1, |bit| bit as usize / 6 + 1)
}

fn put_number(delta: &mut Vec<u8>, number: usize) {
    for place in (0..digits(number)).rev() {
        delta.extend(DIGITS.get((number >> (6 * place)) & 63));
    }
}

/// The sum of all bytes as big-endian words, the last one filled up with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.chunks(4).fold(0, |sum: u32, chunk| {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        sum.wrapping_add(u32::from_be_bytes(word))
    })
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index as Place};

    use super::*;

    const LIMIT: usize = 1 << 20;

    #[test]
    fn numbers_have_these_digits() {
        for (number, text) in [
            (0, "0"),
            (9, "9"),
            (10, "A"),
            (35, "Z"),
            (36, "_"),
            (37, "a"),
            (62, "z"),
            (63, "~"),
            (64, "10"),
            (4095, "~~"),
            (4096, "100"),
            (u32::MAX, "3~~~~~"),
        ] {
            let mut written = Vec::new();
            put_number(&mut written, number as usize);
            assert_eq!(written, text.as_bytes());
            assert_eq!(written.len(), digits(number as usize));
            assert_eq!(Reader { rest: &written }.number(), Ok(number));
        }
        assert_eq!(Reader { rest: b"0000000001" }.number(), Ok(1));
        for text in ["", "\n", "400000", "~~~~~~"] {
            assert_eq!(Reader { rest: text.as_bytes() }.number(), Err(DeltaError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_checksum_adds_words() {
        assert_eq!(checksum(b""), 0);
        assert_eq!(checksum(b"\x01"), 0x0100_0000);
        assert_eq!(checksum(b"\x01\x02\x03\x04\x05"), 0x0602_0304);
        assert_eq!(checksum(&[0xff; 8]), 0xffff_fffe);
    }

    #[test]
    fn a_hash_that_rolled_is_the_hash_of_where_it_is() {
        let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let mut rolled = RollingHash::new(&bytes[..BLOCK]);
        for at in 1..=bytes.len() - BLOCK {
            rolled.roll(bytes[at - 1], bytes[at - 1 + BLOCK]);
            assert_eq!(rolled.value(), RollingHash::new(&bytes[at..at + BLOCK]).value());
        }
    }

    #[test]
    fn one_changed_field_costs_one_insert() {
        let old = br#"{"ticker":"ACME","price":100,"volume":5000}"#;
        let new = br#"{"ticker":"ACME","price":101,"volume":5000}"#;
        assert_eq!(String::from_utf8(create(old, new)).unwrap(), "g\nR@0,1:1F@S,3zoip7;");
    }

    #[test]
    fn moved_blocks_are_found() {
        let blocks: Vec<String> =
            (0..40).map(|i| format!("record {i} with words of its own: {}\n", i * i)).collect();
        let old = blocks.concat();
        let new = [&blocks[20..], &["something new\n".to_owned()], &blocks[..20]].concat().concat();
        let delta = create(old.as_bytes(), new.as_bytes());
        assert!(delta.len() < 60, "{}", String::from_utf8_lossy(&delta));
        assert_eq!(apply(old.as_bytes(), &delta, LIMIT).unwrap(), new.as_bytes());
    }

    #[test]
    fn a_character_is_never_cut() {
        // The letters share their first byte, then their second.
        for (old, new) in [("é".repeat(40), "è".repeat(40)), ("aé".repeat(40), "a©".repeat(40))] {
            let delta = create(old.as_bytes(), new.as_bytes());
            assert!(std::str::from_utf8(&delta).is_ok());
            assert_eq!(apply(old.as_bytes(), &delta, LIMIT).unwrap(), new.as_bytes());
        }
        let (old, new) = ("0123456789abcdeЖ-tail-of-the-text", "0123456789abcdeж-tail-of-the-text");
        assert!(String::from_utf8(create(old.as_bytes(), new.as_bytes())).unwrap().contains("2:ж"));
    }

    #[test]
    fn what_repeats_itself_is_found_for_a_bounded_effort() {
        let old = vec![b'a'; 1 << 16];
        for (step, share) in [(100, 10), (1000, 100)] {
            let mut new = old.clone();
            new.iter_mut().step_by(step).for_each(|byte| *byte = b'b');
            let delta = create(&old, &new);
            assert!(delta.len() < new.len() / share, "{} of {}", delta.len(), new.len());
            assert_eq!(apply(&old, &delta, LIMIT), Ok(new));
        }
        // Every place has many candidates, and none of them is worth a copy: the effort ends, the delta does not.
        let old = b"aaaaaaaaaaaaaaab".repeat(1 << 12);
        let new = b"aaaaaaaaaaaaaaabc".repeat(1 << 12);
        assert_eq!(apply(&old, &create(&old, &new), LIMIT), Ok(new));
    }

    #[test]
    fn what_is_no_delta_of_the_old_payload_is_refused() {
        let old = b"0123456789";
        let too_large = DeltaError::TooLarge { size: 101, limit: 100 };
        for (delta, error) in [
            ("", DeltaError::Malformed),
            ("\n", DeltaError::Malformed),
            ("0", DeltaError::Malformed),
            ("0 0;", DeltaError::Malformed),
            ("0\n", DeltaError::Malformed),
            ("0\n0", DeltaError::Malformed),
            ("0\n;", DeltaError::Malformed),
            ("0\n0;0", DeltaError::Malformed),
            ("1\n1?", DeltaError::Malformed),
            ("1\n1@0;", DeltaError::Malformed),
            ("1\n1@,", DeltaError::Malformed),
            ("1\n2:a", DeltaError::Malformed),
            ("400000\n0;", DeltaError::Malformed),
            ("1a\n0;", too_large),
            ("B\nB@0,0;", DeltaError::OutOfRange),
            ("1\n1@A,0;", DeltaError::OutOfRange),
            ("1\n3~~~~~@3~~~~~,0;", DeltaError::OutOfRange),
            ("1\n2@0,0;", DeltaError::Size),
            ("1\n2:ab0;", DeltaError::Size),
            ("1\n0;", DeltaError::Size),
            ("1\n1@0,0;", DeltaError::Checksum),
        ] {
            assert_eq!(apply(old, delta.as_bytes(), 100), Err(error), "{delta:?}");
        }
        assert_eq!(apply(b"another payload", &create(old, old), 100), Err(DeltaError::Checksum));
    }

    #[test]
    fn a_delta_tells_its_size() {
        assert_eq!(output_size(b"10\nanything"), Ok(64));
        assert_eq!(output_size(b"10"), Err(DeltaError::Malformed));
        assert_eq!(output_size(b"10;"), Err(DeltaError::Malformed));
    }

    /// A payload, and what a few cuts, moves and inserts make of it.
    fn edited(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let edit = (any::<Place>(), any::<Place>(), any::<Place>(), vec(any::<u8>(), 0..20));
        (bytes, vec(edit, 0..6)).prop_map(|(old, edits)| {
            let mut new = old.clone();
            for (from, to, at, inserted) in edits {
                let (from, to) = (from.index(new.len() + 1), to.index(new.len() + 1));
                let moved: Vec<u8> = new.drain(from.min(to)..from.max(to)).collect();
                let at = at.index(new.len() + 1);
                let what = if inserted.len() % 2 == 0 { [moved, inserted].concat() } else { inserted };
                new.splice(at..at, what);
            }
            (old, new)
        })
    }

    fn round_trip(old: &[u8], new: &[u8]) -> Result<(), TestCaseError> {
        let delta = create(old, new);
        prop_assert_eq!(output_size(&delta), Ok(new.len()));
        let decoded = apply(old, &delta, new.len());
        prop_assert_eq!(decoded.as_deref(), Ok(new));
        prop_assert!(delta.len() <= new.len() + 21);
        prop_assert!(std::str::from_utf8(new).is_err() || std::str::from_utf8(&delta).is_ok());
        Ok(())
    }

    proptest! {
        #[test]
        fn any_payload_comes_back(old in vec(any::<u8>(), 0..300), new in vec(any::<u8>(), 0..300)) {
            round_trip(&old, &new)?;
        }

        #[test]
        fn an_edited_payload_comes_back((old, new) in edited(vec(any::<u8>(), 0..2000))) {
            round_trip(&old, &new)?;
        }

        #[test]
        fn a_payload_that_repeats_itself_comes_back((old, new) in edited(vec(0_u8..2, 0..1000))) {
            round_trip(&old, &new)?;
        }

        #[test]
        fn a_text_comes_back(old in "[aé€😀]{0,200}", new in "[aé€😀]{0,200}") {
            round_trip(old.as_bytes(), new.as_bytes())?;
        }

        #[test]
        fn a_similar_text_is_told_shorter(
            words in vec("[a-zé]{3,12}", 20..80),
            place in any::<Place>(),
            word in "[a-zé]{3,12}",
        ) {
            let old = words.join(" ");
            let mut words = words;
            let at = place.index(words.len());
            words[at] = word;
            let new = words.join(" ");
            let delta = create(old.as_bytes(), new.as_bytes());
            prop_assert!(delta.len() < new.len() / 2, "{} of {}", delta.len(), new.len());
        }

        #[test]
        fn any_bytes_at_all_are_survived(
            old in vec(any::<u8>(), 0..50),
            delta in prop_oneof![
                vec(any::<u8>(), 0..60),
                "[0-9A-C]{1,2}\n([0-9A-Z~]{0,7}[@:,;][0-9a-c]{0,3},?){0,8}".prop_map(String::into_bytes),
            ],
            limit in 0_usize..200,
        ) {
            let _ = output_size(&delta);
            if let Ok(new) = apply(&old, &delta, limit) {
                prop_assert!(new.len() <= limit && new.capacity() <= limit);
            }
        }

        #[test]
        fn a_damaged_delta_never_gives_more_than_the_limit(
            (old, new) in edited(vec(any::<u8>(), 0..300)),
            place in any::<Place>(),
            byte in any::<u8>(),
        ) {
            let mut delta = create(&old, &new);
            let at = place.index(delta.len());
            delta[at] = byte;
            if let Ok(other) = apply(&old, &delta, 2 * new.len()) {
                prop_assert!(other.len() <= 2 * new.len());
            }
        }
    }
}
