//! Damaged files: whatever the bytes, the answer is a header that holds together or a located error.

use proptest::prelude::*;

use super::build::{File, array, entry, string, text, uint32};
use super::sound::check;

/// A file with some of everything.
fn sample() -> Vec<u8> {
    let tensors = vec![
        entry("a.weight", &[64, 2], 8, 0),
        entry("a.bias", &[2], 0, 160),
        entry("b", &[4, 2, 2], 30, 192),
    ];
    let names = [text(b"one"), text(b"two")].concat();
    File::of(tensors, 224)
        .pair("general.architecture", string(b"flux"))
        .pair("general.alignment", uint32(32))
        .pair("tokens", array(8, 2, &names))
        .pair("comfy.gguf.orig_shape.b", array(5, 2, &[2, 0, 0, 0, 8, 0, 0, 0]))
        .bytes()
}

#[test]
fn the_sample_itself_is_accepted() {
    assert!(check(&sample()));
}

/// Every byte of the header, set to what turns lengths, counts and types over.
#[test]
fn every_byte_may_be_wrong() {
    let sample = sample();
    let mut refused = 0;
    for at in 0..sample.len() - 224 {
        for value in [0, 1, 9, 0x7f, 0x80, 0xff] {
            let mut bytes = sample.clone();
            bytes[at] = value;
            refused += usize::from(!check(&bytes));
        }
    }
    assert!(refused > 500, "{refused}");
}

proptest! {
    #[test]
    fn words_in_the_header_may_be_any(
        at in 4..400_usize, word in any::<u64>(), small in any::<bool>(), cut in 0..700_usize,
    ) {
        let mut bytes = sample();
        let word = if small { word % 70 } else { word };
        let at = at.min(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        bytes.truncate(bytes.len().max(cut + 1) - if cut % 3 == 0 { cut.min(bytes.len()) } else { 0 });
        check(&bytes);
    }

    #[test]
    fn any_bytes_may_follow_the_magic(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&[b"GGUF\x03\0\0\0", &rest[..]].concat());
    }
}
