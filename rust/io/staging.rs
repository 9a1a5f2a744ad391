//! The hidden folder beside an output in which a job puts it together.
//!
//! It is called `.NAME.PROCESS-NUMBER.part` and holds `lock`, which its job keeps locked as long as
//! it lives; `new`, what will be put in place; `old`, what stood there, where two names cannot be
//! exchanged in one step; and numbered files, where there are none without a name.
//!
//! Nobody holds the lock of a job that was killed, so the next job of the same output clears its
//! folder away. Where `old` may be the only copy it is put back, or kept if something else stands in
//! its place; the names alone tell, so a job may be killed at any moment, this one included.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::source::FileIdentity;
use super::unpublished::move_new;
use crate::error::{Error, Result};

const LOCK: &str = "lock";
const SUFFIX: &str = ".part";
/// Longer names of outputs are cut and hashed: a hidden name has at most 112 bytes.
const STEM: usize = 64;

/// Tells the folders of this process apart.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A hidden folder that this process holds; whatever is still in it goes with the value.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    lock: Option<File>,
}

impl Staging {
    /// An empty folder of this job's own, beside an output called `name`.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        for _ in 0..1000 {
            let path = Self::next_path(parent, name);
            match fs::create_dir(&path) {
                Ok(()) => {}
                // Processes in two containers may have one number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io(e, &path, "cannot create")),
            }
            let lock = path.join(LOCK);
            match File::create_new(&lock).and_then(|file| Held::of(file, &lock)) {
                Ok(Held::Ours(file) | Held::Unknown(file)) => {
                    return Ok(Self { path, lock: Some(file) });
                }
                Ok(Held::Others) => {}
                // Until it was locked, another job could take it for abandoned.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                    ) => {}
                Err(e) => {
                    let _ = fs::remove_dir_all(&path);
                    return Err(Error::io(e, &lock, "cannot create"));
                }
            }
        }
        Err(Error::io(io::ErrorKind::AlreadyExists.into(), parent, "cannot create a hidden folder"))
    }

    /// A name that no folder of this process had.
    pub fn next_path(parent: &Path, name: &str) -> PathBuf {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        parent.join(format!("{}{}-{number}{SUFFIX}", prefix(name), std::process::id()))
    }

    /// What will be put in place.
    pub fn new_path(&self) -> PathBuf {
        self.path.join("new")
    }

    /// What stood there, while it is the only copy.
    pub fn old_path(&self) -> PathBuf {
        self.path.join("old")
    }

    /// A file that is part of the output.
    pub fn file_path(&self, number: usize) -> PathBuf {
        self.path.join(number.to_string())
    }

    /// What was replaced may be the only copy again, as the new output was lost: keep it.
    pub fn keep_replaced(&self) {
        let _ = fs::rename(self.new_path(), self.old_path());
    }

    /// Remove it with all it holds, which includes what was replaced.
    pub fn remove(mut self) -> Result<()> {
        self.empty().map_err(|e| Error::io(e, &self.path, "cannot be removed"))
    }

    /// A busy name, or one that appeared meanwhile, is worth a second try.
    fn empty(&mut self) -> io::Result<()> {
        self.try_empty().or_else(|_| self.try_empty())
    }

    fn try_empty(&mut self) -> io::Result<()> {
        // Half of it must never be taken for the only copy.
        if !is_absent(&self.old_path()) {
            fs::rename(self.old_path(), self.new_path())?;
        }
        let lock = self.path.join(LOCK);
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else if path != lock {
                fs::remove_file(&path)?;
            }
        }
        if cfg!(windows) {
            self.lock = None; // an open file could not be removed
        }
        if !is_absent(&lock) {
            fs::remove_file(&lock)?;
        }
        fs::remove_dir(&self.path)?;
        self.lock = None;
        Ok(())
    }

    /// A folder that its job left behind, unless that job may be alive or it is not surely ours.
    fn abandoned(path: PathBuf) -> Option<Self> {
        let known = |name: &str| {
            matches!(name, LOCK | "new" | "old") || name.bytes().all(|b| b.is_ascii_digit())
        };
        let mut entries = fs::read_dir(&path).ok()?.map(|entry| entry.map(|e| e.file_name()));
        if !entries.all(|name| name.is_ok_and(|name| name.to_str().is_some_and(known))) {
            return None;
        }
        let lock = path.join(LOCK);
        let file = match lock.symlink_metadata() {
            Ok(found) if found.is_file() => File::options().read(true).write(true).open(&lock),
            Ok(_) => return None, // opening a pipe would wait for ever
            Err(_) => File::create_new(&lock),
        };
        match Held::of(file.ok()?, &lock) {
            Ok(Held::Ours(file)) => Some(Self { path, lock: Some(file) }),
            _ => None,
        }
    }

    /// Clear away what a killed job left, and put back what may be the only copy of an output;
    /// what is worth telling, if anything.
    fn clear_away(self, target: &Path) -> Option<String> {
        let (old, here) = (self.old_path(), target.display());
        let replaced = target.symlink_metadata().is_ok() && is_absent(&self.new_path());
        if is_absent(&old) || replaced {
            let _ = self.remove();
            return None;
        }
        Some(match move_new(&old, target) {
            Ok(()) => format!(
                "{here}: put back what stood there; a job that was to replace it had been killed"
            ),
            Err(e) => format!(
                "{}: is what stood at {here} until a job was killed; kept, as it cannot be put back \
                 ({e}): move or remove it yourself",
                old.display()
            ),
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Never finishes an output, and never removes what may be the only copy of one.
        if self.lock.is_some() && is_absent(&self.old_path()) {
            let _ = self.empty();
        }
    }
}

/// Whose a lock file is.
enum Held {
    Ours(File),
    Others,
    /// Nobody can tell: the filesystem has no locks. A job works without; it cannot be swept.
    Unknown(File),
}

impl Held {
    /// Lock the open `file`, found at `path`.
    fn of(file: File, path: &Path) -> io::Result<Self> {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(Self::Others),
            Err(TryLockError::Error(_)) => return Ok(Self::Unknown(file)),
            Ok(()) => {}
        }
        // Whoever held it before may have removed it meanwhile.
        let held = FileIdentity::from_metadata(&file.metadata()?);
        let found = FileIdentity::from_metadata(&path.symlink_metadata()?);
        let same = held.ino == 0 || held.same_file(&found);
        Ok(if same { Self::Ours(file) } else { Self::Others })
    }
}

/// Clear away the folders that killed jobs of the same output left; returns what is worth telling.
pub fn sweep(parent: &Path, name: &str, target: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let prefix = prefix(name);
    let is_ours = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| is_hidden_name(name, &prefix))
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
    };
    let abandoned = entries.flatten().filter(is_ours);
    let abandoned = abandoned.filter_map(|entry| Staging::abandoned(entry.path()));
    abandoned.filter_map(|staging| staging.clear_away(target)).collect()
}

/// Whether nothing is there, and surely so.
fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// How the hidden names of an output begin.
fn prefix(name: &str) -> String {
    if name.len() <= STEM {
        return format!(".{name}.");
    }
    let cut = (0..=STEM).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    // FNV-1a: two long names that begin alike stay apart.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!(".{}~{hash:016x}.", &name[..cut])
}

/// Whether `name` is exactly a hidden name that begins with `prefix`.
fn is_hidden_name(name: &str, prefix: &str) -> bool {
    let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    middle
        .and_then(|middle| middle.split_once('-'))
        .is_some_and(|(process, number)| is_number(process) && is_number(number))
}
