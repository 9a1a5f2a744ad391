//! A file that somebody holds open and reads piece by piece, proved to be the same one all the time.
//!
//! For those who do not merge: to paint with a model its tensors are read when they are needed, maybe
//! hours after its header was. Positioned reads, so threads and forked processes do not disturb each
//! other, and a file that is cut short is an error instead of a signal.

use std::path::Path;

use crate::error::{Error, Result};
use crate::io::source::{FileIdentity, Identity, LocalFile, ReadMode, Source as _};

/// Bytes that are read at a time: few enough to be in the processor's cache when they are taken.
const PIECE: usize = 1 << 20;

/// An open file and what it was when its header was read.
#[derive(Debug)]
pub struct Reader {
    file: LocalFile,
    identity: FileIdentity,
}

impl Reader {
    /// Open a file that was looked at before, when it was `identity`.
    pub fn open(path: &Path, identity: FileIdentity) -> Result<Self> {
        let file = LocalFile::open(path, ReadMode::Pread)?;
        if *file.identity() != Identity::File(identity) {
            return Err(replaced(path));
        }
        Ok(Self { file, identity })
    }

    /// Hand `take` the bytes `offset .. offset + len`, in order and piece by piece, and where in them
    /// each piece begins. They count only if this returns without an error: a file that changes
    /// meanwhile is found out afterwards.
    pub fn read(
        &self,
        offset: u64,
        len: usize,
        mut take: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let size = self.identity.size;
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            let here = self.file.path().display();
            let what = format!("{here}: expected at most {size} bytes, got {len} at {offset}");
            return Err(Error::plan(what));
        }
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(len.min(PIECE)).map_err(|_| self.no_memory())?;
        for at in (0..len).step_by(PIECE) {
            let piece = PIECE.min(len - at);
            take(at, &self.file.window(offset + at as u64, piece, &mut buffer)?)?;
        }
        self.check()
    }

    /// Fail if the file is no longer the one that was opened, or another one stands in its place.
    pub fn check(&self) -> Result<()> {
        let path = self.file.path();
        let there = std::fs::metadata(path).map_err(|e| {
            Error::io(e, path, "can no longer be found").hint("it was moved or removed meanwhile")
        })?;
        let there = FileIdentity::from_metadata(&there);
        if there.ino != 0 && !there.same_file(&self.identity) {
            return Err(replaced(path));
        }
        self.file.check_untouched()
    }

    #[cold]
    fn no_memory(&self) -> Error {
        let what = format!(
            "{}: out of memory, expected room for {PIECE} bytes, got none",
            self.file.path().display()
        );
        Error::checkpoint(what).hint("free memory")
    }
}

#[cold]
fn replaced(path: &Path) -> Error {
    let what =
        format!("{}: is not the file that was opened, expected it unchanged", path.display());
    Error::checkpoint(what).hint("it was written or replaced meanwhile; load the model again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn opened(path: &Path) -> Result<Reader> {
        let metadata = std::fs::metadata(path).expect("a file");
        Reader::open(path, FileIdentity::from_metadata(&metadata))
    }

    #[test]
    fn pieces_come_in_order_and_make_up_the_range() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        let bytes: Vec<u8> = (0..PIECE * 2 + 100).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(&path, &bytes).expect("written");
        let reader = opened(&path).expect("opened");
        for (offset, len) in
            [(0, 0), (0, 1), (7, PIECE), (3, PIECE + 1), (5, 2 * PIECE + 95), (bytes.len(), 0)]
        {
            let mut found = Vec::new();
            let take = |at: usize, piece: &[u8]| {
                assert_eq!(at, found.len());
                found.extend_from_slice(piece);
                Ok(())
            };
            reader.read(offset as u64, len, take).expect("read");
            assert!(found == bytes[offset..offset + len]);
        }
        let past = reader.read(bytes.len() as u64 - 1, 2, |_, _| Ok(()));
        assert!(past.expect_err("too far").message().contains("expected at most"));
        assert!(reader.read(u64::MAX, 1, |_, _| Ok(())).is_err());
    }

    #[test]
    fn another_file_under_the_name_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, other) = (folder.path().join("f"), folder.path().join("g"));
        std::fs::write(&path, b"one").expect("written");
        std::fs::write(&other, b"two").expect("written");
        let reader = opened(&path).expect("opened");
        reader.check().expect("unchanged");
        std::fs::rename(&other, &path).expect("renamed");
        assert!(reader.check().expect_err("replaced").message().contains("is not the file"));
        let stale = std::fs::metadata(&path).expect("a file");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"more").expect("written");
        assert!(Reader::open(&path, FileIdentity::from_metadata(&stale)).is_err());
    }
}
