//! A whole output, file or folder, that appears in one step or not at all.
//!
//! Weights are written to files without a name (or hidden ones, where the filesystem has no such
//! thing). `commit` forces them to the device, assembles a folder in the hidden one of `staging` if
//! there is more than one file, and makes everything visible by one rename. Then it looks: success
//! means that what stands there is what was written.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::admission::{self, Place, Request};
use super::source::{FileIdentity, LocalFile, ReadMode, Source as _};
use super::staging::{self, Staging};
use super::sys;
use super::target::{Copied, CopyMode, Target};
use super::unpublished::{CachePolicy, Unpublished, is_unsupported, move_new};
use crate::error::{Error, Result};

/// An output that does not exist yet.
#[derive(Debug)]
pub struct Transaction<'a> {
    request: Request<'a>,
    place: Place,
    cache: CachePolicy,
    /// Made when it is first needed: a job that is killed before leaves nothing.
    staging: Option<Staging>,
    /// Its files, and what each is, whatever it will be called.
    finished: Vec<(String, Unpublished, FileIdentity)>,
    notes: Vec<String>,
}

impl<'a> Transaction<'a> {
    /// Check that the output may be made; of this output nothing is written yet.
    pub fn begin(request: Request<'a>, cache: CachePolicy) -> Result<Self> {
        let place = Place::of(request.target)?;
        let notes = staging::sweep(&place.parent, &place.name, &place.path);
        request.check(&place).map_err(|error| match notes.first() {
            Some(note) => error.also(note),
            None => error,
        })?;
        Ok(Self { request, place, cache, staging: None, finished: Vec::new(), notes })
    }

    /// A new file of the output, to be handed back to [`Self::finished`].
    pub fn create(&mut self, relative: &str) -> Result<Unpublished> {
        let shown = self.request.target.resolve(relative)?;
        let number = self.finished.len();
        let hidden = || Ok(Self::staging(&mut self.staging, &self.place)?.file_path(number));
        Unpublished::create(&self.place.parent, shown, self.cache, hidden)
    }

    fn staging<'s>(made: &'s mut Option<Staging>, place: &Place) -> Result<&'s Staging> {
        Ok(match made {
            Some(staging) => staging,
            None => made.insert(Staging::create(&place.parent, &place.name)?),
        })
    }

    /// Force a finished file to the device and keep it for the commit.
    pub fn finished(&mut self, relative: &str, sink: Unpublished) -> Result<()> {
        sink.force()?;
        let wrote = FileIdentity::of(sink.file(), sink.shown())?;
        self.finished.push((relative.to_owned(), sink, wrote));
        Ok(())
    }

    /// Take over the files the output has from elsewhere; returns the bytes written.
    pub fn take_over(&mut self, cancelled: &dyn Fn() -> bool) -> Result<u64> {
        let copies = self.request.copies;
        let open = |copied: &Copied| LocalFile::open(&copied.from, ReadMode::Pread);
        let (links, copies): (Vec<_>, Vec<_>) =
            copies.iter().partition(|copied| copied.how == CopyMode::Link);
        // Weights in several files belong together: all are opened before the first is read, and
        // none may have changed when the last was.
        let sources = copies.iter().map(|copied| open(copied)).collect::<Result<Vec<_>>>()?;
        links.into_iter().try_for_each(|copied| self.link(copied))?;
        let mut written = 0;
        for (copied, source) in copies.into_iter().zip(&sources) {
            written += self.copy(copied, source, cancelled)?;
        }
        sources.iter().try_for_each(LocalFile::check_unchanged)?;
        Ok(written)
    }

    fn link(&mut self, copied: &Copied) -> Result<()> {
        let path = Self::staging(&mut self.staging, &self.place)?.new_path();
        let path = inside(&path, &copied.path)?;
        // The target of a symbolic link is meant, never the link: hub caches are full of them.
        let from =
            copied.from.canonicalize().map_err(|e| Error::io(e, &copied.from, "cannot open"))?;
        fs::hard_link(&from, &path).map_err(|e| {
            Error::io(e, &copied.from, "cannot be linked into the output")
                .hint("links need one filesystem; use `copy` or `auto`")
        })
    }

    fn copy(
        &mut self,
        copied: &Copied,
        source: &LocalFile,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<u64> {
        const PIECE: u64 = 1 << 20;
        let mut sink = self.create(&copied.path)?;
        let size = source.identity().size();
        let shared = copied.how != CopyMode::Copy && source.share_with(sink.file());
        if copied.how == CopyMode::Reflink && !shared {
            let what = format!("{}: cannot be reflinked into the output", copied.from.display());
            return Err(Error::plan(what).hint("use `link`, `copy` or `auto`"));
        }
        let mut buffer = Vec::new();
        while !shared && sink.written() < size {
            if cancelled() {
                return Err(Error::cancelled());
            }
            let at = sink.written();
            buffer.resize(usize::try_from((size - at).min(PIECE)).unwrap_or(0), 0);
            source.read(at, &mut buffer)?;
            if let Some(pending) = sink.append(&buffer)? {
                pending.wait()?;
            }
        }
        self.finished(&copied.path, sink)?;
        Ok(if shared { 0 } else { size })
    }

    /// Make the output visible in one step; returns what is worth telling about it.
    pub fn commit(mut self) -> Result<Vec<String>> {
        match self.request.target {
            Target::File(_) => self.place_file()?,
            Target::Folder(_) => {
                let new = Self::staging(&mut self.staging, &self.place)?.new_path();
                self.assemble(&new)?;
                self.place_folder(&new)?;
            }
        }
        self.check_in_place()?;
        Ok(self.tidy_up())
    }

    fn place_file(&mut self) -> Result<()> {
        let path = &self.place.path;
        let Some((_, sink, _)) = self.finished.first_mut() else {
            return Err(Error::internal("nothing to commit"));
        };
        if !self.request.overwrite {
            return sink.publish(path).map_err(|e| taken_or(e, self.request.target.path()));
        }
        // A link cannot replace a name, so take a hidden one first and rename over the old file.
        let new = Self::staging(&mut self.staging, &self.place)?.new_path();
        sink.publish(&new).map_err(|e| Error::io(e, &new, "cannot be named"))?;
        self.request.check_existing(&self.place)?;
        fs::rename(&new, path).map_err(|e| Error::io(e, path, "cannot be replaced"))
    }

    fn assemble(&mut self, new: &Path) -> Result<()> {
        for (relative, sink, _) in &mut self.finished {
            let path = inside(new, relative)?;
            sink.publish(&path).map_err(|e| taken_or(e, &path))?;
        }
        for text in self.request.texts {
            let path = inside(new, &text.path)?;
            let write = || {
                let mut file = File::create_new(&path)?;
                file.write_all(text.text.as_bytes())?;
                file.sync_all()
            };
            write().map_err(|e| Error::io(e, &path, "cannot write"))?;
        }
        sync_tree(new)
    }

    fn place_folder(&self, new: &Path) -> Result<()> {
        let path = &self.place.path;
        match move_new(new, path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map_err(|e| taken_or(e, self.request.target.path())),
        }
        self.request.check_existing(&self.place)?; // others may have put something there since
        if !self.request.overwrite {
            return self.replace_empty(new);
        }
        match sys::rename_swap(new, path) {
            Err(e) if is_unsupported(&e) => self.replace_in_two_steps(new),
            other => other.map_err(|e| Error::io(e, path, "cannot be replaced")),
        }
    }

    /// A rename replaces a folder only while it is empty, whatever others put there meanwhile; who may
    /// look into it stays as it was.
    fn replace_empty(&self, new: &Path) -> Result<()> {
        let path = &self.place.path;
        let replace = || {
            let permissions = fs::metadata(path)?.permissions();
            if permissions != fs::metadata(new)?.permissions() {
                fs::set_permissions(new, permissions)?;
            }
            if cfg!(windows) {
                fs::remove_dir(path)?; // there a rename replaces no folder
            }
            fs::rename(new, path)
        };
        replace().map_err(|e| taken_or(e, self.request.target.path()))
    }

    /// Where names cannot be exchanged there is a moment without an output. Whoever dies in it
    /// leaves `old` beside `new`, and the next job puts it back.
    fn replace_in_two_steps(&self, new: &Path) -> Result<()> {
        let (path, old) = (&self.place.path, new.with_file_name("old"));
        fs::rename(path, &old).map_err(|e| Error::io(e, path, "cannot be moved aside"))?;
        let result = sync_parent(&old)
            .and_then(|()| sync_parent(path))
            .and_then(|()| move_new(new, path).map_err(|e| taken_or(e, path)));
        result.map_err(|error| match move_new(&old, path) {
            Ok(()) => error,
            Err(e) => error.also(&format!("what stood there is {} ({e})", old.display())),
        })
    }

    /// Whether what stands there is what was written: others may do anything to a path.
    fn check_in_place(&mut self) -> Result<()> {
        let path = &self.place.path;
        let at = |name: &str| if name.is_empty() { path.clone() } else { path.join(name) };
        let texts = self.request.texts.iter().map(|text| (at(&text.path), None));
        let copies = self.request.copies.iter().map(|copied| (at(&copied.path), None));
        let weights = self.finished.iter().map(|(name, _, wrote)| (at(name), Some(wrote)));
        for (at, wrote) in weights.chain(texts).chain(copies) {
            let is_ours = match at.symlink_metadata() {
                Ok(found) => wrote.is_none_or(|wrote| {
                    let found = FileIdentity::from_metadata(&found);
                    found.size == wrote.size && (wrote.ino == 0 || wrote.same_file(&found))
                }),
                Err(e) if e.kind() == ErrorKind::NotFound => false,
                Err(e) => {
                    let here = at.display();
                    self.notes.push(format!("{here}: is in place, but cannot be looked at: {e}"));
                    return Ok(());
                }
            };
            if !is_ours {
                self.staging.iter().for_each(Staging::keep_replaced);
                let here = at.display();
                let what =
                    format!("{here}: is not what was written, expected the file of this job");
                return Err(Error::plan(what)
                    .hint("another program changed the output as it was put in place"));
            }
        }
        Ok(())
    }

    /// The output is in place: whatever goes wrong from here on is told, and is no failure.
    fn tidy_up(mut self) -> Vec<String> {
        let path = &self.place.path;
        if let Err(e) = sync_parent(path) {
            self.notes.push(format!(
                "{e}; {} is in place, but may not survive a power cut",
                path.display()
            ));
        }
        if let Some(staging) = self.staging.take() {
            if let Err(e) = staging.remove() {
                self.notes.push(format!("{e}; what {} replaced is in it", path.display()));
            }
            let _ = sync_parent(path); // at worst an empty name comes back
        }
        self.notes
    }
}

/// The error of an output that appeared while the job ran, or another refusal of the system.
fn taken_or(error: std::io::Error, path: &Path) -> Error {
    if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) {
        return admission::taken(path);
    }
    Error::io(error, path, "cannot be put in place")
}

/// A path below `folder`, with the folders on the way to it.
fn inside(folder: &Path, relative: &str) -> Result<PathBuf> {
    let path = folder.join(relative);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io(e, parent, "cannot create"))?;
    }
    Ok(path)
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

fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        match File::open(folder).and_then(|open| open.sync_all()) {
            Err(e) if !is_unsupported(&e) => {
                Err(Error::io(e, folder, "cannot be forced to the device"))
            }
            _ => Ok(()), // some network filesystems know no such thing of folders
        }
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}
