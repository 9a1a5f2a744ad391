//! What is written: bytes that do not depend on anything else, and that read back as what was meant.

use std::collections::BTreeMap;

use submerge_core::format::gguf::{Entry, Type, encode};

use super::build::{self, File, string, uint32};
use super::read_bytes;

fn named(name: &str) -> &'static Type {
    Type::ALL.iter().find(|kind| kind.name == name).expect("a type of that name")
}

fn tensor<'a>(name: &'a str, kind: &str, shape: &[u64], start: u64) -> Entry<'a> {
    Entry { name, kind: named(kind), shape: shape.to_vec(), start }
}

#[test]
fn a_header_is_what_another_hand_writes() {
    let texts = BTreeMap::from([
        ("submerge.recipe".to_owned(), "{\"é\": 1}".to_owned()),
        ("general.architecture".to_owned(), "flux".to_owned()),
    ]);
    let numbers = BTreeMap::from([("general.file_type".to_owned(), 7)]);
    let tensors = [tensor("w", "q8_0", &[2, 64], 0), tensor("b", "f32", &[2], 160)];
    let bytes = encode(&texts, &numbers, &tensors).expect("a header");
    let expected =
        File::of(vec![build::entry("w", &[64, 2], 8, 0), build::entry("b", &[2], 0, 160)], 0)
            .pair("general.alignment", uint32(32))
            .pair("general.architecture", string(b"flux"))
            .pair("general.file_type", uint32(7))
            .pair("submerge.recipe", string("{\"é\": 1}".as_bytes()));
    assert_eq!(bytes, expected.bytes());
    let whole = [bytes, vec![0; 192]].concat();
    let header = read_bytes(&whole, 1 << 20).expect("what we wrote");
    assert_eq!(header.blocks["w"].shape, [2, 64]);
    assert_eq!(header.tensor("b").expect("it").start, 160);
}

#[test]
fn what_readers_refuse_is_not_written() {
    let none = BTreeMap::new();
    let refused = |tensor: Entry, what: &str| {
        let error = encode(&none, &BTreeMap::new(), &[tensor]).expect_err(what);
        assert!(error.message().contains(what), "{error}");
        assert!(error.advice().is_some(), "{error}");
    };
    let name = "n".repeat(128);
    refused(
        tensor(&name, "f32", &[1], 0),
        "name too long for GGUF, expected at most 127 bytes, got 128",
    );
    refused(
        tensor("a", "f32", &[1; 5], 0),
        "too many dimensions for GGUF, expected at most 4, got 5",
    );
    refused(tensor("a", "f32", &[3, 0], 0), "no elements, expected some in GGUF, got shape [3, 0]");
    encode(&none, &BTreeMap::new(), &[tensor(&name[1..], "f32", &[1, 1, 1, 1], 0)])
        .expect("allowed");
    let numbers = BTreeMap::from([("general.alignment".to_owned(), 64)]);
    let error = encode(&none, &numbers, &[]).expect_err("the alignment is the core's");
    assert!(error.message().contains("key `general.alignment` twice"), "{error}");
}
