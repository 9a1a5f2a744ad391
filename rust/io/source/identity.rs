//! What tells one version of a source from another without reading it.

use std::fs::{File, Metadata};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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
    fn key(&self) -> Option<String> {
        let Self { dev, ino, size, mtime_ns, ctime_ns } = self;
        (self.ctime_ns != 0).then(|| format!("{dev}:{ino}:{size}:{mtime_ns}:{ctime_ns}"))
    }
}
