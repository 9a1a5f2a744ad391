//! Systems without these calls: the callers fall back to what the standard library offers.

use std::ops::Deref;
use std::sync::Arc;

use std::fs::File;
use std::io;
use std::path::Path;

/// No mapped files here: the types exist so that `Source` reads the same everywhere.
#[derive(Debug)]
pub struct Mapping(std::convert::Infallible);

impl Mapping {
    /// Always refused.
    pub fn new(_file: &File, _len: u64) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never reached: there is no mapping.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        match self.0 {}
    }

    /// Never reached: there is no mapping.
    pub fn window(self: Arc<Self>, _offset: u64, _len: usize) -> io::Result<MappedWindow> {
        match self.0 {}
    }
}

/// A part of a [`Mapping`].
#[derive(Debug)]
pub struct MappedWindow(Arc<Mapping>);

impl Deref for MappedWindow {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self.0.0 {}
    }
}

/// Advice only; nothing to do.
pub fn forget(_file: &File, _offset: u64, _len: u64) {}

/// Write-behind is left to the system.
pub fn start_writing(_file: &File, _offset: u64, _len: u64) -> io::Result<()> {
    Ok(())
}

/// Write-behind is left to the system.
pub fn wait_written(_file: &File, _offset: u64, _len: u64) -> io::Result<()> {
    Ok(())
}

/// Not offered: the caller uses a hidden named file.
pub fn unnamed_file(_folder: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not offered, as there are no unnamed files.
pub fn name_file(_file: &File, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not offered: the caller checks first and renames.
pub fn rename_new(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not offered: the caller moves the old output aside.
pub fn rename_swap(_a: &Path, _b: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not offered: the caller copies.
pub fn reflink(_from: &File, _to: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Peak resident memory of this process in bytes, file pages included; 0 where unknown.
#[must_use]
pub fn peak_rss() -> u64 {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is a valid, writable rusage; the call writes it and keeps no pointer.
        let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
        // SAFETY: all bytes were zeroed, and every bit pattern is a valid rusage.
        let peak = unsafe { usage.assume_init() }.ru_maxrss;
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        if done == 0 { u64::try_from(peak).unwrap_or(0) * unit } else { 0 }
    }
    #[cfg(not(unix))]
    0
}

/// Not asked: renaming a mount point fails, and what was there stays.
#[must_use]
pub fn is_mount_point(_path: &Path) -> bool {
    false
}
