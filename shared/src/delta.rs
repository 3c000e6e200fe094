//! Fossil deltas: a payload encoded as the difference from the previous one.
//!
//! A delta consists of the size of the result, copies (`N@O,`), inserts (`N:bytes`) and a checksum of the result (`N;`). Every
//! number is written in the format's own base 64. This module is pure: callers decide which client gets a delta.

/// The number of bytes hashed at once. Shorter repetitions are found only at the two ends of a payload.
const BLOCK: usize = 16;
/// The maximum number of places in the old payload, with the same hash, that are compared with one place in the new payload.
const MAX_CANDIDATES: usize = 64;
/// The search stops at a match of this length.
const ENOUGH: usize = 4 * BLOCK;
/// The number of comparisons allowed for each byte of input. It bounds the time for any payload.
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
        /// The size that the delta announces.
        size: usize,
        /// The limit that the caller set.
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

/// Encodes `new` as the difference from `old`.
///
/// If `new` is UTF-8, the delta is UTF-8 too, whatever `old` is: no character is cut, and the delta can be sent as a JSON string.
/// A delta is at most 21 bytes longer than `new`. Encoding takes time in proportion to the input. The format's numbers limit
/// payloads to 4 GiB.
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

/// Returns the size of the result that a delta announces.
pub fn output_size(delta: &[u8]) -> Result<usize, DeltaError> {
    Reader { rest: delta }.size()
}

/// Applies a delta to `old`. Neither the result nor the allocation exceeds `limit` bytes.
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

/// The state of encoding one delta.
struct Encoder<'a> {
    old: &'a [u8],
    new: &'a [u8],
    /// Whether `new` is UTF-8, so that characters must not be cut.
    text: bool,
    /// How many bytes of `new` the delta covers so far.
    inserted: usize,
    /// The number of comparisons left.
    effort: usize,
    delta: Vec<u8>,
}

/// A part that the old and the new payload have in common.
#[derive(Clone, Copy)]
struct Match {
    old: usize,
    new: usize,
    len: usize,
}

impl Encoder<'_> {
    /// Writes all copies that save bytes, with the inserts between them.
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

    /// Looks for blocks of the old payload in the part of the new one that is not covered yet and ends at `end`.
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

    /// Returns the longest match around `at` that saves bytes, among those that contain a candidate's block.
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

    /// Returns the match cut to whole characters, or `None` if its copy is not shorter than the bytes themselves.
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
        // The copy's two signs, and the sign and the number of an insert that the copy may split off.
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

/// The positions of the old payload's blocks, by hash.
struct Index {
    /// For each hash, 1 + the number of its first block; 0 if there is none.
    first: Vec<usize>,
    /// For each block, 1 + the number of the next block with the same hash; 0 if there is none.
    next: Vec<usize>,
}

impl Index {
    fn new(old: &[u8]) -> Self {
        let blocks = old.chunks_exact(BLOCK);
        let count = blocks.len();
        let mut index = Self { first: vec![0; count.next_power_of_two()], next: vec![0; count] };
        // Backwards, so that the first of several equal blocks is tried first: more of the payload follows it.
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

    /// Returns the positions of the blocks with this hash.
    fn candidates(&self, hash: &RollingHash) -> impl Iterator<Item = usize> {
        let follow = |block: usize| (block != 0).then_some(block);
        let first = self.first.get(self.slot(hash)).copied().and_then(follow);
        std::iter::successors(first, move |block| self.next.get(block - 1).copied().and_then(follow))
            .map(|block| (block - 1) * BLOCK)
            .take(MAX_CANDIDATES)
    }
}

/// A hash of [`BLOCK`] bytes that can move forward by one byte cheaply.
struct RollingHash {
    /// The sum of the bytes.
    sum: u32,
    /// The sum of all intermediate sums: each byte times its distance from the end.
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
        // The first byte of a block is part of all its sums, once for each byte of the block.
        self.weighted = self.weighted.wrapping_sub(gone << BLOCK.ilog2()).wrapping_add(self.sum);
    }

    /// Combines both sums so that the low bits depend on all their bits.
    fn value(&self) -> usize {
        let spread = ((self.weighted << 16) ^ self.sum).wrapping_mul(0x9E37_79B1);
        ((spread >> 16) ^ spread) as usize
    }
}

/// The unread part of a delta.
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

/// Returns the number of digits of a number.
fn digits(number: usize) -> usize {
    number.checked_ilog2().map_or(1, |bit| bit as usize / 6 + 1)
}

fn put_number(delta: &mut Vec<u8>, number: usize) {
    for place in (0..digits(number)).rev() {
        delta.extend(DIGITS.get((number >> (6 * place)) & 63));
    }
}

/// Returns the sum of all bytes as big-endian words, the last word padded with zeros.
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
mod tests;
