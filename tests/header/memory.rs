//! Memory stays within a small multiple of the header, whatever the header claims.
#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::process::Command;

use submerge_core::format::safetensors::read;
use submerge_core::io::source::{LocalFile, ReadMode};

use super::file;

const CHILD: &str = "SUBMERGE_HEADER_UNDER_TEST";

/// The peak of this process's resident memory so far, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    let kib: usize = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib << 10
}

/// Not a test by itself: reads one file in a process of its own and prints how much memory it took.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let source = LocalFile::open(path.as_ref(), ReadMode::Pread).expect("the file under test");
    let before = peak();
    let outcome = read(&source, u64::MAX).map(|header| header.tensors.len());
    let verdict = outcome.map_or_else(|e| e.message().to_owned(), |n| format!("{n} tensors"));
    std::fs::write(format!("{}.out", path.display()), format!("{} {verdict}", peak() - before))
        .expect("a place for the result");
}

/// Bytes used and the verdict on a file with this text.
fn measure(json: &str, data: usize) -> (usize, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x");
    std::fs::write(&path, file(json.as_bytes(), data)).expect("room for the file");
    let test = std::env::current_exe().expect("this program");
    let run = Command::new(test).args(["--exact", "memory::child"]).env(CHILD, &path).output();
    assert!(run.expect("a second process").status.success());
    let line = std::fs::read_to_string(folder.path().join("x.out")).expect("a result");
    let (bytes, verdict) = line.split_once(' ').expect("two words");
    (bytes.parse().expect("a number"), verdict.to_owned())
}

#[test]
fn memory_follows_the_size_of_the_header() {
    let mut many = String::from("{");
    for i in 0..150_000 {
        let _ = write!(many, r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
    }
    many.pop();
    many.push('}');
    let notes = format!(r#"{{"__metadata__":{{{}"":""}}}}"#, r#""":"","#.repeat(1_500_000));
    let dims = format!(r#"{{"a":{{"shape":[{}1]}}}}"#, "1,".repeat(4_000_000));
    let name = format!(r#"{{"{}":1}}"#, "n".repeat(8_000_000));
    let deep = format!(r#"{{"a":{}"#, "[".repeat(8_000_000));
    let dtype = format!(r#"{{"a":{{"dtype":"{}"}}}}"#, "\\n".repeat(4_000_000));
    let texts = [
        (many, "150000 tensors"),
        (notes, "too much metadata"),
        (dims, "too many numbers"),
        (name, "name too long"),
        (deep, "wrong type"),
        (dtype, "unknown dtype"),
    ];
    for (json, verdict) in texts {
        let (used, found) = measure(&json, 0);
        assert!(found.contains(verdict), "{verdict}: {}", &found[..found.len().min(300)]);
        assert!(used < 8 * json.len(), "{verdict}: {used} bytes for {} of text", json.len());
    }
}
