//! From an open source to the JSON text of its header.

use super::parse::parse;
use crate::error::Result;
use crate::format::flaw::{Checked, DAMAGED, Flaw, INCOMPLETE, TRUSTED, no_memory};
use crate::format::foreign;
use crate::format::header::Header;
use crate::io::source::Source;
use crate::memory;

/// Bytes of the length field before the JSON.
const LENGTH: u64 = 8;
/// Bytes that a byte of the JSON may become when it is read.
const PARSED: u64 = 8;
/// How much of a file's beginning is looked at to tell what else it may be.
const HEAD: u64 = 512;

/// Read and check the header of an open source.
///
/// `max_header_bytes` bounds the JSON text, and with it the memory used.
pub fn read(source: &dyn Source, max_header_bytes: u64) -> Result<Header> {
    let (path, size) = (source.path(), source.identity().size());
    let head = read_bytes(source, 0, size.min(HEAD))?;
    let length = header_length(&head, size, max_header_bytes)
        .map_err(|flaw| flaw.at(&path.display().to_string()))?;
    let json = read_bytes(source, LENGTH, length)?;
    memory::expect(PARSED * length)?;
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
        return Err(Flaw::new(what, hint(TRUSTED)));
    }
    Ok(length)
}

/// `length` bytes at `offset`; memory that cannot be had is an error, not an abort.
fn read_bytes(source: &dyn Source, offset: u64, length: u64) -> Result<Vec<u8>> {
    let place = source.path().display().to_string();
    let refused = || no_memory(&format!("a header of {length} bytes")).at(&place);
    let length = usize::try_from(length).map_err(|_| refused())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| refused())?;
    bytes.resize(length, 0);
    source.read(offset, &mut bytes)?;
    Ok(bytes)
}
