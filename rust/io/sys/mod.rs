//! System calls the standard library does not offer, each behind a safe function.
//!
//! This is the only folder outside `simd/` that may say `unsafe`. On systems without a call the
//! function says so (`Unsupported`) or does nothing where it is only advice.

#![allow(unsafe_code)]

use std::io;
use std::path::Path;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod portable;

#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(not(target_os = "linux"))]
pub use portable::*;

/// The largest file this process may write (`RLIMIT_FSIZE`), if it is limited.
///
/// Crossing it raises a signal that kills hosts which do not ignore it, so it is checked first.
#[must_use]
pub fn file_size_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid, writable rlimit; the call writes it and keeps no pointer.
        let done = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
        // The field's type differs between systems; on this one the conversion may be the identity.
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        let bytes = limit.rlim_cur as u64;
        (done == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(bytes)
    }
    #[cfg(not(unix))]
    None
}

/// Whether the process could have so many bytes of memory more, all at once.
///
/// An allocator would also count what it has set aside for other threads.
#[must_use]
pub fn has_room(bytes: u64) -> bool {
    #[cfg(unix)]
    return could_map(bytes, libc::PROT_READ | libc::PROT_WRITE, 0);
    #[cfg(not(unix))]
    usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// Whether the process has so many addresses left (`RLIMIT_AS`), whatever memory there is.
#[must_use]
pub fn has_addresses(bytes: u64) -> bool {
    #[cfg(unix)]
    return could_map(bytes, libc::PROT_NONE, libc::MAP_NORESERVE);
    #[cfg(not(unix))]
    true
}

#[cfg(unix)]
fn could_map(bytes: u64, protection: libc::c_int, more: libc::c_int) -> bool {
    let Ok(bytes) = usize::try_from(bytes.max(1)) else { return false };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | more;
    // SAFETY: a fresh private mapping where the kernel chooses, which nothing else knows of.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    // SAFETY: exactly the mapping just made, never touched.
    start != libc::MAP_FAILED && unsafe { libc::munmap(start, bytes) } == 0
}

/// Bytes an ordinary user can still write to the filesystem that holds `folder`.
pub fn free_space(folder: &Path) -> io::Result<Option<u64>> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `path` is NUL-terminated and `stat` a valid, writable statvfs.
        if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all bytes were zeroed, and every bit pattern is a valid statvfs.
        let stat = unsafe { stat.assume_init() };
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        let bytes = (stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64);
        Ok(Some(bytes))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(None)
    }
}

/// Whether this user may make, rename and remove names in `folder`.
pub fn may_change(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
        let (mode, flags) = (libc::W_OK | libc::X_OK, libc::AT_EACCESS);
        // SAFETY: `path` is NUL-terminated; the call keeps no pointer.
        match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, flags) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}

/// The user whose rights this process has; 0 is the superuser, and every user where there are none.
#[must_use]
pub fn user() -> u32 {
    #[cfg(unix)]
    // SAFETY: geteuid has no preconditions and cannot fail.
    return unsafe { libc::geteuid() };
    #[cfg(not(unix))]
    0
}
