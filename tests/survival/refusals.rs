//! Outputs that must not be made: refused before anything is written.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use submerge_core::error::Kind;

use super::{Job, Scene};

/// The job is refused with this message and hint, and the folder holds what it held.
fn refused(scene: &Scene, job: &Job, message: &str, hint: &str) {
    let before = scene.left();
    let error = job.refused();
    assert!(matches!(error.kind(), Kind::Plan), "{error:?}");
    assert!(error.message().contains(message), "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains(hint)), "{error}");
    assert_eq!(scene.left(), before);
}

#[test]
fn an_existing_output_is_kept() {
    let scene = Scene::small();
    fs::write(scene.output(), "precious").expect("a file in the way");
    refused(&scene, &scene.to_file(), "exists", "overwrite=True");
    assert_eq!(fs::read(scene.output()).expect("the old file"), b"precious");
    scene.to_file().option("overwrite", true).run().expect("an allowed replacement");
    assert!(fs::metadata(scene.output()).expect("the new file").len() > scene.bytes());
    assert_eq!(scene.left(), ["merged.safetensors"]);
}

#[test]
fn an_existing_folder_is_kept_and_foreign_files_are_never_replaced() {
    let scene = Scene::small();
    let path = scene.folder().join("model");
    let job = || scene.job(&json!({"folder": {"path": path}}));
    fs::create_dir(&path).expect("an empty folder");
    job().run().expect("an empty folder that is filled");
    assert_eq!(super::names(&path), ["model.safetensors"]);
    refused(&scene, &job(), "exists", "overwrite=True");
    fs::write(path.join("thesis.txt"), "precious").expect("a file in the folder");
    let overwriting = job().option("overwrite", true);
    refused(&scene, &overwriting, "got 1 others: `thesis.txt`", "another output");
    fs::remove_file(path.join("thesis.txt")).expect("a free folder");
    fs::write(path.join("model-00001-of-00002.safetensors"), "old").expect("an old shard");
    overwriting.run().expect("an allowed replacement");
    assert_eq!(super::names(&path), ["model.safetensors"]);
    assert_eq!(scene.left(), ["model"]);
}

#[test]
fn an_input_is_never_the_output_whatever_it_is_called() {
    let scene = Scene::small();
    let before = fs::read(scene.input("a")).expect("an input");
    let links = scene.root.path().join("links");
    symlink(scene.root.path(), &links).expect("a link to the folder");
    fs::hard_link(scene.input("a"), scene.output()).expect("a hard link");
    for path in [scene.input("a"), scene.output(), links.join("b.safetensors")] {
        let job = scene.job(&json!({"file": {"path": path}})).option("overwrite", true);
        refused(&scene, &job, "input", "never overwritten");
    }
    assert_eq!(fs::read(scene.input("a")).expect("an input"), before);
}

#[test]
fn an_input_inside_a_replaced_folder_is_refused() {
    let scene = Scene::small();
    let path = scene.folder().join("model");
    fs::create_dir(&path).expect("a folder");
    fs::hard_link(scene.input("b"), path.join("model.safetensors")).expect("a hard link");
    let job = || scene.job(&json!({"folder": {"path": path}})).option("overwrite", true);
    refused(&scene, &job(), "is the input", "never overwritten");
    // Under another name the replacement would still take the input away with the old folder.
    fs::rename(path.join("model.safetensors"), path.join("other.safetensors")).expect("a rename");
    refused(&scene, &job(), "is the input", "never overwritten");
}

#[test]
fn symbolic_links_are_followed_for_inputs_and_never_replaced_as_outputs() {
    let scene = Scene::small();
    fs::rename(scene.input("a"), scene.root.path().join("blob")).expect("a rename");
    symlink("blob", scene.input("a")).expect("a link, as in a hub cache");
    scene.to_file().run().expect("an input behind a link");
    fs::remove_file(scene.output()).expect("the output");
    for target in ["nowhere", "/dev/null", "../b.safetensors"] {
        symlink(target, scene.output()).expect("a link in the way");
        refused(&scene, &scene.to_file(), "exists", "overwrite=True");
        let overwriting = scene.to_file().option("overwrite", true);
        refused(&scene, &overwriting, "expected a regular file", "remove it yourself");
        assert_eq!(fs::read_link(scene.output()).expect("a link").to_str(), Some(target));
        fs::remove_file(scene.output()).expect("the link");
    }
}

#[test]
fn a_folder_that_does_not_exist_is_not_made() {
    let scene = Scene::small();
    let path = scene.folder().join("missing").join("merged.safetensors");
    let error = scene.job(&json!({"file": {"path": path}})).refused();
    assert!(matches!(error.kind(), Kind::Io { .. }), "{error:?}");
    assert!(error.advice().is_some_and(|hint| hint.contains("create the folder")), "{error}");
    assert_eq!(scene.left(), [""; 0]);
}

#[test]
fn an_input_that_changed_since_the_plan_is_refused() {
    let scene = Scene::small();
    let job = scene.to_file();
    let bytes = fs::read(scene.input("a")).expect("an input");
    fs::write(scene.input("a"), bytes).expect("the same bytes at another time");
    refused(&scene, &job, "is not the file the plan was made for", "make the plan again");
}
