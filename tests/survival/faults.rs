//! Disks that fill up and inputs that shrink or change under a running job.

// A skipped test has to say so.
#![allow(clippy::print_stderr)]

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use submerge_core::error::Kind;

use super::{Running, Scene};

/// A filesystem of its own that goes away with the value.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    /// `None`, with the reason on standard error, where mounting is not permitted.
    fn new(at: &'a Path, options: &str) -> Option<Self> {
        if mount(&["-t", "tmpfs", "-o", options, "tmpfs"], at) {
            return Some(Self(at));
        }
        eprintln!("skipped: mounting a tmpfs needs root");
        None
    }

    /// Change its size, if what it holds fits.
    fn resize(&self, bytes: u64) -> bool {
        mount(&["-o", &format!("remount,size={bytes}")], self.0)
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let status = Command::new("mount").args(arguments).arg(at).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_disk_too_small_is_refused_before_anything_is_written() {
    let scene = Scene::small();
    let folder = scene.folder();
    let Some(_mount) = Mount::new(&folder, "size=64k") else { return };
    let error = scene.to_file().refused();
    assert!(matches!(error.kind(), Kind::Io { .. }), "{error:?}");
    let expected = format!("expected {} bytes free, got 65536", scene.bytes() + 104);
    assert!(error.message().contains(&expected), "{error}");
    assert!(error.advice().is_some_and(|hint| hint.contains("free some space")), "{error}");
    assert_eq!(scene.left(), [""; 0]);
}

#[test]
fn a_disk_without_room_for_one_more_file_is_an_error() {
    let scene = Scene::small();
    let folder = scene.folder();
    let Some(_mount) = Mount::new(&folder, "size=4m,nr_inodes=1") else { return };
    let error = scene.to_file().refused();
    assert!(matches!(error.kind(), Kind::Io { .. }), "{error:?}");
    assert_eq!(scene.left(), [""; 0]);
}

/// The space is there when the job begins and is taken away while it writes.
#[test]
fn a_disk_that_fills_up_meanwhile_leaves_nothing() {
    let scene = Scene::slow();
    let folder = scene.folder();
    let size = scene.bytes() + (1 << 20);
    let Some(mount) = Mount::new(&folder, &format!("size={size}")) else { return };
    let mut running = scene.to_file().slowly().spawn(&scene);
    running.until_written(1 << 20);
    let smaller = (1..64).any(|mib| mount.resize(running.written() + (mib << 20)));
    assert!(smaller, "the job was too fast");
    let outcome = running.outcome();
    assert!(outcome.contains("No space left on device"), "{outcome}");
    assert!(outcome.contains("hint: the disk is full"), "{outcome}");
    assert_eq!(scene.left(), [""; 0]);
    // The space of the unfinished file is free again.
    let ballast = scene.folder().join("ballast");
    fs::write(&ballast, vec![1; 1 << 20]).expect("the space of the failed job");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_not_a_signal() {
    let scene = Scene::small();
    let file = scene.root.path().join("job.json");
    let job = scene.to_file();
    let text = json!({"plan": job.plan.to_string(), "options": job.options.to_string()});
    fs::write(&file, text.to_string()).expect("room for the job");
    let program = std::env::current_exe().expect("this program");
    let mut limited = Command::new("sh"); // `ulimit -f` counts in units of 512 bytes
    limited.args(["-c", "ulimit -f 200; exec \"$0\" --exact child"]).arg(program);
    limited.env(super::CHILD, &file).stdout(Stdio::null());
    let outcome = Running { child: limited.spawn().expect("a shell"), file }.outcome();
    assert!(outcome.contains("larger than this process may write"), "{outcome}");
    assert!(outcome.contains("got 102400"), "{outcome}");
    assert_eq!(scene.left(), [""; 0]);
}

#[test]
fn an_input_truncated_meanwhile_is_an_error() {
    for (io, keep) in [("pread", 0), ("pread", 20), ("auto", 0), ("auto", 20)] {
        for threads in [1, 2] {
            let scene = Scene::slow();
            let job = scene.to_file().slowly().option("io", io).option("threads", threads);
            let mut running = job.spawn(&scene);
            running.until_written(scene.bytes() / 4);
            let input = File::options().write(true).open(scene.input("b")).expect("an input");
            input.set_len(scene.bytes() * keep / 100).expect("a truncated input");
            let outcome = running.outcome();
            let expected = ["can no longer be read", "changed while it was being read"];
            assert!(expected.iter().any(|text| outcome.contains(text)), "{io}: {outcome}");
            assert_eq!(scene.left(), [""; 0], "{io}");
        }
    }
}

/// Also when its size and the time of its contents are put back.
#[test]
fn an_input_rewritten_meanwhile_is_an_error() {
    for (io, back) in [("pread", false), ("auto", false), ("pread", true), ("mmap", true)] {
        let scene = Scene::slow();
        let mut running = scene.to_file().slowly().option("io", io).spawn(&scene);
        running.until_written(1 << 20);
        let mut input = File::options().write(true).open(scene.input("a")).expect("an input");
        let modified = input.metadata().and_then(|found| found.modified()).expect("a time");
        input.seek(SeekFrom::End(-8)).expect("a place near its end");
        input.write_all(&[1; 8]).expect("room for eight bytes");
        if back {
            input.set_modified(modified).expect("its time put back");
        }
        let outcome = running.outcome();
        assert!(outcome.contains("changed while it was being read"), "{io}: {outcome}");
        assert_eq!(scene.left(), [""; 0], "{io}");
    }
}

#[test]
fn an_input_cut_short_and_grown_again_meanwhile_is_an_error() {
    let scene = Scene::slow();
    let mut running = scene.to_file().slowly().spawn(&scene);
    running.until_written(1 << 20);
    let input = File::options().write(true).open(scene.input("a")).expect("an input");
    let before = input.metadata().expect("its size and time");
    input.set_len(100).and_then(|()| input.set_len(before.len())).expect("the size it had");
    input.set_modified(before.modified().expect("a time")).expect("its time put back");
    let outcome = running.outcome();
    let expected = ["can no longer be read", "changed while it was being read"];
    assert!(expected.iter().any(|text| outcome.contains(text)), "{outcome}");
    assert_eq!(scene.left(), [""; 0]);
}

/// A new file under the old name is no change of the one that is open.
#[test]
fn an_input_replaced_meanwhile_is_read_to_its_end() {
    let scene = Scene::slow();
    let mut running = scene.to_file().slowly().spawn(&scene);
    running.until_written(1 << 20);
    fs::remove_file(scene.input("a")).expect("an input");
    fs::write(scene.input("a"), "another").expect("another file of that name");
    assert_eq!(running.outcome(), "ok");
    assert_eq!(scene.left(), ["merged.safetensors"]);
}
