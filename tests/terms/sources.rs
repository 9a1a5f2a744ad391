//! Memory and answered ranges as sources, memory as a sink: the same bytes as between files.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use submerge_core::exec::execute;
use submerge_core::io::source::{Identity, LocalFile, Memory, Ranges, ReadMode, Source, Version};

use super::job::{Job, Model, rows};

const HEIGHT: usize = 300;

fn models() -> [Model; 2] {
    [1, 2].map(|seed| Model::new(seed, HEIGHT, 700, 2))
}

fn slerp(models: &[Model]) -> Job {
    let operands = json!([[rows(0, "w", HEIGHT)], [rows(1, "w", HEIGHT)]]);
    Job::new(models, &operands, &json!({"combine": {"slerp": {"alpha": 0.3}}}))
}

/// Answers ranges of some bytes as a server would, one version after the other.
fn answered(bytes: Vec<u8>, versions: &'static [&'static str], asked: &Arc<AtomicUsize>) -> Ranges {
    let version = Version { tag: versions[0].into(), size: bytes.len() as u64 };
    let asked = Arc::clone(asked);
    let answer = move |offset: u64, buffer: &mut [u8]| -> io::Result<String> {
        let turn = asked.fetch_add(1, Ordering::Relaxed);
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok(versions[turn.min(versions.len() - 1)].to_owned())
    };
    Ranges::new("https://somewhere/w", version, Box::new(answer))
}

#[test]
fn memory_and_files_give_the_same_bytes_and_figures() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let models = models();
    let job = slerp(&models);
    let done = job.run();
    let mut plan = job.plan.clone();
    for (i, model) in models.iter().enumerate() {
        let path = folder.path().join(format!("{i}"));
        fs::write(&path, model.file()).expect("room for an input");
        plan["sources"][i] = local(&path);
    }
    let out = folder.path().join("out");
    plan["target"] = json!({"file": {"path": out}});
    let cancel = AtomicBool::new(false);
    let report = execute(&plan.to_string(), &job.options.to_string(), &cancel, &mut |_, _| Ok(()))
        .expect("a job between files");
    assert_eq!(fs::read(out).expect("an output"), done.file);
    assert_eq!(report.units[0].stats, done.report.units[0].stats);
    assert_eq!(report.working_bytes, done.report.working_bytes);
    assert_eq!(report.bytes_written, done.report.bytes_written);
}

fn local(path: &Path) -> Value {
    let file = LocalFile::open(path, ReadMode::Pread).expect("an input");
    let Identity::File(identity) = *file.identity() else { panic!("a file has a file's identity") };
    json!({"file": {"path": path, "identity": identity}})
}

#[test]
fn answered_ranges_are_a_source_like_others() {
    let models = models();
    let mut job = slerp(&models);
    let expected = job.run().file;
    let asked = Arc::default();
    job.given[1].1 = Arc::new(answered(models[1].file(), &["v1"], &asked));
    assert_eq!(job.run().file, expected);
    assert!(asked.load(Ordering::Relaxed) > 4, "header, two passes and the end");
}

#[test]
fn an_answer_of_another_version_is_an_error_whenever_it_comes() {
    let models = models();
    let changes: [&'static [&'static str]; 3] =
        [&["v1", "v2"], &["v1", "v1", "v2"], &["v1", "v1", "v1", "v1", "v2"]];
    for versions in changes {
        let mut job = slerp(&models).with(&json!({"threads": 1}));
        job.given[1].1 = Arc::new(answered(models[1].file(), versions, &Arc::default()));
        let error = job.try_run().expect_err("a mixture").to_string();
        let expected =
            "https://somewhere/w: changed while it was being read, expected version `v1`, got `v2`";
        assert!(error.contains(expected), "{versions:?}: {error}");
    }
}

#[test]
fn what_the_plan_was_not_made_for_is_refused() {
    let models = models();
    let mut job = slerp(&models);
    job.plan["sources"][0]["given"]["identity"]["tag"] = json!("v0");
    let error = job.try_run().expect_err("another version").to_string();
    assert!(error.contains("model 0: is not the file the plan was made for"), "{error}");
    let mut job = slerp(&models);
    job.given.pop();
    let error = job.try_run().expect_err("a source missing").to_string();
    assert!(error.contains("plan source `model 1`: not given to the job"), "{error}");
}

/// Statistics are found again under the name that a source's owner has for its version, and only
/// where there is one.
#[test]
fn statistics_are_kept_of_what_promises_a_version() {
    let models = models();
    let known = slerp(&models).with(&json!({"statistics": {}}));
    let first = known.run();
    assert_eq!((first.report.statistics_reused, first.report.statistics.len()), (0, 1));
    let again = slerp(&models).with(&json!({"statistics": first.report.statistics}));
    let second = again.run();
    assert_eq!((second.report.statistics_reused, &second.file), (1, &first.file));
    let mut nameless = slerp(&models).with(&json!({"statistics": {}}));
    nameless.given[0].1 = Arc::new(Memory::new("model 0", "", models[0].file().into()));
    nameless.plan["sources"][0]["given"]["identity"]["tag"] = json!("");
    let third = nameless.run();
    assert_eq!((third.report.statistics.len(), &third.file), (0, &first.file));
}
