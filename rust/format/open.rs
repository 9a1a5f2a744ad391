//! The header of a source, of whatever container.

use super::header::Header;
use super::{gguf, safetensors};
use crate::error::Result;
use crate::io::source::Source;

/// Read and check the header of an open source; its first bytes say which container it is.
///
/// `max_header_bytes` bounds what is read, and with it the memory used.
pub fn read(source: &dyn Source, max_header_bytes: u64) -> Result<Header> {
    let mut magic = [0; gguf::MAGIC.len()];
    let is_gguf = source.identity().size() >= magic.len() as u64 && {
        source.read(0, &mut magic)?;
        &magic == gguf::MAGIC
    };
    if is_gguf {
        return gguf::read(source, max_header_bytes);
    }
    safetensors::read(source, max_header_bytes)
}
