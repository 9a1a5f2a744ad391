//! A whole output, file or folder, that appears in one step or not at all.
//!
//! Weights are written to files without a name (or hidden ones, where the filesystem has no such
//! thing). `commit` forces them to the device, assembles a folder under a hidden name if there is
//! more than one file, and makes everything visible by one rename. A hidden name left by a killed
//! job is locked by nobody, and the next job beside it sweeps it away.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use super::admission;
use super::sink::{self, CachePolicy, Sink};
use super::source::FileIdentity as Identity;
use super::sys;
use crate::error::{Error, Result, quoted};

/// Where the output goes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// One file.
    File(Location),
    /// A folder with everything the plan lists.
    Folder(Location),
}

/// A path of the output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The path, as the user gave it.
    pub path: PathBuf,
}

impl Target {
    /// The path that will exist.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(at) | Self::Folder(at) => &at.path,
        }
    }

    /// Where a file of the plan will be; `relative` is empty for a single file.
    pub fn resolve(&self, relative: &str) -> Result<PathBuf> {
        match self {
            Self::File(at) if relative.is_empty() => Ok(at.path.clone()),
            Self::Folder(at) if is_plain(relative) => Ok(at.path.join(relative)),
            _ => Err(Error::plan(format!(
                "plan path {}: expected a relative path inside the output",
                quoted(relative)
            ))),
        }
    }
}

/// A small file whose contents the plan holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Relative path inside the output folder.
    pub path: String,
    /// Contents.
    pub text: String,
}

/// A file taken over from elsewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Relative path inside the output folder.
    pub path: String,
    /// The file to take.
    pub from: PathBuf,
    /// How to take it.
    pub how: CopyMode,
}

/// How a file is taken over.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CopyMode {
    /// Share its extents where the filesystem can, else copy.
    Auto,
    /// A hard link: no space, but a later change of one changes both.
    Link,
    /// Share its extents, or fail.
    Reflink,
    /// A full copy.
    Copy,
}

/// How an output is made.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Replace an existing output.
    pub overwrite: bool,
    /// What happens to cached pages.
    pub cache: CachePolicy,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// An output that does not exist yet.
#[derive(Debug)]
pub struct Transaction<'a> {
    target: &'a Target,
    manner: Manner,
    parent: PathBuf,
    name: String,
    /// Tells the jobs of this process apart: two may make the same output at once.
    serial: u64,
    finished: Vec<(String, Sink)>,
}

impl<'a> Transaction<'a> {
    /// Check that the output may be made; nothing is written yet.
    ///
    /// `inputs` are refused as outputs by device and inode, `needed` bytes must be free.
    pub fn begin(
        target: &'a Target,
        manner: Manner,
        inputs: &[(PathBuf, Identity)],
        files: &[&str],
        needed: u64,
    ) -> Result<Self> {
        let path = target.path();
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            Error::plan(format!("{}: not a name an output can have", path.display()))
                .hint("give a file or folder name in UTF-8")
        })?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let folder = fs::metadata(&parent).and_then(|found| {
            let other = || std::io::ErrorKind::NotADirectory.into();
            found.is_dir().then_some(()).ok_or_else(other)
        });
        folder.map_err(|e| {
            Error::io(e, &parent, "cannot use this folder")
                .hint("create the folder of the output first")
        })?;
        admission::check_existing(target, manner.overwrite, files, inputs)?;
        for file in files {
            admission::check_not_input(&target.resolve(file)?, inputs)?;
        }
        admission::check_space(&parent, path, needed)?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = name.to_owned();
        let transaction = Self { target, manner, parent, name, serial, finished: Vec::new() };
        transaction.sweep();
        Ok(transaction)
    }

    /// A new file of the output, to be handed back to [`Self::finished`].
    pub fn create(&self, relative: &str) -> Result<Sink> {
        let shown = self.target.resolve(relative)?;
        let hidden = self.hidden(&format!("{}", self.finished.len()));
        Sink::create(&self.parent, hidden, &shown, self.manner.cache)
    }

    /// Force a finished file to the device and keep it for the commit.
    pub fn finished(&mut self, relative: &str, sink: Sink) -> Result<()> {
        sink.settle()?;
        self.finished.push((relative.to_owned(), sink));
        Ok(())
    }

    /// Take over a file from elsewhere.
    pub fn take(&mut self, copied: &Copied, cancelled: &dyn Fn() -> bool) -> Result<u64> {
        if copied.how == CopyMode::Link {
            return Ok(0); // linked when the folder is assembled: a link cannot be made ahead
        }
        let mut sink = self.create(&copied.path)?;
        let from =
            File::open(&copied.from).map_err(|e| Error::io(e, &copied.from, "cannot open"))?;
        let len = Identity::of(&from, &copied.from)?.size;
        let shared = copied.how != CopyMode::Copy && sys::reflink(&from, sink.file()).is_ok();
        if copied.how == CopyMode::Reflink && !shared {
            let what = format!("{}: cannot be reflinked into the output", copied.from.display());
            return Err(Error::plan(what).hint("use `link`, `copy` or `auto`"));
        }
        if !shared {
            copy_into(&from, &copied.from, len, &mut sink, cancelled)?;
        }
        self.finished(&copied.path, sink)?;
        Ok(if shared { 0 } else { len })
    }

    /// Make the output visible in one step.
    pub fn commit(mut self, texts: &[Text], copies: &[Copied]) -> Result<()> {
        match self.target {
            Target::File(at) => {
                let (_, mut sink) =
                    self.finished.pop().ok_or_else(|| Error::internal("nothing to commit"))?;
                self.place_file(&mut sink, &at.path)?;
            }
            Target::Folder(at) => {
                let staging = self.hidden("folder");
                fs::create_dir(&staging).map_err(|e| Error::io(e, &staging, "cannot create"))?;
                let result = self
                    .assemble(&staging, texts, copies)
                    .and_then(|()| self.place_folder(&staging, &at.path));
                if result.is_err() {
                    let _ = fs::remove_dir_all(&staging);
                }
                result?;
            }
        }
        sync_folder(&self.parent)
    }

    fn place_file(&self, sink: &mut Sink, path: &Path) -> Result<()> {
        if !self.manner.overwrite || path.symlink_metadata().is_err() {
            return sink.publish(path);
        }
        // A link cannot replace a name, so take a hidden one first and rename over the old file.
        let hidden = self.hidden("ready");
        sink.publish(&hidden)?;
        fs::rename(&hidden, path).map_err(|e| {
            let _ = fs::remove_file(&hidden);
            Error::io(e, path, "cannot be replaced")
        })
    }

    fn assemble(&mut self, staging: &Path, texts: &[Text], copies: &[Copied]) -> Result<()> {
        let lock = File::open(staging).ok();
        let _ = lock.as_ref().map(File::try_lock);
        for (relative, sink) in &mut self.finished {
            sink.publish(&inside(staging, relative)?)?;
        }
        for text in texts {
            let path = inside(staging, &text.path)?;
            let write = || {
                let mut file = File::create_new(&path)?;
                file.write_all(text.text.as_bytes())?;
                file.sync_all()
            };
            write().map_err(|e| Error::io(e, &path, "cannot write"))?;
        }
        for copied in copies.iter().filter(|c| c.how == CopyMode::Link) {
            let path = inside(staging, &copied.path)?;
            // The target of a symbolic link is meant, never the link: hub caches are full of them.
            let from = copied
                .from
                .canonicalize()
                .map_err(|e| Error::io(e, &copied.from, "cannot open"))?;
            fs::hard_link(&from, &path).map_err(|e| {
                Error::io(e, &copied.from, "cannot be linked into the output")
                    .hint("links need one filesystem; use `copy` or `auto`")
            })?;
        }
        sync_tree(staging)
    }

    fn place_folder(&self, staging: &Path, path: &Path) -> Result<()> {
        if !self.manner.overwrite || path.symlink_metadata().is_err() {
            return sink::move_new(staging, path).map_err(|e| sink::taken_or(e, path));
        }
        if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            let taken = std::io::ErrorKind::AlreadyExists; // it was a folder when the job began
            return Err(sink::taken_or(taken.into(), path));
        }
        let old = match sys::rename_swap(staging, path) {
            Ok(()) => staging.to_owned(),
            Err(e) if sink::is_unsupported(&e) => {
                let aside = self.hidden("old");
                fs::rename(path, &aside)
                    .map_err(|e| Error::io(e, path, "cannot be moved aside"))?;
                if let Err(e) = fs::rename(staging, path) {
                    let _ = fs::rename(&aside, path);
                    return Err(Error::io(e, path, "cannot be replaced"));
                }
                aside
            }
            Err(e) => return Err(Error::io(e, path, "cannot be replaced")),
        };
        fs::remove_dir_all(&old)
            .map_err(|e| Error::io(e, &old, "the replaced output cannot be removed"))
    }

    /// A hidden name beside the output that no other job uses.
    fn hidden(&self, what: &str) -> PathBuf {
        let (name, process, serial) = (&self.name, std::process::id(), self.serial);
        self.parent.join(format!(".{name}.{process}-job{serial}x{what}.part"))
    }

    /// Remove hidden names of this output that a killed job left behind.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.parent) else { return };
        let prefix = format!(".{}.", self.name);
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(|n| is_hidden_name(n, &prefix)) {
                continue;
            }
            let path = entry.path();
            let abandoned = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
            if abandoned {
                let _ =
                    if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        }
    }
}

/// Whether `name` is exactly a hidden name of the output behind `prefix`: digits, a word, `.part`.
fn is_hidden_name(name: &str, prefix: &str) -> bool {
    let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".part"));
    middle.and_then(|m| m.split_once('-')).is_some_and(|(pid, what)| {
        !pid.is_empty()
            && pid.bytes().all(|b| b.is_ascii_digit())
            && what.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

fn is_plain(relative: &str) -> bool {
    !relative.is_empty()
        && Path::new(relative).components().all(|c| matches!(c, Component::Normal(_)))
        && !relative.contains(['\\', '\0', ':'])
}

fn inside(folder: &Path, relative: &str) -> Result<PathBuf> {
    let path = folder.join(relative);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io(e, parent, "cannot create"))?;
    }
    Ok(path)
}

fn copy_into(
    from: &File,
    path: &Path,
    len: u64,
    sink: &mut Sink,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut buffer = Vec::new();
    while sink.written() < len {
        if cancelled() {
            return Err(Error::cancelled());
        }
        let at = sink.written();
        buffer.resize(usize::try_from((len - at).min(PIECE)).unwrap_or(0), 0);
        super::source::read_exact_at(from, &mut buffer, at)
            .map_err(|e| Error::io(e, path, "cannot read"))?;
        if let Some(settle) = sink.append(&buffer)? {
            settle.wait()?;
        }
    }
    Ok(())
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(e, folder, "cannot list"))? {
        let entry = entry.map_err(|e| Error::io(e, folder, "cannot list"))?;
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            sync_tree(&entry.path())?;
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        let sync = || File::open(folder)?.sync_all();
        sync().map_err(|e| Error::io(e, folder, "cannot be forced to the device"))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}
