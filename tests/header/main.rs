//! The header reader and writer from outside: every error, round trips, and agreement with the
//! `safetensors` crate on valid, damaged and hostile files.

mod agree;
mod errors;
mod memory;
mod properties;
mod written;

use std::path::Path;

use submerge_core::error::Result;
use submerge_core::format::safetensors::{Header, read};
use submerge_core::io::source::{LocalFile, Memory, ReadMode};

/// The name under which the messages speak of the file.
const PATH: &str = "some/model.safetensors";

/// A whole file: length, the text as given, `data` zero bytes.
fn file(json: &[u8], data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Read these bytes.
fn read_bytes(bytes: &[u8], limit: u64) -> Result<Header> {
    read(&Memory::new(PATH, "", bytes.into()), limit)
}

#[test]
fn a_header_is_read_in_data_order_and_by_name() {
    let json = br#"{"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},
        "__metadata__":{"z":"1","a":"\u00e9"},
        "s":{"data_offsets":[0,4],"shape":[],"dtype":"F32"},
        "none":{"dtype":"U8","shape":[3,0,2],"data_offsets":[4,4]}}  "#;
    let header = read_bytes(&file(json, 28), 1000).expect("a valid file");
    assert_eq!(header.data_start, 8 + json.len() as u64);
    let text = |pair: (&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
    assert_eq!(header.metadata, [text(("z", "1")), text(("a", "é"))]);
    let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["s", "none", "b"]);
    let sizes = |name| {
        let t = header.tensor(name).expect("a tensor of that name");
        (t.rows(), t.row_elements(), t.elements(), t.start, t.end)
    };
    assert_eq!(sizes("s"), (1, 1, 1, 0, 4));
    assert_eq!(sizes("b"), (2, 3, 6, 4, 28));
    assert_eq!(sizes("none"), (3, 0, 0, 4, 4));
    assert_eq!(header.tensor("c"), None);
}

#[test]
fn files_without_tensors_or_metadata_are_valid() {
    for json in ["{}", r#"{"__metadata__":{}}"#, r#"{"__metadata__":null}"#, "{} \n"] {
        let header = read_bytes(&file(json.as_bytes(), 0), 100).expect(json);
        assert_eq!((header.tensors.len(), header.metadata.len()), (0, 0), "{json}");
    }
}

#[test]
#[cfg(unix)]
fn only_regular_files_are_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = |path: &Path| LocalFile::open(path, ReadMode::Pread).expect_err("no regular file");
    let expected = format!(
        "{}: cannot be read, expected a regular file, got a folder",
        folder.path().display()
    );
    assert_eq!(open(folder.path()).message(), expected);
    let error = open(Path::new("/dev/null"));
    assert!(error.message().ends_with("got a special file"), "{error}");
}

/// The decided differences: the `safetensors` crate takes these files, submerge refuses them.
#[test]
fn the_stricter_cases_are_taken_by_the_safetensors_crate() {
    let name = "n".repeat(4097);
    let dims = "1,".repeat(64);
    let note = "x".repeat(16 << 20);
    let cases = [
        r#" {"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":[]}}"#.to_owned(),
        r#"{"a":["U8",[4],[0,4]]}"#.to_owned(),
        r#"{"a":{"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"__metadata__":{"a":"","a":"b"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0,4611686018427387904,8],"data_offsets":[0,0]}}"#.to_owned(),
        format!(r#"{{"{name}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#),
        format!(r#"{{"a":{{"dtype":"U8","shape":[{dims}4],"data_offsets":[0,4]}}}}"#),
        format!(r#"{{"__metadata__":{{"a":"{note}"}},"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#),
    ];
    for case in cases {
        let bytes = file(case.as_bytes(), 4);
        let shown = &case[..case.len().min(120)];
        assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok(), "{shown}");
        assert!(!agree::check(&bytes), "{shown}");
    }
}
