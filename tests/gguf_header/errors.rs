//! A table over every way a file can be refused: the whole message, and the hint.

use submerge_core::error::Kind;

use super::build::{Entry, File, array, entry, string, text, uint32};
use super::{PATH, read_bytes};

const DAMAGED: &str = "damaged or was written by a faulty tool";
const INCOMPLETE: &str = "incomplete";
const NEWER: &str = "newer submerge";

fn check_bytes(bytes: &[u8], message: &str, hint: &str) {
    let error = read_bytes(bytes, 100_000_000).expect_err(message);
    assert!(matches!(error.kind(), Kind::Checkpoint), "{error:?}");
    assert_eq!(error.message(), format!("{PATH}: {message}"));
    let (expected, got) = (message.find(", expected "), message.rfind(", got "));
    assert!(expected.is_some() && got > expected, "{message}");
    assert!(!error.message().contains(char::is_control), "{message:?}");
    let advice = error.advice().unwrap_or_default();
    assert!(advice.contains(hint) && !advice.is_empty(), "{message}: {advice}");
}

fn check(file: &File, message: &str, hint: &str) {
    check_bytes(&file.bytes(), message, hint);
}

fn one(dims: &[u64], kind: u32, offset: u64, data: usize) -> File {
    File::of(vec![entry("a", dims, kind, offset)], data)
}

#[test]
fn versions_that_are_not_read() {
    let with = |version: u32| File { version, ..one(&[1], 0, 0, 4) };
    check(&with(1), "header: GGUF version 1, expected 2 or 3, got 1", "newer tool");
    for version in 1..=3_u32 {
        let what = "header: big endian GGUF, expected little endian, got the other";
        check(&with(version.swap_bytes()), what, "gguf-convert-endian");
    }
    for version in [0, 4, 4_u32.swap_bytes()] {
        let what = format!("header: unknown version of GGUF, expected 2 or 3, got {version}");
        check(&with(version), &what, NEWER);
    }
}

#[test]
fn counts_that_cannot_be() {
    let claiming = |tensors, pairs| {
        let file = File { claims: (tensors, pairs), ..one(&[8], 0, 0, 32) };
        file.bytes()
    };
    let left = claiming(None, None).len() as u64 - 24;
    for count in [left / 24 + 1, u64::MAX] {
        let what = format!("header: too many tensors, expected at most {}, got {count}", left / 24);
        check_bytes(&claiming(Some(count), None), &what, DAMAGED);
    }
    for count in [left / 13 + 1, u64::MAX] {
        let most = left / 13;
        let what = format!("header: too many key-values, expected at most {most}, got {count}");
        check_bytes(&claiming(None, Some(count)), &what, DAMAGED);
    }
    // As many as there is room for, and other bytes in their place.
    assert!(read_bytes(&claiming(Some(left / 24), None), 1000).is_err());
}

#[test]
fn files_that_are_cut_short_or_too_long() {
    let whole = one(&[8], 0, 0, 32);
    let bytes = whole.bytes();
    let head = whole.head().len();
    for cut in 4..head {
        let error = read_bytes(&bytes[..cut], 1000).expect_err("a part");
        let message = error.message();
        let known = message.contains("reaches beyond the end of the file, expected at most")
            || message.contains("too many tensors");
        assert!(known && error.advice().is_some(), "{cut}: {error}");
    }
    let size = bytes.len();
    for cut in head..size {
        let what = format!("header: the file is cut short, expected {size} bytes, got {cut}");
        check_bytes(&bytes[..cut], &what, INCOMPLETE);
    }
    let long = [&bytes[..], b"x"].concat();
    let what =
        format!("header: bytes after the last tensor, expected {size} bytes, got {}", size + 1);
    check_bytes(&long, &what, DAMAGED);
    let error = read_bytes(&bytes, head as u64 - 1).expect_err("a long header");
    assert!(error.message().contains("header too large, expected at most"), "{error}");
    assert!(error.advice().is_some_and(|hint| hint.contains("max_header_bytes")));
    read_bytes(&bytes, head as u64).expect("as long as allowed");
}

#[test]
fn keys_and_values_that_cannot_be() {
    let with = |key: &str, value| one(&[1], 0, 0, 4).pair(key, value);
    let row = |key: &str, value, what: &str, hint: &str| {
        check(&with(key, value), &format!("key `{key}`: {what}"), hint);
    };
    let kind = "unknown type of value, expected 0 to 12, got";
    row("k", (13, vec![]), &format!("{kind} 13"), NEWER);
    row("k", array(u32::MAX, 0, &[]), &format!("{kind} {}", u32::MAX), NEWER);
    let nested = "an array of arrays, expected one of texts or numbers, got more";
    row("k", array(9, 1, &[0; 12]), nested, DAMAGED);
    row(
        "k",
        string(b"a\xff"),
        "bytes that are no text, expected UTF-8, got byte 0xff at 1",
        DAMAGED,
    );
    let alignment = "general.alignment";
    for wrong in [0, 3, 48, 1 << 21] {
        let what = format!("expected a power of two of at most 1048576, got {wrong}");
        let file = with(alignment, uint32(wrong));
        let error = read_bytes(&file.bytes(), 1000).expect_err("no alignment");
        assert!(error.message().contains(&what), "{error}");
    }
    row(alignment, (0, vec![32]), "wrong type, expected uint32, got uint8", DAMAGED);
    row(alignment, string(b"32"), "wrong type, expected uint32, got string", DAMAGED);
    row(alignment, array(4, 1, &[32, 0, 0, 0]), "wrong type, expected uint32, got array", DAMAGED);
    let shape = "comfy.gguf.orig_shape.a";
    let most = "a shape, expected at most 8 whole numbers, got";
    row(shape, array(6, 1, &[0; 4]), &format!("{most} 1 of float32"), DAMAGED);
    row(shape, array(5, 9, &[0; 36]), &format!("{most} 9 of int32"), DAMAGED);
    let negative = "a shape, expected dimensions of at least 0, got -1";
    row(shape, array(5, 1, &[255; 4]), negative, DAMAGED);
    let other = one(&[2, 3], 0, 0, 24).pair(shape, array(4, 1, &[5, 0, 0, 0]));
    let what =
        "the shape in its key-value does not fit, expected as many elements as [3, 2], got [5]";
    check(&other, &format!("tensor `a`: {what}"), DAMAGED);
    let twice = with("k", uint32(1)).pair("k", uint32(1));
    check(&twice, "header: duplicate key `k`, expected unique names, got it twice", "unique names");
    let long = "k".repeat(65_536);
    let what = "key number 0: key too long, expected at most 65535 bytes, got 65536";
    check(&with(&long, uint32(1)), what, DAMAGED);
    read_bytes(&with(&long[1..], uint32(1)).bytes(), 1 << 20).expect("as long as allowed");
    let mut file = with("k", uint32(1));
    file.pairs[0].0 = b"\xc3".to_vec();
    let what = "key number 0: bytes that are no text, expected UTF-8, got byte 0xc3 at 0";
    check(&file, what, DAMAGED);
    let mut much = one(&[1], 0, 0, 4);
    for key in ["x", "y", "z"] {
        much = much.pair(key, string(&vec![b'x'; 8 << 20]));
    }
    let what = "key `y`: too much metadata, expected at most 16777216 bytes, got more";
    check(&much, what, "write the file again without it");
}

#[test]
fn tensors_that_cannot_be() {
    let row =
        |file: &File, what: &str, hint: &str| check(file, &format!("tensor `a`: {what}"), hint);
    let rank = "too many dimensions, expected at most 4, got";
    row(&one(&[1; 5], 0, 0, 4), &format!("{rank} 5"), DAMAGED);
    row(&one(&[1], 99, 0, 4), "unknown type, expected one of ggml's, got number 99", NEWER);
    for (id, name) in [(4, "Q4_2"), (31, "Q4_0_4_4"), (38, "IQ4_NL_8_8")] {
        let what = format!("type {name}, expected one that ggml still has, got number {id}");
        row(&one(&[32], id, 0, 4), &what, "quantise the model again");
    }
    let part = "rows of 33 elements, expected whole blocks of 32 of q8_0, got a part of one";
    row(&one(&[33, 32], 8, 0, 4), part, DAMAGED);
    let scalar = "rows of 1 elements, expected whole blocks of 32 of q8_0, got a part of one";
    row(&one(&[], 8, 0, 4), scalar, DAMAGED);
    let overflow = "shape overflows, expected less than 2^64 bytes, got";
    let big = 1 << 62;
    row(&one(&[big], 0, 0, 4), &format!("{overflow} f32 of [{big}]"), DAMAGED);
    row(&one(&[0, big, 4], 24, 0, 0), &format!("{overflow} i8 of [4, {big}, 0]"), DAMAGED);
    row(
        &one(&[1], 0, 16, 20),
        "its data lies askew, expected a multiple of 32 bytes, got 16",
        DAMAGED,
    );
    let far = u64::MAX - 31;
    let what = format!("its data reaches too far, expected less than 2^64 bytes, got 32 at {far}");
    row(&one(&[8], 0, far, 32), &what, DAMAGED);
    let name = "n".repeat(4097);
    let what = "tensor number 0: name too long, expected at most 4096 bytes, got 4097";
    check(&File::of(vec![entry(&name, &[1], 0, 0)], 4), what, DAMAGED);
    let file = File::of(vec![Entry { name: b"\xff".to_vec(), ..entry("", &[1], 0, 0) }], 4);
    let what = "tensor number 0: bytes that are no text, expected UTF-8, got byte 0xff at 0";
    check(&file, what, DAMAGED);
    let twice = File::of(vec![entry("a", &[1], 0, 0), entry("a", &[1], 0, 32)], 36);
    let what = "header: duplicate tensor `a`, expected unique names, got it twice";
    check(&twice, what, "unique names");
}

#[test]
fn tensors_that_do_not_tile_the_data() {
    let row = |second: Entry, data: usize, what: &str| {
        let file = File::of(vec![entry("a", &[9], 0, 0), second], data);
        let start =
            format!("expected its data to start at byte 64, got {}", file.tensors[1].offset);
        check(&file, &format!("header: tensor `b` {what}, {start}"), DAMAGED);
    };
    row(entry("b", &[1], 0, 32), 36, "overlaps `a`");
    row(entry("b", &[1], 0, 96), 100, "leaves a hole after `a`");
    row(entry("b", &[0], 0, 32), 36, "overlaps `a`");
    let file = one(&[1], 0, 32, 36);
    let what = "leaves a hole after the header, expected its data to start at byte 0, got 32";
    check(&file, &format!("header: tensor `a` {what}"), DAMAGED);
}

#[test]
fn what_the_texts_of_a_file_hold_is_escaped() {
    let file = File::of(vec![entry("a\n`\u{202e}", &[33], 8, 0)], 4);
    let error = read_bytes(&file.bytes(), 1000).expect_err("a part of a block");
    assert!(error.message().contains("tensor `a\\u{a}\\u{60}\\u{202e}`"), "{error}");
    assert!(read_bytes(&[&b"GGUF"[..], &text(b"")].concat(), 1000).is_err());
}
