//! One output file while it is not yet real: written in order, without a name where the system
//! allows it, so that a killed process leaves nothing behind.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::sys;
use crate::error::{Error, Result};

/// What happens to the pages an output leaves in the page cache.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CachePolicy {
    /// Written to the device and forgotten behind a window of 64 MiB.
    Drop,
    /// Written to the device, but kept cached for the program that loads the file next.
    Keep,
}

/// Writing starts on the device every so many bytes; also the longest wait between two looks at the
/// cancel flag.
const STEP: u64 = 8 << 20;
/// Bytes that may be on their way to the device before the writer waits for the oldest.
const BEHIND: u64 = 64 << 20;

/// A file that is being written in order.
#[derive(Debug)]
pub struct Unpublished {
    file: Arc<File>,
    /// Where the bytes are now: `None` while the file has no name.
    hidden: Option<PathBuf>,
    /// Where the bytes will be, for messages.
    shown: PathBuf,
    cache: CachePolicy,
    written: u64,
    started: u64,
}

impl Unpublished {
    /// An empty file in `folder` that will be published later as `shown`; `hidden` names it where
    /// files need a name.
    pub fn create(
        folder: &Path,
        shown: PathBuf,
        cache: CachePolicy,
        hidden: impl FnOnce() -> Result<PathBuf>,
    ) -> Result<Self> {
        // Filesystems without unnamed files refuse; a hidden name works everywhere.
        let unnamed = Path::new("/proc/self/fd").exists().then(|| sys::unnamed_file(folder).ok());
        let (file, hidden) = if let Some(file) = unnamed.flatten() {
            (file, None)
        } else {
            let hidden = hidden()?;
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(&hidden);
            (file.map_err(|e| Error::io(e, &hidden, "cannot create"))?, Some(hidden))
        };
        Ok(Self { file: file.into(), hidden, shown, cache, written: 0, started: 0 })
    }

    /// Append `bytes`; what comes back, if anything, should be waited for outside any lock.
    pub fn append(&mut self, bytes: &[u8]) -> Result<Option<Pending>> {
        write_all_at(&self.file, bytes, self.written).map_err(|e| write_error(e, &self.shown))?;
        self.written += bytes.len() as u64;
        if self.written - self.started < STEP {
            return Ok(None);
        }
        let (offset, len) = (self.started, self.written - self.started);
        self.started = self.written;
        sys::start_writing(&self.file, offset, len).map_err(|e| write_error(e, &self.shown))?;
        let on_device = self.started.saturating_sub(BEHIND);
        let from = on_device.saturating_sub(len);
        let (file, shown, cache) = (Arc::clone(&self.file), self.shown.clone(), self.cache);
        Ok((on_device > 0).then(|| Pending { file, shown, cache, from, len: on_device - from }))
    }

    /// Write again what was written first.
    pub fn rewrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > self.written {
            return Err(Error::internal("more is written again than was written"));
        }
        write_all_at(&self.file, bytes, 0).map_err(|e| write_error(e, &self.shown))
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Where the output will be, for messages.
    #[must_use]
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Force everything to the device. A failure is final: the pages may be gone.
    pub fn force(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| write_error(e, &self.shown))?;
        if self.cache == CachePolicy::Drop {
            sys::forget(&self.file, 0, self.written);
        }
        Ok(())
    }

    /// Give the file the name `path`, which must not exist.
    pub fn publish(&mut self, path: &Path) -> std::io::Result<()> {
        match &self.hidden {
            None => sys::name_file(&self.file, path),
            Some(hidden) => move_new(hidden, path),
        }
    }
}

/// A range that is on its way to the device; wait for it outside any lock.
#[derive(Debug)]
pub struct Pending {
    file: Arc<File>,
    shown: PathBuf,
    cache: CachePolicy,
    from: u64,
    len: u64,
}

impl Pending {
    /// Wait until the range is on the device, then forget its pages if the policy says so.
    pub fn wait(self) -> Result<()> {
        sys::wait_written(&self.file, self.from, self.len)
            .map_err(|e| write_error(e, &self.shown))?;
        if self.cache == CachePolicy::Drop {
            sys::forget(&self.file, self.from, self.len);
        }
        Ok(())
    }
}

/// Rename that refuses to replace; where the system has no such call a file is linked to its new
/// name, and a folder, or a file that cannot be linked, moved after a look.
pub fn move_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match sys::rename_new(from, to) {
        Err(e) if is_unsupported(&e) => {}
        other => return other,
    }
    if to.symlink_metadata().is_ok() {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    if from.symlink_metadata()?.is_file() {
        match std::fs::hard_link(from, to) {
            Ok(()) => {
                let _ = std::fs::remove_file(from); // else it goes with its folder
                return Ok(());
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(e),
            Err(_) => {}
        }
    }
    std::fs::rename(from, to)
}

/// Whether a call is unknown to this system or filesystem.
#[must_use]
pub fn is_unsupported(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, Unsupported};
    matches!(error.kind(), Unsupported | InvalidInput)
}

fn write_error(error: std::io::Error, shown: &Path) -> Error {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let error = Error::io(error, shown, "cannot write");
    if full {
        error.hint("the disk is full; free some space or choose another folder")
    } else {
        error
    }
}

fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::FileExt as _;
        let (mut bytes, mut offset) = (bytes, offset);
        while !bytes.is_empty() {
            let n = match file.seek_write(bytes, offset) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            offset += n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }
}
