//! Where bytes come from: a local file, memory, or whoever answers ranges (a server, an archive).
//!
//! A source is read in windows. A local file may be mapped (prefaulted, used, released: no copy, and
//! a page that cannot be read is an error); everything else is read into a buffer. Both give the same
//! bytes, so which one is used changes nothing.
//!
//! # How to add one
//! Implement [`Source`] in a file of this folder. What it promises to be ([`Identity`]) is what the
//! plan names it by; a plan's new kind of source is one line in `plan.rs`.

use std::fmt::Debug;
use std::ops::Deref;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sys;
use crate::error::{Error, Result};
use crate::memory::resize;

mod file;
mod memory;
mod ranges;

pub use file::{FileIdentity, LocalFile, read_exact_at};
pub use memory::Memory;
pub use ranges::Ranges;

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

/// What tells one version of a source from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// What the system says of a local file.
    File(FileIdentity),
    /// What the owner of anything else calls this version of it.
    Version(Version),
}

/// A version by the name its owner gives it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// An `ETag`, a commit, a hash: equal tags promise equal bytes.
    pub tag: String,
    /// Size in bytes.
    pub size: u64,
}

impl Identity {
    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Version(version) => version.size,
        }
    }

    /// Whatever must be equal for the bytes to be equal, as text; `None` if nothing is promised.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        match self {
            Self::File(file) => file.key(),
            Self::Version(Version { tag, size }) if !tag.is_empty() => {
                Some(format!("{tag:?}:{size}"))
            }
            Self::Version(_) => None,
        }
    }
}

/// Bytes that can be read by position, by any thread.
pub trait Source: Debug + Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// What it was when it was opened.
    fn identity(&self) -> &Identity;

    /// Fill `buffer` with the bytes from `offset` on.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Fail if it is not what a plan was made for.
    fn expect(&self, identity: &Identity) -> Result<()> {
        if self.identity() == identity {
            return Ok(());
        }
        let what = format!("{}: is not the file the plan was made for", self.path().display());
        Err(Error::plan(what).hint("it changed since; make the plan again"))
    }

    /// Fail if it is no longer what it was when it was opened.
    fn check_unchanged(&self) -> Result<()>;

    /// The bytes `offset .. offset + len`; `buffer` is used unless the source has them at hand.
    fn window<'a>(
        &'a self,
        offset: u64,
        len: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Window<'a>> {
        resize(buffer, len)?;
        self.read(offset, buffer)?;
        Ok(Window::Read(buffer))
    }

    /// Whether windows are mapped.
    fn is_mapped(&self) -> bool {
        false
    }

    /// Stop mapping if somebody waits to change the source: they wait for us.
    fn give_way(&self) {}
}

/// Bytes of an input.
#[derive(Debug)]
pub enum Window<'a> {
    /// A resident part of a mapped file.
    Mapped(sys::MappedWindow),
    /// A copy in the caller's buffer, or memory of the source's own.
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

/// Bytes that were promised and are not there.
#[cold]
fn vanished(path: &Path, offset: u64, len: usize, size: u64) -> Error {
    let end = offset.saturating_add(len as u64);
    let what = format!(
        "{}: bytes {offset}..{end} can no longer be read, expected a file of {size} bytes",
        path.display()
    );
    Error::checkpoint(what)
        .hint("the file was truncated or its device fails; check it, then run again")
}
