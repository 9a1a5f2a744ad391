//! Memory stays within a small multiple of the file, whatever its header claims.
#![cfg(target_os = "linux")]

use std::process::Command;

use submerge_core::format::read;
use submerge_core::io::source::{LocalFile, ReadMode};

use super::build::{File, array, entry, string, text, uint32};

const CHILD: &str = "SUBMERGE_GGUF_UNDER_TEST";
/// What reading takes beside what it keeps: one buffer, or one text.
const BUFFERS: usize = 1 << 20;

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

/// Bytes used and the verdict on a file.
fn measure(bytes: &[u8]) -> (usize, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x");
    std::fs::write(&path, bytes).expect("room for the file");
    let test = std::env::current_exe().expect("this program");
    let run = Command::new(test).args(["--exact", "memory::child"]).env(CHILD, &path).output();
    assert!(run.expect("a second process").status.success());
    let line = std::fs::read_to_string(folder.path().join("x.out")).expect("a result");
    let (bytes, verdict) = line.split_once(' ').expect("two words");
    (bytes.parse().expect("a number"), verdict.to_owned())
}

#[test]
fn memory_follows_what_is_there_not_what_is_claimed() {
    let none = || File::of(Vec::new(), 0);
    let many: Vec<_> = (0..100_000).map(|i| entry(&i.to_string(), &[0], 8, 0)).collect();
    let tokens: Vec<u8> = (0..500_000).flat_map(|i: u32| text(&i.to_le_bytes())).collect();
    let keys = |count: u32| {
        let with = |file: File, i: u32| file.pair(&format!("{i}"), uint32(i));
        (0..count).fold(none(), with)
    };
    let far = 1_u64 << 40;
    let files = [
        (File::of(many, 0).bytes(), "100000 tensors", 12),
        (none().pair("tokens", array(8, 500_000, &tokens)).bytes(), "0 tensors", 0),
        (none().pair("scores", array(6, 2_000_000, &vec![0; 8_000_000])).bytes(), "0 tensors", 0),
        (none().pair("text", string(&vec![b'x'; 8_000_000])).bytes(), "0 tensors", 4),
        (none().pair("text", string(&vec![b'x'; 12_000_000])).bytes(), "0 tensors", 0),
        (keys(100_000).bytes(), "0 tensors", 12),
        // Claims alone.
        (none().pair("k", array(8, far, &[0; 64])).bytes(), "reaches beyond the end", 0),
        (none().pair("k", array(10, u64::MAX, &[0; 64])).bytes(), "reaches beyond the end", 0),
        (none().pair("k", (8, far.to_le_bytes().to_vec())).bytes(), "reaches beyond the end", 0),
        (File { claims: (Some(far), None), ..none() }.bytes(), "too many tensors", 0),
        (File { claims: (None, Some(far)), ..none() }.bytes(), "too many key-values", 0),
        (File::of(vec![entry("a", &[far, far], 0, 0)], 4).bytes(), "shape overflows", 0),
    ];
    for (bytes, verdict, times) in files {
        let (used, found) = measure(&bytes);
        assert!(found.contains(verdict), "{verdict}: {}", &found[..found.len().min(300)]);
        let most = times * bytes.len() + BUFFERS;
        assert!(used < most, "{verdict}: {used} bytes for {}, expected {most}", bytes.len());
    }
}
