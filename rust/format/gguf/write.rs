//! The bytes that stand before the data of a new file.

use std::collections::BTreeMap;

use super::form::{ALIGNMENT, MAGIC, aligned};
use super::types::Type;
use crate::error::{Error, Result, quoted};

/// Bytes of the longest name that readers of image models take.
pub const MAX_NAME: usize = 127;
/// Dimensions of one tensor.
const MAX_RANK: usize = 4;
const VERSION: u32 = 3;
const UINT32: u32 = 4;
const STRING: u32 = 8;

/// A tensor of a new file.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// How its elements are stored.
    pub kind: &'static Type,
    /// Its dimensions in elements, slowest first.
    pub shape: Vec<u64>,
    /// Where it begins in the data.
    pub start: u64,
}

/// The bytes that stand before the data: magic, version, counts, key-values, tensors, padding.
///
/// The key-values are `numbers`, `texts` and the alignment, sorted by key; tensors keep their order.
pub fn encode(
    texts: &BTreeMap<String, String>,
    numbers: &BTreeMap<String, u32>,
    tensors: &[Entry],
) -> Result<Vec<u8>> {
    let mut pairs: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let alignment = ("general.alignment", ALIGNMENT as u32);
    let numbers = numbers.iter().map(|(key, number)| (key.as_str(), *number));
    let mut values: Vec<_> = texts.iter().map(|(key, text)| (key.as_str(), string(text))).collect();
    values.extend(
        numbers
            .chain([alignment])
            .map(|(key, number)| (key, [UINT32.to_le_bytes(), number.to_le_bytes()].concat())),
    );
    for (key, value) in values {
        if pairs.insert(key, value).is_some() {
            let what = format!("output header: key {} twice, expected once", quoted(key));
            return Err(Error::plan(what).hint("the core writes the alignment itself"));
        }
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        put(&mut bytes, key);
        bytes.extend(value);
    }
    for tensor in tensors {
        check(tensor)?;
        put(&mut bytes, tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        bytes.extend(tensor.shape.iter().rev().flat_map(|n| n.to_le_bytes()));
        bytes.extend(tensor.kind.id.to_le_bytes());
        bytes.extend(tensor.start.to_le_bytes());
    }
    let padded = aligned(bytes.len() as u64, ALIGNMENT).unwrap_or_default();
    bytes.resize(padded as usize, 0);
    Ok(bytes)
}

/// A text, with its length before it.
fn put(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A text as a value.
fn string(text: &str) -> Vec<u8> {
    let mut value = STRING.to_le_bytes().to_vec();
    put(&mut value, text);
    value
}

/// Refuse what readers of the format would.
fn check(tensor: &Entry) -> Result<()> {
    let wrong = |what: String, hint| {
        let name = quoted(tensor.name);
        Err(Error::plan(format!("output tensor {name}: {what}")).hint(hint))
    };
    if tensor.name.len() > MAX_NAME {
        let len = tensor.name.len();
        let what = format!("name too long for GGUF, expected at most {MAX_NAME} bytes, got {len}");
        return wrong(what, "write safetensors, or give the tensor a shorter name");
    }
    let rank = tensor.shape.len();
    if rank > MAX_RANK {
        let what = format!("too many dimensions for GGUF, expected at most {MAX_RANK}, got {rank}");
        return wrong(what, "write safetensors");
    }
    if tensor.shape.contains(&0) {
        let shape = &tensor.shape;
        let what = format!("no elements, expected some in GGUF, got shape {shape:?}");
        return wrong(what, "write safetensors, or leave the tensor out");
    }
    Ok(())
}
