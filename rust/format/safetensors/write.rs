//! The bytes that stand before the data of a new file.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::json;
use super::tensor::{METADATA, NOTES, check, tile};
use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::format::flaw::{Checked, Flaw, charge, twice};
use crate::format::header::index;
use crate::format::tensor::Tensor;

/// The longest JSON text that readers of the format accept; a longer one is never written.
const MAX_LENGTH: usize = 100_000_000;

/// The bytes that stand before the data: length, JSON and padding to a multiple of 8.
///
/// Keys of `metadata` are sorted; tensors keep the given order, in which they must tile the data
/// from byte 0. The text is the one the `safetensors` crate writes for the same content and order;
/// like there, no metadata means no `__metadata__` entry.
pub fn encode(metadata: &[(String, String)], tensors: &[Tensor]) -> Result<Vec<u8>> {
    let wrong = |flaw: Flaw| Error::plan(format!("output header: {}", flaw.what)).hint(flaw.hint);
    for tensor in tensors {
        json::check_name(&tensor.name).and_then(|()| check(tensor)).map_err(|flaw| {
            let what = format!("output tensor {}: {}", quoted(&tensor.name), flaw.what);
            Error::plan(what).hint(flaw.hint)
        })?;
    }
    index(tensors).and_then(|_| tile(tensors)).map_err(wrong)?;
    let metadata = sorted(metadata).map_err(wrong)?;
    let json = serde_json::to_vec(&Text { metadata, tensors })
        .map_err(|e| Error::internal(format!("output header: cannot be written: {e}")))?;
    let length = json.len().next_multiple_of(8);
    if length > MAX_LENGTH {
        let what = format!("too large, expected at most {MAX_LENGTH} bytes, got {length}");
        return Err(wrong(Flaw::new(what, "write several files")));
    }
    let mut bytes = Vec::with_capacity(8 + length);
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes.resize(8 + length, b' ');
    Ok(bytes)
}

/// The metadata by key, within the limit that readers of our files keep.
fn sorted(metadata: &[(String, String)]) -> Checked<BTreeMap<&str, &str>> {
    let mut total = 0;
    let mut map = BTreeMap::new();
    for (key, value) in metadata {
        charge(&mut total, (key, value), NOTES)?;
        if map.insert(key.as_str(), value.as_str()).is_some() {
            return Err(twice("metadata key", key));
        }
    }
    Ok(map)
}

/// The header as it is written.
struct Text<'a> {
    metadata: BTreeMap<&'a str, &'a str>,
    tensors: &'a [Tensor],
}

/// One entry, its fields in the order of the format's own writer.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: Dtype,
    shape: &'a [u64],
    data_offsets: (u64, u64),
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, &self.metadata)?;
        }
        for Tensor { name, dtype, shape, start, end } in self.tensors {
            let entry = Entry { dtype: *dtype, shape, data_offsets: (*start, *end) };
            map.serialize_entry(name, &entry)?;
        }
        map.end()
    }
}
