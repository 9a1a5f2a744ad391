//! Linux: mapped windows, write-behind, unnamed files, renames that never replace.

use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::ops::Deref;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use std::fs::File;
use std::io;
use std::path::Path;

fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    // SAFETY: sysconf has no preconditions.
    let ask = || usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
    *SIZE.get_or_init(|| ask().unwrap_or(4096))
}

fn checked(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A whole file mapped for reading, of which only the windows in use are ever resident.
///
/// Address space is taken, memory is not. Nothing may be read outside a [`Mapping::window`].
///
/// A page that another process truncates away while it is being read kills this one. So a mapping
/// lives under a read lease: the kernel makes whoever opens the file for writing, or truncates it,
/// wait until the lease is given back (for 45 seconds unless configured otherwise, far longer than
/// any window is in use). Once [`Mapping::is_safe`] says no, drop it and read on without it.
#[derive(Debug)]
pub struct Mapping {
    file: File,
    start: *mut libc::c_void,
    len: usize,
    /// How many open windows touch each block that any touches.
    open: Mutex<BTreeMap<usize, u32>>,
}

/// What is released in one piece, once no window touches it. A fault maps more than the page that
/// was asked for: the pages around it, since Linux 6.18 all of a large folio, but nothing beyond
/// the page table it is in, which spans this much.
const BLOCK: usize = 2 << 20;

// SAFETY: the mapping is read-only and owned by this value until it is dropped; the kernel
// synchronises the page tables.
unsafe impl Send for Mapping {}
// SAFETY: as above; all methods take `&self` and only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Map `len > 0` bytes of `file` from its start, touching none of them.
    ///
    /// # Errors
    /// Also where no lease is to be had: the file is open for writing somewhere, belongs to another
    /// user, or is on a filesystem without leases.
    pub fn new(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let file = file.try_clone()?;
        lease(&file)?;
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE);
        let fd = file.as_raw_fd();
        // SAFETY: a fresh read-only mapping where the kernel chooses; it aliases no Rust memory.
        let start = unsafe { libc::mmap64(std::ptr::null_mut(), len, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            release(&file);
            return Err(error);
        }
        Ok(Self { file, start, len, open: Mutex::default() })
    }

    /// Whether nobody waits to change the file.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        // SAFETY: a question about an open descriptor; it touches no memory.
        unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
    }

    /// Fault in `len > 0` bytes at `offset`, which must lie inside the mapping.
    ///
    /// `MADV_POPULATE_READ` answers `EFAULT` for a page that cannot be read (a truncated file,
    /// a failing device), where touching it would kill the process.
    pub fn window(self: Arc<Self>, offset: u64, len: usize) -> io::Result<MappedWindow> {
        let start = usize::try_from(offset)
            .ok()
            .filter(|start| len > 0 && start.checked_add(len).is_some_and(|end| end <= self.len));
        let start = start.ok_or(io::ErrorKind::InvalidInput)?;
        let window = MappedWindow { mapping: self, start, len };
        window.mapping.enter(window.blocks());
        let first = start - start % page_size();
        window.mapping.advise(first, start + len - first, libc::MADV_POPULATE_READ)?;
        Ok(window)
    }

    fn enter(&self, blocks: std::ops::Range<usize>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.for_each(|block| *open.entry(block).or_default() += 1);
    }

    /// Whether the window that leaves was the last one in `block`.
    fn leave(&self, block: usize) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&block).map_or(0, |count| count - 1);
        if count > 0 { open.insert(block, count).is_none() } else { open.remove(&block).is_some() }
    }

    /// `madvise` on a range inside the mapping that starts on a page.
    fn advise(&self, start: usize, len: usize, advice: c_int) -> io::Result<()> {
        // SAFETY: the callers keep `start + len` within the mapping; neither advice used here
        // changes what the pages of a shared file mapping hold.
        checked(unsafe { libc::madvise(self.start.cast::<u8>().add(start).cast(), len, advice) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this value's own mapping, and no window outlives it.
        unsafe { libc::munmap(self.start, self.len) };
        release(&self.file);
    }
}

/// Take a read lease on `file`, without ever being sent a signal about it.
fn lease(file: &File) -> io::Result<()> {
    const F_SETSIG: c_int = 10; // the same on every architecture, but not in every `libc`
    // Taking the lease makes this process the receiver of the signal: an ignored one, until the
    // next call makes it nobody's. `Mapping::is_safe` asks instead.
    control(file, F_SETSIG, libc::SIGURG)?;
    control(file, libc::F_SETLEASE, libc::F_RDLCK)?;
    control(file, libc::F_SETOWN, 0).inspect_err(|_| release(file))
}

/// Give the lease back now: a forked process may hold the same open file for long.
fn release(file: &File) {
    let _ = control(file, libc::F_SETLEASE, libc::F_UNLCK);
}

fn control(file: &File, command: c_int, argument: c_int) -> io::Result<()> {
    // SAFETY: commands that take a number, on an open descriptor; they touch no memory.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), command, argument) })
}

/// A part of a [`Mapping`] that is resident, and released on drop.
///
/// It keeps the mapping, and with it the lease, for as long as it lives.
#[derive(Debug)]
pub struct MappedWindow {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl MappedWindow {
    fn blocks(&self) -> std::ops::Range<usize> {
        self.start / BLOCK..(self.start + self.len).div_ceil(BLOCK)
    }
}

impl Deref for MappedWindow {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies inside the live read-only mapping and was populated; u8 has no
        // invalid values.
        unsafe {
            std::slice::from_raw_parts(self.mapping.start.cast::<u8>().add(self.start), self.len)
        }
    }
}

impl Drop for MappedWindow {
    fn drop(&mut self) {
        for block in self.blocks() {
            if self.mapping.leave(block) {
                let (start, end) = (block * BLOCK, self.mapping.len.min((block + 1) * BLOCK));
                // Should a window have opened there meanwhile, it faults its pages in again.
                let _ = self.mapping.advise(start, end - start, libc::MADV_DONTNEED);
            }
        }
    }
}

/// Peak resident memory of this process in bytes, file pages included; 0 where unknown.
///
/// Not that of `getrusage`, which begins with the peak of whoever started the program.
#[must_use]
pub fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = field.and_then(|field| field.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Forget the cached pages of a range that is already on disk.
pub fn forget(file: &File, offset: u64, len: u64) {
    advise(file, offset, len, libc::POSIX_FADV_DONTNEED);
}

fn advise(file: &File, offset: u64, len: u64, advice: c_int) {
    if let (Ok(offset), Ok(len)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(len)) {
        // SAFETY: advice on an open descriptor; it cannot touch memory. Failure is harmless.
        let _ = unsafe { libc::posix_fadvise64(file.as_raw_fd(), offset, len, advice) };
    }
}

/// Start writing a range to the device without waiting for it.
pub fn start_writing(file: &File, offset: u64, len: u64) -> io::Result<()> {
    sync_range(file, offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// Wait until a range is on the device.
pub fn wait_written(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_range(file, offset, len, all)
}

fn sync_range(file: &File, offset: u64, len: u64, flags: libc::c_uint) -> io::Result<()> {
    let offset = libc::off64_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let len = libc::off64_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: an open descriptor and a range; the call touches no memory.
    match checked(unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) }) {
        // Filesystems without it answer ESPIPE, EINVAL or ENOSYS; the final fsync still stands.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESPIPE | libc::EINVAL | libc::ENOSYS)) => {
            Ok(())
        }
        other => other,
    }
}

/// A file without a name in `folder`: if this process dies, the kernel removes it.
pub fn unnamed_file(folder: &Path) -> io::Result<File> {
    let path = c_path(folder)?;
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: `path` is NUL-terminated; the descriptor returned is owned by nobody else.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o666 as libc::c_uint) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh, open descriptor that only this File will close.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Give an unnamed file its name; fails with `AlreadyExists` if the name is taken.
pub fn name_file(file: &File, path: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = c_path(path)?;
    // SAFETY: both paths are NUL-terminated.
    checked(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })
}

/// Rename that fails with `AlreadyExists` instead of replacing.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_with(from, to, libc::RENAME_NOREPLACE)
}

/// Swap two existing paths in one step.
pub fn rename_swap(a: &Path, b: &Path) -> io::Result<()> {
    rename_with(a, b, libc::RENAME_EXCHANGE)
}

fn rename_with(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both paths are NUL-terminated. The raw call, since musl lacks the wrapper.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            flags,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Share the extents of `from` with the empty file `to` (a reflink).
pub fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes two open descriptors and touches no memory.
    checked(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) })
}

/// Whether another filesystem, or another part of this one, is mounted at `path`.
#[must_use]
pub fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = c_path(path) else { return false };
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `path` is NUL-terminated and `found` a valid, writable statx.
    let result =
        unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, found.as_mut_ptr()) };
    // SAFETY: all bytes were zeroed, and every bit pattern is a valid statx.
    let found = unsafe { found.assume_init() };
    result == 0 && found.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0
}
