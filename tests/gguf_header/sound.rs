//! Whether the answer to any bytes is sound. Also the body of the fuzz target.

use submerge_core::error::Kind;
use submerge_core::format::read;
use submerge_core::io::source::Memory;

/// The name under which the messages speak of the file.
const PATH: &str = "some/model.gguf";

/// Panics unless the answer is one that a user can do something with.
pub fn check(bytes: &[u8]) -> bool {
    match read(&Memory::new(PATH, "", bytes.into()), 1 << 20) {
        Ok(header) => {
            let mut end = 0;
            for tensor in &header.tensors {
                assert!(tensor.start >= end && tensor.end >= tensor.start, "{header:?}");
                end = tensor.end;
                assert_eq!(header.tensor(&tensor.name), Some(tensor));
                let size = tensor.elements().checked_mul(tensor.dtype.bits() / 8);
                assert_eq!(size, Some(tensor.end - tensor.start), "{tensor:?}");
            }
            let data = bytes.len() as u64 - header.data_start.min(bytes.len() as u64);
            assert!(end <= data, "{header:?}");
            true
        }
        Err(error) => {
            assert!(matches!(error.kind(), Kind::Checkpoint), "{error:?}");
            assert!(error.message().starts_with(PATH), "{error}");
            assert!(error.advice().is_some(), "no hint: {error}");
            assert!(!error.message().contains(char::is_control), "not escaped: {error:?}");
            false
        }
    }
}
