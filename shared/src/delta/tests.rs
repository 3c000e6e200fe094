//! Patches made and applied, and what is no patch.

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
fn a_rolled_hash_equals_the_hash_of_its_block() {
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
fn repetitions_are_found_with_bounded_effort() {
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
fn a_delta_of_another_payload_is_refused() {
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
    fn no_bytes_make_the_decoder_panic(
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
