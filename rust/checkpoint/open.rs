//! From an open file to the JSON text of its header.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{Checked, DAMAGED, Flaw, Header, INCOMPLETE, foreign, no_memory, parse};
use crate::error::{Error, Result};

/// Bytes of the length field before the JSON.
const LENGTH: u64 = 8;
/// How much of a file's beginning is looked at to tell what else it may be.
const HEAD: u64 = 512;

/// Read and check the header of an open file with positioned reads; `path` is only for messages.
///
/// `max_header_bytes` bounds the JSON text, and with it the memory used.
pub fn read(file: &File, path: &Path, max_header_bytes: u64) -> Result<Header> {
    let status = file.metadata().map_err(|e| Error::io(e, path, "cannot stat"))?;
    if !status.is_file() {
        let kind = if status.is_dir() { "a folder" } else { "a special file" };
        let what =
            format!("{}: not a checkpoint, expected a regular file, got {kind}", path.display());
        return Err(Error::checkpoint(what).hint("give a `.safetensors` file"));
    }
    let size = status.len();
    let head = read_bytes(file, path, 0, size.min(HEAD))?;
    let length = header_length(&head, size, max_header_bytes)
        .map_err(|flaw| flaw.at(&path.display().to_string()))?;
    let json = read_bytes(file, path, LENGTH, length)?;
    let data_start = LENGTH + length;
    parse(&json, data_start, size - data_start, path)
}

/// The length of the JSON text, proved to lie inside the file and within the limit.
fn header_length(head: &[u8], size: u64, limit: u64) -> Checked<u64> {
    let hint = |fallback| foreign::recognise(head).unwrap_or(fallback);
    let Some(length) = head.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        let what = format!("file too short, expected at least 8 bytes, got {size}");
        return Err(Flaw::new(what, hint(INCOMPLETE)));
    };
    let room = size - LENGTH;
    if length == 0 {
        let what = "header length is zero, expected at least 2 bytes, got 0".to_owned();
        return Err(Flaw::new(what, hint(DAMAGED)));
    }
    if length > room {
        let what = format!(
            "header reaches beyond the end of the file, expected at most {room} bytes \
             (the file has {size}), got {length}"
        );
        return Err(Flaw::new(what, hint(INCOMPLETE)));
    }
    if length > limit {
        let what = format!("header too large, expected at most {limit} bytes, got {length}");
        return Err(Flaw::new(what, hint("if you trust the file, raise `max_header_bytes`")));
    }
    Ok(length)
}

/// `length` bytes at `offset`; memory that cannot be had is an error, not an abort.
fn read_bytes(file: &File, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>> {
    let place = path.display().to_string();
    let refused = || no_memory(&format!("a header of {length} bytes")).at(&place);
    let length = usize::try_from(length).map_err(|_| refused())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| refused())?;
    bytes.resize(length, 0);
    read_exact_at(file, &mut bytes, offset).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Flaw::new(
            format!(
                "file shrank while it was read, expected {length} bytes at {offset}, got fewer"
            ),
            "another program is writing this file; wait until it is done",
        )
        .at(&place),
        _ => Error::io(e, path, "cannot read the header"),
    })?;
    Ok(bytes)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match std::os::windows::fs::FileExt::seek_read(
            file,
            &mut bytes[done..],
            offset + done as u64,
        ) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
