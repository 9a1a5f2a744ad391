//! Bytes that are already in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contract::{Source, Window, vanished};
use super::identity::{Identity, Version};
use crate::error::Result;

/// Memory that nobody writes to any more.
#[derive(Clone, Debug)]
pub struct Memory {
    name: PathBuf,
    identity: Identity,
    bytes: Arc<[u8]>,
}

impl Memory {
    /// `bytes` under the name that messages give them. With an empty `tag` nothing that was found out
    /// about them is remembered.
    #[must_use]
    pub fn new(name: &str, tag: &str, bytes: Arc<[u8]>) -> Self {
        let version = Version { tag: tag.to_owned(), size: bytes.len() as u64 };
        Self { name: name.into(), identity: Identity::Version(version), bytes }
    }

    fn at(&self, offset: u64, len: usize) -> Result<&[u8]> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(len));
        let range = start.zip(end).and_then(|(start, end)| self.bytes.get(start..end));
        range.ok_or_else(|| vanished(&self.name, offset, len, self.identity.size()))
    }
}

impl Source for Memory {
    fn path(&self) -> &Path {
        &self.name
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.copy_from_slice(self.at(offset, buffer.len())?);
        Ok(())
    }

    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }

    fn window<'a>(&'a self, offset: u64, len: usize, _: &'a mut Vec<u8>) -> Result<Window<'a>> {
        self.at(offset, len).map(Window::Read)
    }
}
