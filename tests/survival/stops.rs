//! Jobs that are stopped from outside: cancelled, killed, overtaken by another.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use submerge_core::error::{Error, Kind};
use submerge_core::exec::execute;

use super::{Scene, names};

#[test]
fn an_observer_that_fails_stops_the_job() {
    let scene = Scene::slow();
    let mut calls = 0;
    let result = scene.to_file().slowly().watched(&mut |done, total| {
        calls += 1;
        assert!(done <= total && total == scene.bytes());
        Err(Error::cancelled())
    });
    assert!(matches!(result.expect_err("a stop").kind(), Kind::Cancelled));
    assert_eq!(calls, 1, "asked again after it had said stop, or never");
    assert_eq!(scene.left(), [""; 0]);
}

#[test]
fn the_observer_is_called_ten_times_a_second_at_most() {
    let scene = Scene::slow();
    let (begun, mut calls) = (Instant::now(), 0);
    let count = &mut |_, _| {
        calls += 1;
        Ok(())
    };
    scene.to_file().slowly().watched(count).expect("a job undisturbed");
    let most = begun.elapsed().as_millis() / 100 + 2; // at the start and at the end as well
    assert!((1..=most).contains(&calls), "{calls} calls, expected at most {most}");
}

#[test]
fn an_observer_that_panics_is_an_error_of_the_core() {
    let scene = Scene::slow();
    let result = scene.to_file().slowly().watched(&mut |_, _| panic!("on purpose"));
    let error = result.expect_err("a panic");
    assert!(matches!(error.kind(), Kind::Internal), "{error:?}");
    assert!(error.message().contains("on purpose"), "{error}");
    assert_eq!(scene.left(), [""; 0]);
}

#[test]
fn a_job_is_cancelled_from_another_thread_within_a_quarter_second() {
    let scene = Scene::slow();
    let job = scene.to_file().slowly();
    let (plan, options) = (job.plan.to_string(), job.options.to_string());
    let cancel = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let handle = scope.spawn(|| {
            let result = execute(&plan, &options, &cancel, &mut |_, _| Ok(()));
            (Instant::now(), result)
        });
        std::thread::sleep(Duration::from_millis(150));
        let asked = Instant::now();
        cancel.store(true, Ordering::Relaxed);
        let (ended, result) = handle.join().expect("no panic");
        assert!(matches!(result.expect_err("a stop").kind(), Kind::Cancelled));
        assert!(ended - asked < Duration::from_millis(250), "{:?}", ended - asked);
    });
    assert_eq!(scene.left(), [""; 0]);
}

#[test]
fn an_output_that_appears_meanwhile_is_kept() {
    let scene = Scene::slow();
    let result = scene.to_file().slowly().watched(&mut |_, _| {
        fs::write(scene.output(), "mine").expect("a file in the way");
        Ok(())
    });
    let error = result.expect_err("a refusal");
    assert!(error.message().contains("exists"), "{error}");
    assert_eq!(fs::read(scene.output()).expect("the other file"), b"mine");
    assert_eq!(scene.left(), ["merged.safetensors"]);
}

#[test]
fn a_killed_job_leaves_nothing() {
    let scene = Scene::slow();
    for percent in [0, 1, 30, 60, 90] {
        let mut running = scene.to_file().slowly().spawn(&scene);
        running.until_written(scene.bytes() / 100 * percent + 1);
        running.child.kill().expect("a process to kill");
        running.child.wait().expect("a killed process");
        assert_eq!(scene.left(), [""; 0], "killed at {percent} %");
    }
}

/// Whatever the moment, a folder is either whole or absent, and the next job sweeps what a kill in
/// the middle of the last step may leave.
#[test]
fn a_job_killed_at_any_moment_leaves_a_whole_folder_or_none() {
    let scene = Scene::sparse(2048);
    let path = scene.folder().join("model");
    let mut job = scene.job(&json!({"folder": {"path": path}}));
    let text = |i| json!({"path": format!("part{i}/config.json"), "text": "{}"});
    job.plan["texts"] = (0..20).map(text).collect();
    let begun = Instant::now();
    assert_eq!(job.spawn(&scene).outcome(), "ok");
    let whole = begun.elapsed();
    let expected = names(&path);
    assert_eq!(expected.len(), 21);
    for step in 0..40 {
        let _ = fs::remove_dir_all(&path);
        let mut running = job.spawn(&scene);
        std::thread::sleep(whole * step / 36);
        running.child.kill().expect("a process to kill or one that has ended");
        running.child.wait().expect("a process that has ended");
        if path.exists() {
            assert_eq!(names(&path), expected, "a folder without all its files");
        }
        let hidden = |name: &String| name.starts_with(".model.") && name.contains(".part");
        assert!(scene.left().iter().all(|name| name == "model" || hidden(name)));
    }
    let _ = fs::remove_dir_all(&path);
    job.run().expect("a job undisturbed");
    assert_eq!(scene.left(), ["model"]);
}

#[test]
fn only_abandoned_folders_of_the_same_output_are_swept() {
    let scene = Scene::small();
    let at = |name: &str| scene.folder().join(name);
    let hidden = |name: &str| at(&format!(".merged.safetensors.{name}"));
    let folder = |path: &Path, file: &str| {
        fs::create_dir_all(path).expect("a folder");
        File::create(path.join(file)).expect("a file in it")
    };
    // Of a living job; with something no job makes; named for another output or by nobody.
    folder(&hidden("1-0.part"), "lock").lock().expect("a lock");
    let living = folder(&hidden("2-0.part"), "lock");
    living.lock().expect("a lock");
    folder(&hidden("3-0.part"), "thesis.txt");
    for name in [".other.safetensors.4-0.part", "merged.safetensors.4-0.part"] {
        folder(&at(name), "lock");
    }
    for name in ["x-0.part", "4-.part", "4-0.part~", "bak"] {
        folder(&hidden(name), "lock");
    }
    let pipe = hidden("5-0.part");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    fs::create_dir(hidden("6-0.part")).expect("a folder");
    let pipe = hidden("6-0.part").join("lock");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    std::os::unix::fs::symlink(scene.root.path(), hidden("7-0.part")).expect("a link");
    let mut expected = scene.left();
    expected.retain(|name| name != ".merged.safetensors.1-0.part");
    expected.push("merged.safetensors".to_owned());
    // Abandoned: locked by nobody, locked before and no more, never locked.
    folder(&hidden("8-0.part"), "lock");
    folder(&hidden("9-1.part"), "0");
    folder(&hidden("9-2.part").join("new"), "model.safetensors");
    scene.to_file().run().expect("a job");
    expected.sort();
    assert_eq!(scene.left(), expected);
}

/// What stood there is put back if nothing else does, kept if it may be the only copy, and goes if
/// the new output had taken its place.
#[test]
fn what_may_be_the_only_copy_is_never_swept() {
    let cases: [(&[&str], Option<&str>, &str); 5] = [
        (&["new", "old"], None, "old"),
        (&["old"], None, "old"),
        (&["new", "old"], Some("mine"), "kept"),
        (&["old"], Some("mine"), "swept"),
        (&["new"], None, "swept"),
    ];
    for (held, standing, outcome) in cases {
        let scene = Scene::small();
        let path = scene.folder().join("model");
        let hidden = scene.folder().join(".model.1-0.part");
        let fill = |folder: &Path, text: &str| {
            fs::create_dir_all(folder).expect("a folder");
            fs::write(folder.join("model.safetensors"), text).expect("a file");
        };
        for name in held {
            fill(&hidden.join(name), name);
        }
        if let Some(text) = standing {
            fill(&path, text);
        }
        let job = scene.job(&json!({"folder": {"path": path}}));
        let text = |at: &Path| fs::read_to_string(at.join("model.safetensors")).ok();
        if outcome == "old" {
            let error = job.refused();
            assert!(error.advice().is_some_and(|hint| hint.contains("put back")), "{error}");
            assert_eq!(text(&path).as_deref(), Some("old"));
            assert_eq!(scene.left(), ["model"]);
            continue;
        }
        let report = job.option("overwrite", true).report().expect("a job");
        let kept = outcome == "kept";
        assert_eq!(report.notes.iter().any(|note| note.contains("kept")), kept, "{held:?}");
        assert_eq!(text(&hidden.join("old")).as_deref(), kept.then_some("old"));
        let whole = fs::metadata(path.join("model.safetensors")).expect("the output");
        assert!(whole.len() > scene.bytes());
    }
}
