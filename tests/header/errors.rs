//! A table over every way a header can be refused: the whole message, and the hint.

use submerge_core::error::{Error, Kind};

use super::{PATH, file, read_bytes};

/// `{"a": <entry>}` with 4 bytes of data.
fn entry(text: &str) -> Vec<u8> {
    file(format!(r#"{{"a":{text}}}"#).as_bytes(), 4)
}

/// One entry `a`, F32, one element, with another one after it.
fn beside(text: &str) -> Vec<u8> {
    let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    file(format!("{{{a},{text}}}").as_bytes(), 8)
}

fn check(bytes: &[u8], message: &str, hint: &str) {
    let error = read_bytes(bytes, 100_000_000).expect_err(message);
    assert!(matches!(error.kind(), Kind::Checkpoint), "{error:?}");
    let expected = format!("{PATH}: {message}");
    assert_eq!(error.message(), expected);
    well_formed(&error, hint);
}

pub fn well_formed(error: &Error, hint: &str) {
    let message = error.message();
    let (expected, got) = (message.find(", expected "), message.rfind(", got "));
    assert!(expected.is_some() && got > expected, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    let advice = error.advice().unwrap_or_default();
    assert!(advice.contains(hint) && !advice.is_empty(), "{message}: {advice}");
}

const DAMAGED: &str = "damaged or was written by a faulty tool";

#[test]
fn damaged_files() {
    let whole = entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#);
    let cut = |n: usize| &whole[..n];
    let size = whole.len();
    check(b"", "file too short, expected at least 8 bytes, got 0", "incomplete");
    check(cut(7), "file too short, expected at least 8 bytes, got 7", "incomplete");
    check(
        &[0; 4096],
        "header length is zero, expected at least 2 bytes, got 0",
        "begins with zeros",
    );
    check(cut(8), &beyond(0, 8, size - 12), "incomplete");
    check(cut(size - 5), &beyond(size - 13, size - 5, size - 12), "incomplete");
    let short = format!("file is cut short, expected {size} bytes, got {}", size - 1);
    check(cut(size - 1), &short, "incomplete");
    let long = format!("bytes after the last tensor, expected {size} bytes, got {}", size + 1);
    check(&[&whole[..], b"x"].concat(), &long, DAMAGED);
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    check(&huge, &beyond(2, 10, usize::MAX), "incomplete");
}

fn beyond(room: usize, size: usize, length: usize) -> String {
    format!(
        "header reaches beyond the end of the file, expected at most {room} bytes \
         (the file has {size}), got {length}"
    )
}

#[test]
fn the_limit_on_the_header_names_its_option() {
    let error = read_bytes(&file(b"{}      ", 0), 7).expect_err("a long header");
    let expected = format!("{PATH}: header too large, expected at most 7 bytes, got 8");
    assert_eq!(error.message(), expected);
    well_formed(&error, "max_header_bytes");
    assert!(read_bytes(&file(b"{}      ", 0), 8).is_ok());
}

#[test]
fn files_of_other_kinds_are_recognised() {
    let files: [(&[u8], &str); 8] = [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "web page"),
        (b"\xef\xbb\xbf\n<html><head></head><body>no</body></html>", "web page"),
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0archive/data.pkl", "PyTorch checkpoint"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "PyTorch checkpoint"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "HDF5"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip"),
        (b"{\"weight_map\": {}}", "index"),
    ];
    for (bytes, hint) in files {
        let error = read_bytes(bytes, 1000).expect_err(hint);
        well_formed(&error, hint);
    }
    // A short file counts too, and so does one long enough for its magic to be a valid length.
    well_formed(&read_bytes(b"PK\x03\x04", 1000).expect_err("four bytes"), "PyTorch");
    let long = [b"<p>\0\0\0\0\0".to_vec(), vec![b' '; 0x3e_703c]].concat();
    well_formed(&read_bytes(&long, 1000).expect_err("a page"), "web page");
}

#[test]
fn text_that_is_not_a_header() {
    check(
        &file(b"{\"\xff\":1}", 0),
        "header is not text, expected UTF-8, got byte 0xff at 2",
        DAMAGED,
    );
    for json in [" {}", "\n{}", "[]", "null", "\u{feff}{}", "\"\u{1}{\""] {
        let got = submerge_core::error::quoted(json);
        let message = format!("header: does not begin with an object, expected `{{`, got {got}");
        check(&file(json.as_bytes(), 0), &message, DAMAGED);
    }
    let rows = [
        (
            "{",
            "header: not JSON near byte 0 (EOF while parsing an object), expected the text of a header, got `{`",
        ),
        (
            "{}{}",
            "header: not JSON near byte 2 (trailing characters), expected the text of a header, got `{}`",
        ),
        (
            "{}\0",
            "header: not JSON near byte 2 (trailing characters), expected the text of a header, got `\\u{0}`",
        ),
        (
            "{\n\n1:2}",
            "header: not JSON near byte 3 (key must be a string), expected the text of a header, got `1:2}`",
        ),
        (
            r#"{"\ud800":1}"#,
            "header: not JSON near byte 8 (unexpected end of hex escape), expected the text of a header, got `\":1}`",
        ),
        (
            r#"{"a":{"dtype":"\udc00"}}"#,
            "tensor `a`, `dtype`: not JSON near byte 20 (lone leading surrogate in hex escape), expected the text of a header, got `0\"}}`",
        ),
        (
            "{\"a\":{\"dtype\":\"F\n\"}}",
            "tensor `a`, `dtype`: not JSON near byte 17 (control character (\\u0000-\\u001F) found while parsing a string), expected the text of a header, got `\"}}`",
        ),
    ];
    for (json, message) in rows {
        check(&file(json.as_bytes(), 0), message, DAMAGED);
    }
}

#[test]
fn metadata_that_is_not_text() {
    let object = "expected an object of strings, got";
    let row = |json: &str, message: &str, hint: &str| {
        let json = format!("{{\"__metadata__\":{json}}}");
        check(&file(json.as_bytes(), 0), &format!("`__metadata__`: {message}"), hint);
    };
    row("[]", &format!("wrong type near byte 17 of the JSON, {object} an array"), DAMAGED);
    row("\"x\"", &format!("wrong type near byte 18 of the JSON, {object} a string"), DAMAGED);
    row(
        "{\"a\":1}",
        "wrong type near byte 21 of the JSON, expected a string, got integer `1`",
        DAMAGED,
    );
    row(
        "{\"a\":{}}",
        "wrong type near byte 20 of the JSON, expected a string, got an object",
        DAMAGED,
    );
    row(
        "{\"a\":null}",
        "wrong type near byte 24 of the JSON, expected a string, got null",
        DAMAGED,
    );
    let twice = "duplicate metadata key `a`, expected unique names, got it twice";
    row(r#"{"a":"1","b":"2","a":"1"}"#, twice, "unique names");
    let twice = r#"{"__metadata__":{},"__metadata__":{}}"#;
    let message = "header: duplicate key `__metadata__`, expected unique names, got it twice";
    check(&file(twice.as_bytes(), 0), message, "unique names");
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(16 << 20));
    row(&long, "too much metadata, expected at most 16777216 bytes, got more", "without it");
}

#[test]
fn entries_that_do_not_describe_a_tensor() {
    const NAMES: &str = "`dtype`, `shape` and `data_offsets`";
    let row = |json: &str, message: &str, hint: &str| {
        check(&entry(json), &format!("tensor `a`{message}"), hint);
    };
    let object = format!("expected an object with {NAMES}, got");
    row("[1]", &format!(": wrong type near byte 4 of the JSON, {object} an array"), DAMAGED);
    row("7", &format!(": wrong type near byte 5 of the JSON, {object} integer `7`"), DAMAGED);
    row("{}", &format!(": no `dtype`, expected {NAMES}, got less"), DAMAGED);
    row(r#"{"dtype":"U8"}"#, &format!(": no `shape`, expected {NAMES}, got less"), DAMAGED);
    let less = format!(": no `data_offsets`, expected {NAMES}, got less");
    row(r#"{"dtype":"U8","shape":[]}"#, &less, DAMAGED);
    let twice = ": duplicate field `shape`, expected unique names, got it twice";
    row(r#"{"shape":[],"shape":[]}"#, twice, "unique names");
    let unknown = format!(": unknown field, expected {NAMES} only, got `x\\u{{0}}`");
    row(r#"{"x\u0000":1}"#, &unknown, "may change the tensor's meaning");
    let dtype = "unknown dtype, expected a safetensors dtype such as `BF16`, got";
    row(r#"{"dtype":"bf16"}"#, &format!(", `dtype`: {dtype} `bf16`"), "newer submerge");
    let wrong = "wrong type near byte";
    row(
        r#"{"dtype":{"F32":null}}"#,
        &format!(", `dtype`: {wrong} 13 of the JSON, expected a string, got an object"),
        DAMAGED,
    );
    row(
        r#"{"shape":3}"#,
        &format!(
            ", `shape`: {wrong} 14 of the JSON, expected an array of whole numbers, got integer `3`"
        ),
        DAMAGED,
    );
    for (number, got) in [
        ("-1", "integer `-1`"),
        ("1.0", "floating point `1.0`"),
        ("18446744073709551616", "floating point `1.8446744073709552e+19`"),
        ("\"1, expected u64\"", "a string"),
        ("[[[[", "an array"),
    ] {
        let error =
            read_bytes(&entry(&format!(r#"{{"shape":[{number}]}}"#)), 1000).expect_err(number);
        let message = format!("of the JSON, expected a whole number from 0 to 2^64 - 1, got {got}");
        assert!(error.message().ends_with(&message), "{error}");
        well_formed(&error, DAMAGED);
    }
    let many = format!(r#"{{"shape":[{}1]}}"#, "1,".repeat(64));
    row(&many, ", `shape`: too many numbers, expected at most 64, got more", DAMAGED);
    let few = ", `data_offsets`: too few numbers, expected a start and an end, got 1";
    row(r#"{"data_offsets":[0]}"#, few, DAMAGED);
    let many = ", `data_offsets`: too many numbers, expected at most 2, got more";
    row(r#"{"data_offsets":[0,4,4]}"#, many, DAMAGED);
}

#[test]
fn sizes_that_do_not_add_up() {
    let row = |dtype: &str, shape: &str, offsets: &str, message: &str| {
        let json = format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#);
        check(&entry(&json), &format!("tensor `a`: {message}"), DAMAGED);
    };
    row(
        "F32",
        "[2]",
        "[0,4]",
        "F32 of shape [2] does not fit its `data_offsets` 0..4, expected 8 bytes, got 4",
    );
    row(
        "F32",
        "[0]",
        "[0,4]",
        "F32 of shape [0] does not fit its `data_offsets` 0..4, expected 0 bytes, got 4",
    );
    row(
        "F32",
        "[1]",
        "[4,0]",
        "`data_offsets` run backwards, expected an end of at least 4, got 0",
    );
    row(
        "F4",
        "[3]",
        "[0,2]",
        "F4 of shape [3] does not fill whole bytes, expected a multiple of 8 bits, got 12",
    );
    row(
        "F6_E2M3",
        "[3]",
        "[0,3]",
        "F6_E2M3 of shape [3] does not fill whole bytes, expected a multiple of 8 bits, got 18",
    );
    let overflow = "shape overflows, expected less than 2^64 bits, got";
    let big = "4611686018427387904";
    row("U8", &format!("[{big}]"), "[0,4]", &format!("{overflow} U8 of [{big}]"));
    row("U8", &format!("[{big}, 4, 0]"), "[0,0]", &format!("{overflow} U8 of [{big}, 4, 0]"));
    row("U8", &format!("[0, {big}, 4]"), "[0,0]", &format!("{overflow} U8 of [0, {big}, 4]"));
}

#[test]
fn tensors_that_do_not_tile_the_data() {
    let row = |name: &str, start: u64, message: &str, hint: &str| {
        let end = start + 4;
        let json =
            format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{start},{end}]}}"#);
        check(&beside(&json), message, hint);
    };
    row("a", 4, "duplicate tensor `a`, expected unique names, got it twice", "unique names");
    row("b", 3, "tensor `b` overlaps `a`, expected its data to start at byte 4, got 3", DAMAGED);
    row(
        "b",
        5,
        "tensor `b` leaves a hole after `a`, expected its data to start at byte 4, got 5",
        DAMAGED,
    );
    row(
        "b\\n`\\u202e",
        5,
        "tensor `b\\u{a}\\u{60}\\u{202e}` leaves a hole after `a`, expected its data to start at byte 4, got 5",
        DAMAGED,
    );
    let inside = r#""b":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}"#;
    check(
        &beside(inside),
        "tensor `b` overlaps `a`, expected its data to start at byte 4, got 2",
        DAMAGED,
    );
    let late = entry(r#"{"dtype":"U8","shape":[2],"data_offsets":[2,4]}"#);
    check(
        &late,
        "tensor `a` leaves a hole after the header, expected its data to start at byte 0, got 2",
        DAMAGED,
    );
}

#[test]
fn too_long_names_and_too_many_tensors() {
    let named = |n: usize| {
        let name = "n".repeat(n);
        file(
            format!(r#"{{"{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#).as_bytes(),
            0,
        )
    };
    assert!(read_bytes(&named(4096), 100_000).is_ok());
    check(&named(4097), "header: name too long, expected at most 4096 bytes, got 4097", DAMAGED);
    let entries = (0..=1_000_000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
    let json = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let message = "tensor `1000000`: too many tensors, expected at most 1000000, got more";
    check(&file(json.as_bytes(), 0), message, DAMAGED);
}

#[test]
fn hostile_names_are_accepted() {
    for name in ["", "\\u0000", "\\n", "../../etc/passwd", "\\u202e", "__metadata__ "] {
        let json = format!(r#"{{"{name}":{{"dtype":"U8","shape":[],"data_offsets":[0,1]}}}}"#);
        let header = read_bytes(&file(json.as_bytes(), 1), 1000).expect(name);
        let decoded: String = serde_json::from_str(&format!("\"{name}\"")).expect("JSON");
        assert!(header.tensor(&decoded).is_some(), "{name}");
    }
}
