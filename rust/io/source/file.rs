//! Local files, mapped or read by position.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Identity, ReadMode, Source, Window, vanished};
use crate::error::{Error, Result};
use crate::io::sys;
use crate::memory;

/// What tells one version of a local file from another without reading it.
///
/// Size, inode and time of modification can all be put back (`touch -r`, `rsync --times`, an inode
/// that is used again); the time of the last change of the inode cannot.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FileIdentity {
    /// Device number; 0 where the system has none.
    pub dev: u64,
    /// Inode number; 0 where the system has none.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of the contents, the name, links or permissions, in nanoseconds since
    /// 1970; 0 where the system has none.
    pub ctime_ns: i64,
}

impl FileIdentity {
    /// The identity of an open file.
    pub fn of(file: &File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io(e, path, "cannot read its size"))?;
        Ok(Self::from_metadata(&metadata))
    }

    /// The identity that `stat` gives.
    #[must_use]
    pub fn from_metadata(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            Self {
                dev: metadata.dev(),
                ino: metadata.ino(),
                size: metadata.len(),
                mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
                ctime_ns: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
            }
        }
        #[cfg(not(unix))]
        {
            let mtime =
                metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            let mtime_ns = mtime.and_then(|d| i64::try_from(d.as_nanos()).ok()).unwrap_or(0);
            Self { dev: 0, ino: 0, size: metadata.len(), mtime_ns, ctime_ns: 0 }
        }
    }

    /// Whether both are the same file on disk, whatever their contents.
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        self.ino != 0 && self.dev == other.dev && self.ino == other.ino
    }

    /// See [`Identity::key`]: without a time that cannot be put back nothing is promised.
    pub(super) fn key(&self) -> Option<String> {
        let Self { dev, ino, size, mtime_ns, ctime_ns } = self;
        (self.ctime_ns != 0).then(|| format!("{dev}:{ino}:{size}:{mtime_ns}:{ctime_ns}"))
    }
}

/// One open file.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    path: PathBuf,
    identity: Identity,
    /// Names it had when it was opened.
    links: u64,
    /// Given up as soon as somebody waits to change the file.
    mapping: Mutex<Option<Arc<sys::Mapping>>>,
}

impl LocalFile {
    /// Open `path` for reading in `mode`.
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(|e| Error::io(e, path, "cannot open"))?;
        if !kind.is_file() {
            return Err(special(path, &kind)); // to open a pipe would wait for ever
        }
        let file = File::open(path).map_err(|e| Error::io(e, path, "cannot open"))?;
        let identity = FileIdentity::of(&file, path)?;
        let map = || map(&file, identity.size);
        let mapping = match mode {
            ReadMode::Auto | ReadMode::Pread => None,
            ReadMode::Mmap => Some(map().ok_or_else(|| {
                let what = format!(
                    "{}: cannot be mapped, expected a local file of your own that nobody writes",
                    path.display()
                );
                Error::plan(what).hint("use `io='auto'` or `io='pread'`")
            })?),
        };
        let (path, links, mapping) = (path.to_owned(), links(&kind), Mutex::new(mapping));
        Ok(Self { file, path, identity: Identity::File(identity), links, mapping })
    }

    /// Fail if anything of the file was touched since it was opened, its name included.
    pub fn check_untouched(&self) -> Result<()> {
        let now = FileIdentity::of(&self.file, &self.path)?;
        match self.identity {
            Identity::File(before) if before != now => Err(changed(&self.path, &before, &now)),
            _ => Ok(()),
        }
    }

    /// Give the empty file `to` the same extents, without a copy, where the filesystem can.
    pub fn share_with(&self, to: &File) -> bool {
        sys::reflink(&self.file, to).is_ok()
    }

    fn mapping(&self) -> Option<Arc<sys::Mapping>> {
        let mut mapping = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        if mapping.as_ref().is_some_and(|mapping| !mapping.is_safe()) {
            *mapping = None; // the last window to close lets the other program go on
        }
        mapping.clone()
    }
}

impl Source for LocalFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, buffer, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                vanished(&self.path, offset, buffer.len(), self.identity.size())
            }
            _ => Error::io(e, &self.path, "cannot read"),
        })
    }

    /// A file that lost a name (it was deleted, or another took its place) is still the one that is
    /// open, unless its size or the time of its contents tell otherwise.
    fn check_unchanged(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|e| Error::io(e, &self.path, "cannot stat"))?;
        let lost_a_name = links(&now) < self.links;
        let now = FileIdentity::from_metadata(&now);
        match self.identity {
            Identity::File(FileIdentity { ctime_ns, .. })
                if lost_a_name
                    && self.identity == Identity::File(FileIdentity { ctime_ns, ..now }) =>
            {
                Ok(())
            }
            _ => self.check_untouched(),
        }
    }

    /// A window that is short, or of a file that is not mapped, is read.
    fn window<'a>(
        &'a self,
        offset: u64,
        len: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Window<'a>> {
        if let Some(mapping) = self.mapping().filter(|_| len >= WORTH_MAPPING) {
            return match mapping.window(offset, len) {
                Ok(window) => Ok(Window::Mapped(window)),
                Err(e) if e.raw_os_error() == Some(EFAULT) => {
                    Err(vanished(&self.path, offset, len, self.identity.size()))
                }
                Err(e) => Err(Error::io(e, &self.path, "cannot read")),
            };
        }
        memory::resize(buffer, len)?;
        self.read(offset, buffer)?;
        Ok(Window::Read(buffer))
    }

    fn is_mapped(&self) -> bool {
        self.mapping().is_some()
    }

    fn give_way(&self) {
        drop(self.mapping());
    }
}

/// Shorter windows are read: to fault in and release their pages would take longer than a copy.
const WORTH_MAPPING: usize = 64 << 10;

/// What a page that cannot be read answers to `MADV_POPULATE_READ`.
const EFAULT: i32 = 14;

/// One page tells whether this kernel and filesystem can prefault mapped windows.
fn map(file: &File, size: u64) -> Option<Arc<sys::Mapping>> {
    let mapping = Arc::new(sys::Mapping::new(file, size).ok().filter(|_| size > 0)?);
    let works = Arc::clone(&mapping).window(0, 1).is_ok();
    works.then_some(mapping)
}

/// How many names a file has; 1 where the system does not say.
fn links(metadata: &Metadata) -> u64 {
    #[cfg(unix)]
    {
        std::os::unix::fs::MetadataExt::nlink(metadata)
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        1
    }
}

#[cold]
fn special(path: &Path, found: &Metadata) -> Error {
    let kind = if found.is_dir() { "a folder" } else { "a special file" };
    let what = format!("{}: cannot be read, expected a regular file, got {kind}", path.display());
    Error::checkpoint(what).hint("give the path of a file, such as `model.safetensors`")
}

#[cold]
fn changed(path: &Path, before: &FileIdentity, now: &FileIdentity) -> Error {
    let here = path.display();
    let what = if (before.size, before.mtime_ns) == (now.size, now.mtime_ns) {
        let (before, now) = (before.ctime_ns, now.ctime_ns);
        format!(
            "{here}: changed while it was being read, expected a file last touched at {before} ns, got \
             one touched at {now} ns"
        )
    } else {
        let FileIdentity { size: expected, mtime_ns: then, .. } = before;
        let FileIdentity { size, mtime_ns, .. } = now;
        format!(
            "{here}: changed while it was being read, expected {expected} bytes last modified at \
             {then} ns, got {size} bytes at {mtime_ns} ns"
        )
    };
    Error::checkpoint(what).hint("let the download or the other program finish, then run again")
}

/// Positioned read of exactly `buffer.len()` bytes.
pub fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::FileExt as _;
        let (mut buffer, mut offset) = (buffer, offset);
        while !buffer.is_empty() {
            let n = match file.seek_read(buffer, offset) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            offset += n as u64;
            buffer = &mut buffer[n..];
        }
        Ok(())
    }
}
