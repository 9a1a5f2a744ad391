//! What a source is to the core.

use std::fmt::Debug;
use std::ops::Deref;
use std::path::Path;

use serde::Deserialize;

use super::identity::Identity;
use crate::error::{Error, Result};
use crate::io::sys;
use crate::memory::resize;

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
pub(super) fn vanished(path: &Path, offset: u64, len: usize, size: u64) -> Error {
    let end = offset.saturating_add(len as u64);
    let what = format!(
        "{}: bytes {offset}..{end} can no longer be read, expected a file of {size} bytes",
        path.display()
    );
    Error::checkpoint(what)
        .hint("the file was truncated or its device fails; check it, then run again")
}
