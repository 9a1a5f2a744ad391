//! Whether an output may be made at all: asked before the first byte is written.

use std::fs;
use std::path::{Path, PathBuf};

use super::source::FileIdentity as Identity;
use super::sys;
use super::transaction::Target;
use crate::error::{Error, Result, quoted};

pub(super) fn check_existing(
    target: &Target,
    overwrite: bool,
    files: &[&str],
    inputs: &[(PathBuf, Identity)],
) -> Result<()> {
    let path = target.path();
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    let here = path.display();
    if !overwrite {
        let what = format!("{here}: exists, expected a path that is free");
        return Err(Error::plan(what)
            .hint("pass `--overwrite` (`overwrite=True`) or choose another output"));
    }
    match target {
        Target::File(_) if metadata.is_file() => Ok(()),
        Target::Folder(_) if metadata.is_dir() => check_folder(path, files, inputs),
        _ => {
            let kind =
                if matches!(target, Target::File(_)) { "a regular file" } else { "a folder" };
            let what =
                format!("{here}: cannot be overwritten, expected {kind}, got something else");
            Err(Error::plan(what).hint("remove it yourself or choose another output"))
        }
    }
}

/// An existing folder is only replaced if it holds nothing but a checkpoint, and no input.
fn check_folder(folder: &Path, files: &[&str], inputs: &[(PathBuf, Identity)]) -> Result<()> {
    let mut foreign = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(&at).map_err(|e| Error::io(e, &at, "cannot list"))? {
            let entry = entry.map_err(|e| Error::io(e, &at, "cannot list"))?;
            let path = entry.path();
            let relative = path.strip_prefix(folder).ok().and_then(Path::to_str).unwrap_or("");
            let weights =
                relative.ends_with(".safetensors") || relative.ends_with(".safetensors.index.json");
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                pending.push(path);
                continue;
            }
            check_not_input(&path, inputs)?;
            if !weights && !files.contains(&relative) {
                foreign.push(quoted(relative));
            }
        }
    }
    if foreign.is_empty() {
        return Ok(());
    }
    foreign.sort();
    let count = foreign.len();
    foreign.truncate(10);
    let what = format!(
        "{}: will not be replaced, expected only files of a checkpoint, got {count} others: {}",
        folder.display(),
        foreign.join(", ")
    );
    Err(Error::plan(what).hint("choose another output folder"))
}

pub(super) fn check_not_input(path: &Path, inputs: &[(PathBuf, Identity)]) -> Result<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let existing = Identity::from_metadata(&metadata);
    match inputs.iter().find(|(input, identity)| {
        identity.same_file(&existing) || (existing.ino == 0 && same_path(input, path))
    }) {
        None => Ok(()),
        Some((input, _)) => {
            let what = format!(
                "{}: is the input {}, expected another file",
                path.display(),
                input.display()
            );
            Err(Error::plan(what).hint("inputs are never overwritten; choose another output"))
        }
    }
}

fn same_path(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

pub(super) fn check_space(parent: &Path, path: &Path, needed: u64) -> Result<()> {
    let free =
        sys::free_space(parent).map_err(|e| Error::io(e, parent, "cannot ask for free space"))?;
    if let Some(free) = free.filter(|&free| free < needed) {
        let what = format!(
            "{}: not enough space, expected {needed} bytes free, got {free}",
            path.display()
        );
        let full = Error::io(std::io::ErrorKind::StorageFull.into(), path, &what);
        return Err(full.hint("free some space or choose another folder"));
    }
    if let Some(limit) = sys::file_size_limit().filter(|&limit| limit < needed) {
        let what = format!(
            "{}: larger than this process may write, expected a limit of {needed} bytes, got {limit}",
            path.display()
        );
        return Err(Error::plan(what).hint("raise it with `ulimit -f unlimited`"));
    }
    Ok(())
}
