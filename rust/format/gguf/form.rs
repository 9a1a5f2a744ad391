//! What reading and writing share.

/// The first bytes of every file.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// What data is aligned to where nothing else is said, as in every new file.
pub const ALIGNMENT: u64 = 32;

/// Where the next multiple of `alignment` is.
#[must_use]
pub fn aligned(at: u64, alignment: u64) -> Option<u64> {
    at.checked_next_multiple_of(alignment)
}
