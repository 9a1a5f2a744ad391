//! The key-values of a header: what is text or one number is kept as text, what an array holds is
//! skipped.

use std::collections::{BTreeMap, BTreeSet};

use super::cursor::{Cursor, Here};
use super::form::ALIGNMENT;
use crate::error::Result;
use crate::format::flaw::{Flaw, MAX_METADATA, charge, twice};

/// More than any page or device asks for.
const MAX_ALIGNMENT: u32 = 1 << 20;
/// Bytes of one key.
const MAX_KEY: u64 = 65_535;
/// Bytes of one text; of a longer one only the length is kept.
const MAX_TEXT: u64 = MAX_METADATA as u64 / 2;
/// Bytes that a key-value takes at least: the length of its key, its type, its value.
pub(super) const LEAST: u64 = 8 + 4 + 1;
/// Where writers of other models' tensors leave the shape of one that has more dimensions than ggml.
const ORIGINAL: &str = "comfy.gguf.orig_shape.";
/// Dimensions of such a shape.
const MAX_RANK: u64 = 8;
const NOTES: &str = "metadata holds notes, not data; write the file again without it";

/// The types of values, by their number in a file: name and bytes; what has none is read on its own.
const KINDS: [(&str, u64); 13] = [
    ("uint8", 1),
    ("int8", 1),
    ("uint16", 2),
    ("int16", 2),
    ("uint32", 4),
    ("int32", 4),
    ("float32", 4),
    ("bool", 1),
    ("string", 0),
    ("array", 0),
    ("uint64", 8),
    ("int64", 8),
    ("float64", 8),
];
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// What the key-values say.
pub(super) struct Keys {
    /// Each of them as text, in file order.
    pub(super) metadata: Vec<(String, String)>,
    /// What tensors begin at multiples of.
    pub(super) alignment: u64,
    /// The shapes that tensors had before they were flattened, slowest dimension first.
    pub(super) shapes: BTreeMap<String, Vec<u64>>,
}

/// Read `count` key-values.
pub(super) fn read(cursor: &mut Cursor, count: u64) -> Result<Keys> {
    let (metadata, shapes) = (Vec::new(), BTreeMap::new());
    let mut keys = Keys { metadata, alignment: ALIGNMENT, shapes };
    let (mut seen, mut total) = (BTreeSet::new(), 0);
    for index in 0..count {
        cursor.here = Here::Nth("key", index);
        let len = cursor.u64()?;
        if len > MAX_KEY {
            let what = format!("key too long, expected at most {MAX_KEY} bytes, got {len}");
            return Err(cursor.damaged(what));
        }
        let key = cursor.text(len)?;
        cursor.here = Here::Key(key.clone());
        let kind = cursor.u32()?;
        let value = keys.value(cursor, &key, kind)?;
        let counted = charge(&mut total, (&key, &value), NOTES);
        counted.map_err(|flaw| cursor.wrong(flaw))?;
        if !seen.insert(key.clone()) {
            cursor.here = Here::Header;
            return Err(cursor.wrong(twice("key", &key)));
        }
        keys.metadata.push((key, value));
    }
    cursor.here = Here::Header;
    Ok(keys)
}

impl Keys {
    /// A value as text; what is needed of it is kept.
    fn value(&mut self, cursor: &mut Cursor, key: &str, kind: u32) -> Result<String> {
        if key == "general.alignment" {
            return self.align(cursor, kind);
        }
        if kind == ARRAY {
            return self.array(cursor, key);
        }
        if kind == STRING {
            let len = cursor.u64()?;
            if len > MAX_TEXT {
                cursor.skip(len)?;
                return Ok(format!("a text of {len} bytes"));
            }
            return cursor.text(len);
        }
        let (_, size) = kind_of(cursor, kind)?;
        number(cursor, kind, size)
    }

    /// The alignment of the data.
    fn align(&mut self, cursor: &mut Cursor, kind: u32) -> Result<String> {
        let (name, _) = kind_of(cursor, kind)?;
        if name != "uint32" {
            let what = format!("wrong type, expected uint32, got {name}");
            return Err(cursor.damaged(what));
        }
        let alignment = cursor.u32()?;
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            let what =
                format!("expected a power of two of at most {MAX_ALIGNMENT}, got {alignment}");
            return Err(cursor.damaged(what));
        }
        self.alignment = alignment.into();
        Ok(alignment.to_string())
    }

    /// Skips an array and tells what it is; a shape is kept.
    fn array(&mut self, cursor: &mut Cursor, key: &str) -> Result<String> {
        let kind = cursor.u32()?;
        let count = cursor.u64()?;
        let (name, size) = kind_of(cursor, kind)?;
        if kind == ARRAY {
            let what = "an array of arrays, expected one of texts or numbers, got more".to_owned();
            return Err(cursor.damaged(what));
        }
        if let Some(tensor) = key.strip_prefix(ORIGINAL) {
            let shape = shape(cursor, kind, count)?;
            self.shapes.insert(tensor.to_owned(), shape);
        } else if kind == STRING {
            for _ in 0..count {
                let len = cursor.u64()?; // ends with the header at the latest
                cursor.skip(len)?;
            }
        } else {
            cursor.skip(count.saturating_mul(size))?;
        }
        Ok(format!("{count} of {name}"))
    }
}

/// Name and bytes of a type of values.
fn kind_of(cursor: &Cursor, kind: u32) -> Result<(&'static str, u64)> {
    let known = KINDS.get(kind as usize).copied();
    known.ok_or_else(|| {
        let what = format!("unknown type of value, expected 0 to {}, got {kind}", KINDS.len() - 1);
        let hint = "the file is damaged, or needs a newer submerge";
        cursor.wrong(Flaw::new(what, hint))
    })
}

/// A number or a truth value as text.
fn number(cursor: &mut Cursor, kind: u32, size: u64) -> Result<String> {
    let mut bytes = [0; 8];
    for byte in &mut bytes[..size as usize] {
        [*byte] = cursor.array()?;
    }
    let bits = u64::from_le_bytes(bytes);
    let signed = bits.cast_signed() << (64 - 8 * size) >> (64 - 8 * size);
    Ok(match KINDS[kind as usize].0 {
        "bool" => (bits != 0).to_string(),
        "int8" | "int16" | "int32" | "int64" => signed.to_string(),
        "float32" => f32::from_bits(bits as u32).to_string(),
        "float64" => f64::from_bits(bits).to_string(),
        _ => bits.to_string(),
    })
}

/// A shape as an array of whole numbers.
fn shape(cursor: &mut Cursor, kind: u32, count: u64) -> Result<Vec<u64>> {
    let (name, size) = kind_of(cursor, kind)?;
    if !name.contains("int") || count > MAX_RANK {
        let what =
            format!("a shape, expected at most {MAX_RANK} whole numbers, got {count} of {name}");
        return Err(cursor.damaged(what));
    }
    let mut shape = Vec::new();
    for _ in 0..count {
        let text = number(cursor, kind, size)?;
        let dimension = text.parse().map_err(|_| {
            let what = format!("a shape, expected dimensions of at least 0, got {text}");
            cursor.damaged(what)
        })?;
        shape.push(dimension);
    }
    Ok(shape)
}
