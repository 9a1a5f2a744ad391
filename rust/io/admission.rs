//! Whether an output may be made at all: asked before the first byte is written.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::source::{FileIdentity, read_exact_at};
use super::staging::Staging;
use super::sys;
use super::target::{Copied, CopyMode, Target, Text};
use crate::error::{Error, Result, quoted};

/// An output as it is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where it goes.
    pub target: &'a Target,
    /// Replace an existing output.
    pub overwrite: bool,
    /// Files that are read, which are never overwritten.
    pub inputs: Vec<(PathBuf, FileIdentity)>,
    /// Its weight files, and the size of each in bytes.
    pub weights: Vec<(&'a str, u64)>,
    /// Its small files.
    pub texts: &'a [Text],
    /// Files it takes over.
    pub copies: &'a [Copied],
}

/// Where an output will stand.
#[derive(Debug)]
pub struct Place {
    /// Its path; a link to a folder is followed, so that the link stays.
    pub path: PathBuf,
    /// The folder it is in.
    pub parent: PathBuf,
    /// Its name there.
    pub name: String,
}

impl Place {
    /// Find it; the folder it is in must be one that may be written.
    pub fn of(target: &Target) -> Result<Self> {
        let mut path = target.path().to_owned();
        if matches!(target, Target::Folder(_)) && path.is_symlink() && path.is_dir() {
            path = path.canonicalize().map_err(|e| Error::io(e, &path, "cannot be followed"))?;
        }
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            Error::plan(format!("{}: not a name an output can have", path.display()))
                .hint("give a file or folder name in UTF-8")
        })?;
        let name = name.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let folder = fs::metadata(&parent).and_then(|found| {
            let other = || io::ErrorKind::NotADirectory.into();
            found.is_dir().then_some(()).ok_or_else(other)
        });
        folder.map_err(|e| {
            Error::io(e, &parent, "cannot use this folder")
                .hint("create the folder of the output first")
        })?;
        sys::may_change(&parent)
            .map_err(|e| Error::io(e, &parent, "cannot create files in this folder"))?;
        Ok(Self { path, parent, name })
    }
}

impl Request<'_> {
    /// Refuse what could not be put in place in the end, or what would take something away.
    pub fn check(&self, place: &Place) -> Result<()> {
        self.check_existing(place)?;
        let hidden = Staging::next_path(&place.parent, &place.name).join("new");
        for (file, _) in self.files() {
            let path = self.target.resolve(file)?;
            self.check_not_input(&path)?;
            // The longest path on the way to it.
            found(&hidden.join(file))?;
        }
        self.check_space(place)
    }

    /// Every file of the output, and the bytes it takes; a link takes none.
    fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        let size = |copied: &Copied| if copied.how == CopyMode::Link { 0 } else { size_of(copied) };
        let texts = self.texts.iter().map(|text| (text.path.as_str(), text.text.len() as u64));
        let copies = self.copies.iter().map(move |c| (c.path.as_str(), size(c)));
        self.weights.iter().copied().chain(texts).chain(copies)
    }

    /// Refuse to replace what is there, unless that was asked for and takes nothing else away.
    pub fn check_existing(&self, place: &Place) -> Result<()> {
        let Some(metadata) = found(&place.path)? else { return Ok(()) };
        let here = self.target.path().display();
        if !self.overwrite {
            return self.check_empty(place, &metadata);
        }
        match self.target {
            Target::File(_) if metadata.is_file() => check_owner(place, &metadata),
            Target::Folder(_) if metadata.is_dir() => {
                check_owner(place, &metadata)?;
                self.check_folder(&place.path)
            }
            _ => {
                let kind = match self.target {
                    Target::File(_) => "a regular file",
                    Target::Folder(_) => "a folder",
                };
                let what =
                    format!("{here}: cannot be overwritten, expected {kind}, got something else");
                Err(Error::plan(what).hint("remove it yourself or choose another output"))
            }
        }
    }

    /// A folder in which there is nothing is as good as none: `mkdir out` came before. The one that
    /// this process works in would be another one behind its back.
    fn check_empty(&self, place: &Place, found: &Metadata) -> Result<()> {
        let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut all| all.next().is_none());
        let is_current = || same_path(&place.path, Path::new("."));
        let is_folder = matches!(self.target, Target::Folder(_)) && found.is_dir();
        if !is_folder || !is_empty(&place.path) || is_current() {
            return Err(taken(self.target.path()));
        }
        check_owner(place, found)?;
        check_removable(&place.path)
    }

    /// An existing folder is only replaced if it holds nothing but a checkpoint, and no input.
    fn check_folder(&self, folder: &Path) -> Result<()> {
        let expected: Vec<&str> = self.files().map(|(path, _)| path).collect();
        let mut foreign = Vec::new();
        let mut pending = vec![folder.to_owned()];
        while let Some(at) = pending.pop() {
            check_removable(&at)?;
            for entry in fs::read_dir(&at).map_err(|e| Error::io(e, &at, "cannot list"))? {
                let entry = entry.map_err(|e| Error::io(e, &at, "cannot list"))?;
                let path = entry.path();
                let relative = path.strip_prefix(folder).ok().and_then(Path::to_str).unwrap_or("");
                let weights = relative.ends_with(".safetensors")
                    || relative.ends_with(".safetensors.index.json");
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    pending.push(path);
                    continue;
                }
                self.check_not_input(&path)?;
                if !weights && !expected.contains(&relative) {
                    foreign.push(quoted(relative));
                }
            }
        }
        self.check_not_taken_from(folder)?;
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

    /// What is taken over from a folder would go with it. Another name of a file elsewhere may.
    fn check_not_taken_from(&self, folder: &Path) -> Result<()> {
        let Ok(folder) = folder.canonicalize() else { return Ok(()) };
        let inside = |copied: &&Copied| {
            copied.from.canonicalize().is_ok_and(|from| from.starts_with(&folder))
        };
        match self.copies.iter().find(inside) {
            None => Ok(()),
            Some(copied) => Err(is_input(&copied.from, &copied.from, "is")),
        }
    }

    fn check_not_input(&self, path: &Path) -> Result<()> {
        let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
        let existing = FileIdentity::from_metadata(&metadata);
        let is_same = |input: &Path, identity: &FileIdentity| {
            identity.same_file(&existing) || (existing.ino == 0 && same_path(input, path))
        };
        let is_alike = |input: &Path, identity: &FileIdentity| {
            let comparable = identity.dev != existing.dev && identity.size == existing.size;
            let comparable = comparable && metadata.is_file(); // reading a pipe would wait for ever
            comparable && same_bytes(path, input, existing.size).unwrap_or(false)
        };
        for (input, identity) in &self.inputs {
            if is_same(input, identity) {
                return Err(is_input(path, input, "is"));
            }
            if is_alike(input, identity) {
                return Err(is_input(path, input, "is, or is a copy of,"));
            }
        }
        Ok(())
    }

    fn check_space(&self, place: &Place) -> Result<()> {
        let (parent, path) = (&place.parent, self.target.path());
        let free = sys::free_space(parent)
            .map_err(|e| Error::io(e, parent, "cannot ask for free space"))?;
        let shared = self.copies.iter().filter(|copied| copied.how == CopyMode::Reflink);
        let needed =
            self.files().map(|(_, bytes)| bytes).sum::<u64>() - shared.map(size_of).sum::<u64>();
        if let Some(free) = free.filter(|&free| free < needed) {
            let what = format!("not enough space, expected {needed} bytes free, got {free}");
            let full = Error::io(io::ErrorKind::StorageFull.into(), path, &what);
            return Err(full.hint("free some space or choose another folder"));
        }
        let Some(limit) = sys::file_size_limit() else { return Ok(()) };
        let Some((file, size)) = self.files().find(|&(_, bytes)| bytes > limit) else {
            return Ok(());
        };
        let what = format!(
            "{}: larger than this process may write, expected a limit of {size} bytes, got {limit}",
            self.target.resolve(file)?.display()
        );
        Err(Error::plan(what).hint("raise it with `ulimit -f unlimited`"))
    }
}

fn size_of(copied: &Copied) -> u64 {
    fs::metadata(&copied.from).map_or(0, |found| found.len())
}

/// The error of a path that is not free.
pub(super) fn taken(path: &Path) -> Error {
    Error::plan(format!("{}: exists, expected a path that is free", path.display()))
        .hint("pass `overwrite=True` or choose another output")
}

fn is_input(path: &Path, input: &Path, is: &str) -> Error {
    let here = path.display();
    let what = if path == input {
        format!("{here}: is an input, expected another file")
    } else {
        format!("{here}: {is} the input {}, expected another file", input.display())
    };
    Error::plan(what).hint("inputs are never overwritten; choose another output")
}

/// What is at `path`; a path that cannot be (its name is too long, say) is an error.
fn found(path: &Path) -> Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(e, path, "cannot be used for the output")
            .hint("choose another, perhaps shorter, path")),
    }
}

/// In a folder with the sticky bit (`/tmp`) only its owner can move what is there.
fn check_owner(place: &Place, found: &Metadata) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(parent) = fs::metadata(&place.parent) else { return Ok(()) };
        let (user, sticky) = (sys::user(), parent.mode() & 0o1000 != 0);
        if sticky && user != 0 && user != found.uid() && user != parent.uid() {
            return Err(not_removable(&place.path, "belongs to another user"));
        }
    }
    let _ = found;
    if sys::is_mount_point(&place.path) {
        return Err(not_removable(&place.path, "is where a filesystem is mounted"));
    }
    Ok(())
}

/// Everything in a replaced folder is removed: all of it must be ours to remove.
fn check_removable(folder: &Path) -> Result<()> {
    if sys::is_mount_point(folder) {
        return Err(not_removable(folder, "is where a filesystem is mounted"));
    }
    sys::may_change(folder)
        .map_err(|e| Error::io(e, folder, "cannot be overwritten").hint("choose another output"))
}

fn not_removable(path: &Path, why: &str) -> Error {
    let what = format!("{}: cannot be overwritten, as it {why}", path.display());
    Error::plan(what).hint("choose another output, such as a new name in a folder of your own")
}

fn same_path(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Whether two files of one size hold the same bytes, as far as samples tell: their ends, and
/// places between them.
///
/// Through another filesystem (FUSE, an overlay, a second mount of a network share) one file has
/// another device and inode, and perhaps other times; its bytes are all that stays.
fn same_bytes(a: &Path, b: &Path, size: u64) -> io::Result<bool> {
    const SAMPLE: u64 = 64 << 10;
    const SAMPLES: u64 = 16;
    let (a, b) = (File::open(a)?, File::open(b)?);
    let mut buffers = [Vec::new(), Vec::new()];
    let last = size.saturating_sub(SAMPLE);
    for at in (0..=SAMPLES).map(|i| last / SAMPLES * i).chain([last]) {
        for (file, buffer) in [&a, &b].into_iter().zip(&mut buffers) {
            buffer.resize(usize::try_from(size.min(SAMPLE)).unwrap_or(0), 0);
            read_exact_at(file, buffer, at)?;
        }
        if buffers[0] != buffers[1] {
            return Ok(false);
        }
    }
    Ok(true)
}
