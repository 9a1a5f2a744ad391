//! Bytes that somebody else fetches: an HTTP server, an object store, an archive, a test.

use std::fmt;
use std::path::{Path, PathBuf};

use super::contract::{Source, vanished};
use super::identity::{Identity, Version};
use crate::error::{Error, Result};

/// Answers ranges; any thread may ask, several at once.
pub trait Answer: Send + Sync {
    /// Fill `buffer` with the bytes from `offset` on; returns the version they are of.
    ///
    /// # Errors
    /// Of the system, as the transport meets them.
    fn answer(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<String>;
}

impl<F: Fn(u64, &mut [u8]) -> std::io::Result<String> + Send + Sync> Answer for F {
    fn answer(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<String> {
        self(offset, buffer)
    }
}

/// A source whose ranges are answered, each with the version it is of: an answer of another version
/// is an error at once, so that nothing is ever made of two.
pub struct Ranges {
    name: PathBuf,
    version: Version,
    identity: Identity,
    answer: Box<dyn Answer>,
}

impl Ranges {
    /// What `answer` answers, under the name that messages give it.
    #[must_use]
    pub fn new(name: &str, version: Version, answer: Box<dyn Answer>) -> Self {
        let identity = Identity::Version(version.clone());
        Self { name: name.into(), version, identity, answer }
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranges").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source for Ranges {
    fn path(&self) -> &Path {
        &self.name
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.version.size) {
            return Err(vanished(&self.name, offset, buffer.len(), self.version.size));
        }
        let got = self
            .answer
            .answer(offset, buffer)
            .map_err(|e| Error::io(e, &self.name, "cannot read"))?;
        if got == self.version.tag {
            return Ok(());
        }
        let what = format!(
            "{}: changed while it was being read, expected version `{}`, got `{got}`",
            self.name.display(),
            self.version.tag
        );
        Err(Error::checkpoint(what).hint("run again, with the new version from the start"))
    }

    fn check_unchanged(&self) -> Result<()> {
        self.read(0, &mut []) // every answer was checked; this one asks for the version as it is now
    }
}
