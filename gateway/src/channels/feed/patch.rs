//! Publications as patches, each against the one before it.
//!
//! JSON clients receive whole texts and patches as JSON strings, and apply a patch to the text they received. So
//! patches are computed on that text, not on the published bytes. Pure.

use bytes::Bytes;
use tidegate_shared::{
    delta,
    protocol::{Encoding, Publication},
};

/// The publication as a patch of `before`. Whole if there is no `before`, or if the patch would not be shorter.
pub(super) fn patched(publication: &Publication, before: Option<&Bytes>, encoding: Encoding) -> Publication {
    let whole = publication.clone().suited_to(encoding);
    let patch = before.map(|before| {
        let before = Publication { data: before.clone(), ..Publication::default() }.suited_to(encoding);
        delta::create(&before.data, &whole.data)
    });
    match patch.filter(|patch| patch.len() < whole.data.len()) {
        Some(patch) => Publication { data: carried(patch.into(), encoding), delta: true, ..whole },
        None => Publication { data: carried(whole.data.clone(), encoding), ..whole },
    }
}

/// Missed publications: the first whole, each further one as a patch.
pub(crate) fn chain<'a>(
    missed: impl Iterator<Item = &'a Publication>,
    encoding: Encoding,
) -> Vec<Publication> {
    let mut before: Option<&Bytes> = None;
    let chain = missed.map(|publication| {
        let patched = patched(publication, before, encoding);
        before = Some(&publication.data);
        patched
    });
    chain.collect()
}

fn carried(data: Bytes, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json => serde_json::Value::from(String::from_utf8_lossy(&data)).to_string().into(),
        Encoding::Protobuf => data,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Applies a publication as a client does.
    fn received(has: &mut Vec<u8>, publication: &Publication, encoding: Encoding) {
        let data = match encoding {
            Encoding::Json => serde_json::from_slice::<String>(&publication.data).unwrap().into_bytes(),
            Encoding::Protobuf => publication.data.to_vec(),
        };
        *has = if publication.delta { delta::apply(has, &data, 1 << 20).unwrap() } else { data };
    }

    proptest! {
        #[test]
        fn a_client_that_patches_has_what_was_published(
            texts in proptest::collection::vec("[a-f]{0,3}[ -~é]{0,60}", 1..8), encoding in prop_oneof![Just(Encoding::Json), Just(Encoding::Protobuf)],
        ) {
            let base = "the same long beginning of every publication of this channel, ".repeat(3);
            let published: Vec<Publication> = texts
                .iter()
                .map(|text| Publication { data: serde_json::json!({"base": base, "text": text}).to_string().into(), ..Publication::default() })
                .collect();
            let mut has = Vec::new();
            let sent = chain(published.iter(), encoding);
            for (publication, patched) in published.iter().zip(&sent) {
                received(&mut has, patched, encoding);
                prop_assert_eq!(&has[..], &publication.data[..]);
            }
            prop_assert!(!sent[0].delta && sent.iter().skip(1).all(|p| p.delta));
        }
    }
}
