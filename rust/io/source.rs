//! Inputs, read in windows.
//!
//! A window is either mapped (prefaulted, used, released: no copy, and a page that cannot be read is
//! an error) or read into a buffer. Both give the same bytes, so which one is used changes nothing.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::sys;
use crate::error::{Error, Result};

/// How inputs are read.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// What is fastest as far as was measured: positioned reads. Pages of a file are mapped and unmapped
    /// one by one, and freshly read ones are not in the processor's cache yet; a copy costs less.
    Auto,
    /// Mapped windows.
    Mmap,
    /// Positioned reads.
    Pread,
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Device number; 0 where the system has none.
    pub dev: u64,
    /// Inode number; 0 where the system has none.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of anything about it, which nobody can put back; 0 where the system
    /// has none.
    pub ctime_ns: i64,
}

impl Identity {
    /// The identity of an open file.
    pub fn of(file: &File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io(e, path, "cannot read its size"))?;
        Ok(Self::from_metadata(&metadata))
    }

    /// The identity that `stat` gives.
    #[must_use]
    pub fn from_metadata(metadata: &std::fs::Metadata) -> Self {
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
}

/// One open input.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    identity: Identity,
    /// Given up as soon as somebody waits to change the file.
    mapping: Mutex<Option<Arc<sys::Mapping>>>,
}

impl Source {
    /// Open `path` for reading in `mode`.
    pub fn open(path: &Path, mode: ReadMode) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(e, path, "cannot open"))?;
        let identity = Identity::of(&file, path)?;
        let map = || map(&file, identity.size);
        let mapping = match mode {
            ReadMode::Auto | ReadMode::Pread => None,
            ReadMode::Mmap => Some(map().ok_or_else(|| {
                let what = format!(
                    "{}: cannot be mapped, expected a local file of your own that nobody writes",
                    path.display()
                );
                Error::plan(what).hint("use `--io auto` or `--io pread`")
            })?),
        };
        Ok(Self { file, path: path.to_owned(), identity, mapping: Mutex::new(mapping) })
    }

    /// The file, for its header.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity when it was opened.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether windows are mapped.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.mapping().is_some()
    }

    /// Stop mapping if somebody waits to change the file: they wait for us.
    pub fn give_way(&self) {
        drop(self.mapping());
    }

    fn mapping(&self) -> Option<Arc<sys::Mapping>> {
        let mut mapping = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        if mapping.as_ref().is_some_and(|mapping| !mapping.is_safe()) {
            *mapping = None; // the last window to close lets the other program go on
        }
        mapping.clone()
    }

    /// The bytes `offset .. offset + len`; `buffer` is used when the window is not mapped: it
    /// is short, or nothing is.
    pub fn window<'a>(
        &'a self,
        offset: u64,
        len: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Window<'a>> {
        if let Some(mapping) = self.mapping().filter(|_| len >= WORTH_MAPPING) {
            return match mapping.window(offset, len) {
                Ok(window) => Ok(Window::Mapped(window)),
                Err(e) if e.raw_os_error() == Some(EFAULT) => Err(self.vanished(offset, len)),
                Err(e) => Err(Error::io(e, &self.path, "cannot read")),
            };
        }
        buffer.resize(len, 0);
        read_exact_at(&self.file, buffer, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.vanished(offset, len),
            _ => Error::io(e, &self.path, "cannot read"),
        })?;
        Ok(Window::Read(buffer))
    }

    /// Fail if the file is no longer the one that was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = Identity::of(&self.file, &self.path)?;
        if now == self.identity {
            return Ok(());
        }
        let what = format!(
            "{}: changed while it was being read, expected {} bytes last changed at {} ns, got {} bytes at {} ns",
            self.path.display(),
            self.identity.size,
            self.identity.ctime_ns.max(self.identity.mtime_ns),
            now.size,
            now.ctime_ns.max(now.mtime_ns)
        );
        Err(Error::checkpoint(what)
            .hint("let the download or the other program finish, then run again"))
    }

    #[cold]
    fn vanished(&self, offset: u64, len: usize) -> Error {
        let end = offset + len as u64;
        let what = format!(
            "{}: bytes {offset}..{end} can no longer be read, expected a file of {} bytes",
            self.path.display(),
            self.identity.size
        );
        Error::checkpoint(what)
            .hint("the file was truncated or its device fails; check it, then run again")
    }
}

/// Bytes of an input, mapped or read.
#[derive(Debug)]
pub enum Window<'a> {
    /// A resident part of the mapped file.
    Mapped(sys::MappedWindow),
    /// A copy in the caller's buffer.
    Read(&'a [u8]),
}

impl Deref for Window<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(window) => window,
            Self::Read(bytes) => bytes,
        }
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
