//! Deltas compared with those of the published JavaScript encoder: the npm package `fossil-delta` 2.0.0 wrote `reference`. The
//! SDK tests apply `delta` with the decoder of clients.

use data_encoding::BASE64;
use serde::Deserialize;
use tidegate_shared::delta::{apply, create, output_size};

#[derive(Deserialize)]
struct Vector {
    about: String,
    /// Whether `old`, `new` and `delta` are base64, not text.
    #[serde(default)]
    base64: bool,
    old: String,
    new: String,
    delta: String,
    /// Always base64, because this encoder may cut a character.
    reference: String,
}

impl Vector {
    fn bytes(&self, field: &str) -> Vec<u8> {
        if self.base64 { BASE64.decode(field.as_bytes()).unwrap() } else { field.as_bytes().to_vec() }
    }
}

#[test]
fn deltas_have_these_bytes_and_the_reference_encoder_s_are_understood() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("../fossil/vectors.json")).unwrap();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let (old, new) = (vector.bytes(&vector.old), vector.bytes(&vector.new));
        let made = create(&old, &new);
        assert_eq!(made, vector.bytes(&vector.delta), "{}: {}", vector.about, BASE64.encode(&made));
        for delta in [made, BASE64.decode(vector.reference.as_bytes()).unwrap()] {
            assert_eq!(output_size(&delta), Ok(new.len()), "{}", vector.about);
            assert_eq!(apply(&old, &delta, new.len()).as_ref(), Ok(&new), "{}", vector.about);
        }
    }
}
