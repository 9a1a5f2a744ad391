//! Random headers, valid and damaged.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use submerge_core::dtype::Dtype;
use submerge_core::format::safetensors::{Tensor, encode, parse};

use super::{PATH, agree, file};

/// Dimensions and a dtype that fill whole bytes.
fn kind() -> impl Strategy<Value = (Dtype, Vec<u64>)> {
    (proptest::sample::select(Dtype::ALL), prop::collection::vec(0..4_u64, 0..4)).prop_map(
        |(dtype, mut shape)| {
            if dtype.bits() < 8 {
                shape.push(4);
            }
            (dtype, shape)
        },
    )
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-z0-9._]{0,12}",
        1 => "\\PC{0,8}",
        1 => "[\\x00-\\x1f\"\\\\/\u{202e}\u{7f}]{0,6}",
        1 => Just("../../etc/passwd".to_owned()),
    ]
}

/// Tensors that tile the data, in data order.
fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    prop::collection::btree_map(name(), kind(), 0..8).prop_map(|kinds| {
        let mut tensors: Vec<Tensor> = Vec::new();
        for (name, (dtype, shape)) in kinds {
            let start = tensors.last().map_or(0, |t| t.end);
            let end = start + shape.iter().product::<u64>() * dtype.bits() / 8;
            tensors.push(Tensor { name, dtype, shape, start, end });
        }
        tensors
    })
}

fn metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(name(), name(), 0..4)
}

/// One change of a file's text.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Delete(Index, usize),
    Repeat(Index, usize),
}

/// Pieces that bring a parser into corners single bytes do not reach.
const TOKENS: [&str; 24] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "0",
    "-1",
    "1e3",
    "18446744073709551615",
    "\\ud800",
    "null",
    " ",
    "\n",
    "\"dtype\":\"F32\",",
    "\"shape\":[0],",
    "\"data_offsets\":[0,0],",
    "\"__metadata__\":{\"a\":\"b\"},",
    "\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},",
    "\"extra\":1,",
    "\"F4\"",
    "[[[[[[",
    "\u{0}",
];

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Flip(at, byte)),
        (place(), proptest::sample::select(&TOKENS[..]))
            .prop_map(|(at, token)| Damage::Insert(at, token.as_bytes().to_vec())),
        (place(), 1..12_usize).prop_map(|(at, n)| Damage::Delete(at, n)),
        (place(), 1..80_usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
    ]
}

fn apply(text: &mut Vec<u8>, damage: &Damage) {
    let len = text.len();
    match damage {
        Damage::Insert(at, piece) => {
            let at = at.index(len + 1);
            text.splice(at..at, piece.iter().copied());
        }
        _ if len == 0 => {}
        Damage::Flip(at, byte) => text[at.index(len)] ^= byte,
        Damage::Delete(at, n) => drop(text.drain(at.index(len)..(at.index(len) + n).min(len))),
        Damage::Repeat(at, n) => {
            let range = at.index(len)..(at.index(len) + n).min(len);
            let piece = text[range.clone()].to_vec();
            text.splice(range.end..range.end, piece);
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn what_is_written_is_read_back(tensors in tensors(), metadata in metadata()) {
        let metadata: Vec<_> = metadata.into_iter().collect();
        let bytes = encode(&metadata, &tensors).expect("a valid header");
        let data = tensors.last().map_or(0, |t| t.end);
        let start = bytes.len() as u64;
        let header = parse(&bytes[8..], start, data, PATH.as_ref()).expect("what we wrote");
        prop_assert_eq!(header.metadata, metadata);
        let mut expected = tensors;
        expected.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        prop_assert_eq!(header.tensors, expected);
    }

    /// Tensors are not empty and the map has one key: otherwise the crate's own order is random.
    #[test]
    fn the_bytes_are_those_of_the_safetensors_crate(
        kinds in prop::collection::btree_map(name(), kind(), 0..8),
        note in prop::option::of((name(), name())),
    ) {
        let data = vec![0_u8; 4 * 4 * 4 * 4 * 8];
        let views: Vec<_> = kinds.iter().map(|(name, (dtype, shape))| {
            let shape: Vec<_> = shape.iter().map(|&n| n.max(1) as usize).collect();
            let size = shape.iter().product::<usize>() * dtype.bits() as usize / 8;
            let dtype = serde_json::from_value(dtype.name().into()).expect("the same names");
            let view = safetensors::tensor::TensorView::new(dtype, shape, &data[..size]);
            (name.as_str(), view.expect("a view of the right size"))
        }).collect();
        let notes = note.clone().map(|pair| [pair].into());
        let theirs = safetensors::serialize(views, notes).expect("a valid file");
        prop_assert!(agree::check(&theirs));
        let start = 8 + u64::from_le_bytes(theirs[..8].try_into().expect("eight bytes"));
        let json = &theirs[8..start as usize];
        let data = theirs.len() as u64 - start;
        let header = parse(json, start, data, PATH.as_ref()).expect("a valid header");
        let ours = encode(&header.metadata, &header.tensors).expect("a valid header");
        prop_assert_eq!(&ours, &theirs[..start as usize]);
    }
}

proptest! {
    #![proptest_config(config(4000))]

    /// Damage inside the text, with the length field put right, so that the parser sees it.
    #[test]
    fn damaged_text_never_panics_nor_disagrees(
        tensors in tensors(),
        metadata in metadata(),
        damages in prop::collection::vec(damage(), 0..4),
    ) {
        let metadata: Vec<_> = metadata.into_iter().collect();
        let mut text = encode(&metadata, &tensors).expect("a valid header").split_off(8);
        for damage in &damages {
            apply(&mut text, damage);
        }
        let data = tensors.last().map_or(0, |t| t.end) as usize;
        agree::check(&file(&text, data));
    }

    /// Damage anywhere in the file, the length field included.
    #[test]
    fn damaged_files_never_panic_nor_disagree(
        tensors in tensors(),
        damages in prop::collection::vec(damage(), 1..3),
    ) {
        let mut bytes = encode(&[], &tensors).expect("a valid header");
        bytes.resize(bytes.len() + tensors.last().map_or(0, |t| t.end) as usize, 0);
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        agree::check(&bytes);
    }
}
