//! From an open source to its header.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use super::cursor::{Cursor, Here};
use super::form::{MAGIC, aligned};
use super::keys::{self, Keys};
use super::types::Type;
use crate::dtype::Dtype;
use crate::error::{Result, quoted};
use crate::format::flaw::{DAMAGED, Flaw, INCOMPLETE, MAX_NAME, MAX_TENSORS, name_too_long};
use crate::format::header::{Blocks, Container, Header};
use crate::format::tensor::Tensor;
use crate::io::source::Source;
use crate::memory;

/// Dimensions of one tensor: as many as ggml has.
const MAX_RANK: u32 = 4;
/// Bytes that the entry of a tensor takes at least: the length of its name, the number of its
/// dimensions, its type, its offset.
const LEAST: u64 = 8 + 4 + 4 + 8;
/// Bytes of memory that a tensor takes beside its name, which is in the file.
const HELD: u64 = 512;

/// Read and check the header of an open source.
///
/// `max_header_bytes` bounds what stands before the data, and with it the memory used.
pub fn read(source: &dyn Source, max_header_bytes: u64) -> Result<Header> {
    let mut cursor = Cursor::new(source, max_header_bytes);
    let (tensors, pairs) = begin(&mut cursor)?;
    let keys = keys::read(&mut cursor, pairs)?;
    memory::expect(tensors * HELD)?;
    let mut found = Vec::new();
    for index in 0..tensors {
        found.push(entry(&mut cursor, index, &keys)?);
    }
    cursor.here = Here::Header;
    let end = cursor.position();
    let most = if found.is_empty() { cursor.size() } else { u64::MAX };
    let data_start = aligned(end, keys.alignment).unwrap_or(u64::MAX).min(most);
    lay_out(&cursor, keys, found, data_start)
}

/// What stands before everything that has a name: the numbers of tensors and of key-values.
fn begin(cursor: &mut Cursor) -> Result<(u64, u64)> {
    if &cursor.array()? != MAGIC {
        return Err(cursor.damaged("no GGUF, expected `GGUF` first, got other bytes".to_owned()));
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => {}
        1 => {
            let what = "GGUF version 1, expected 2 or 3, got 1".to_owned();
            let hint = "write it again with a newer tool; its counts are narrower";
            return Err(cursor.wrong(Flaw::new(what, hint)));
        }
        _ if (1..=3).contains(&version.swap_bytes()) => {
            let what = "big endian GGUF, expected little endian, got the other".to_owned();
            let hint = "convert it: `gguf-convert-endian FILE little` of the package gguf";
            return Err(cursor.wrong(Flaw::new(what, hint)));
        }
        _ => {
            let what = format!("unknown version of GGUF, expected 2 or 3, got {version}");
            let hint = "the file is damaged, or needs a newer submerge";
            return Err(cursor.wrong(Flaw::new(what, hint)));
        }
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    let room = cursor.left();
    let counts = [
        ("tensors", tensors, (room / LEAST).min(MAX_TENSORS as u64)),
        ("key-values", pairs, room / keys::LEAST),
    ];
    for (what, count, most) in counts {
        if count > most {
            let what = format!("too many {what}, expected at most {most}, got {count}");
            return Err(cursor.damaged(what));
        }
    }
    Ok((tensors, pairs))
}

/// A tensor and what is said of its blocks, if it has them.
type Found = (Tensor, Option<Blocks>);

/// The entry of one tensor.
fn entry(cursor: &mut Cursor, index: u64, keys: &Keys) -> Result<Found> {
    cursor.here = Here::Nth("tensor", index);
    let len = cursor.u64()?;
    if len > MAX_NAME as u64 {
        return Err(cursor.wrong(name_too_long(usize::try_from(len).unwrap_or(usize::MAX))));
    }
    let name = cursor.text(len)?;
    cursor.here = Here::Tensor(name.clone());
    let rank = cursor.u32()?;
    if rank > MAX_RANK {
        let what = format!("too many dimensions, expected at most {MAX_RANK}, got {rank}");
        return Err(cursor.damaged(what));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(cursor.u64()?);
    }
    shape.reverse();
    let kind = kind(cursor)?;
    let start = cursor.u64()?;
    let bytes = byte_size(cursor, kind, &shape)?;
    if !start.is_multiple_of(keys.alignment) {
        let alignment = keys.alignment;
        let what =
            format!("its data lies askew, expected a multiple of {alignment} bytes, got {start}");
        return Err(cursor.damaged(what));
    }
    let end = start.checked_add(bytes).ok_or_else(|| {
        let what = "its data reaches too far, expected less than 2^64 bytes";
        cursor.damaged(format!("{what}, got {bytes} at {start}"))
    })?;
    let shape = reshaped(cursor, keys.shapes.get(&name), shape)?;
    Ok(described(name, kind, shape, start..end))
}

/// The type of a tensor.
fn kind(cursor: &mut Cursor) -> Result<&'static Type> {
    let id = cursor.u32()?;
    Type::of(id).map_err(|gone| {
        if let Some(name) = gone {
            let what = format!("type {name}, expected one that ggml still has, got number {id}");
            return cursor.wrong(Flaw::new(what, "quantise the model again with a newer tool"));
        }
        let what = format!("unknown type, expected one of ggml's, got number {id}");
        let hint = "the file is damaged, or needs a newer submerge; its sizes cannot be checked";
        cursor.wrong(Flaw::new(what, hint))
    })
}

/// Bytes of a tensor, proved not to overflow and to be whole blocks.
fn byte_size(cursor: &Cursor, kind: &Type, shape: &[u64]) -> Result<u64> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.elements) {
        let what = format!(
            "rows of {row} elements, expected whole blocks of {} of {}, got a part of one",
            kind.elements, kind.name
        );
        return Err(cursor.damaged(what));
    }
    // A zero dimension hides no overflow of the others.
    let some = shape.iter().filter(|&&n| n != 0).try_fold(1, |all: u64, &n| all.checked_mul(n));
    let full = some.and_then(|elements| elements.checked_mul(kind.bytes)).ok_or_else(|| {
        let name = kind.name;
        cursor.damaged(format!(
            "shape overflows, expected less than 2^64 bytes, got {name} of {shape:?}"
        ))
    })?;
    Ok(if shape.contains(&0) { 0 } else { full / kind.elements })
}

/// The shape that a tensor had before it was flattened, if it was.
fn reshaped(cursor: &Cursor, before: Option<&Vec<u64>>, shape: Vec<u64>) -> Result<Vec<u64>> {
    let elements = |shape: &[u64]| shape.iter().try_fold(1, |all: u64, &n| all.checked_mul(n));
    match before {
        Some(before) if elements(before) == elements(&shape) => Ok(before.clone()),
        Some(before) => {
            let what = "the shape in its key-value does not fit";
            let what = format!("{what}, expected as many elements as {shape:?}, got {before:?}");
            Err(cursor.damaged(what))
        }
        None => Ok(shape),
    }
}

/// A tensor as the core sees it: blocks are bytes, rows of them where a row is whole blocks.
fn described(name: String, kind: &'static Type, shape: Vec<u64>, data: Range<u64>) -> Found {
    let (start, end) = (data.start, data.end);
    if let Some(dtype) = kind.dtype() {
        return (Tensor { name, dtype, shape, start, end }, None);
    }
    let row = shape.iter().skip(1).fold(1, |row: u64, &n| row.saturating_mul(n));
    let bytes = match &shape[..] {
        [rows, _, ..] if row.is_multiple_of(kind.elements) => {
            vec![*rows, (row / kind.elements).saturating_mul(kind.bytes)]
        }
        _ => vec![end - start],
    };
    let blocks = Blocks { format: kind.name, shape };
    (Tensor { name, dtype: Dtype::U8, shape: bytes, start, end }, Some(blocks))
}

/// The header, once the tensors are known to tile the data.
fn lay_out(cursor: &Cursor, keys: Keys, found: Vec<Found>, data_start: u64) -> Result<Header> {
    let Keys { metadata, alignment, .. } = keys;
    let (mut tensors, mut blocks) = (Vec::new(), BTreeMap::new());
    for (tensor, of) in found {
        if let Some(of) = of {
            blocks.insert(tensor.name.clone(), of);
        }
        tensors.push(tensor);
    }
    let header = Header::new(Container::Gguf, data_start, metadata, tensors);
    let mut header = header.map_err(|flaw| cursor.wrong(flaw))?;
    header.blocks = blocks;
    let mut before: Option<&Tensor> = None;
    for tensor in &header.tensors {
        let end = before.map_or(0, |before| before.end);
        let expected = aligned(end, alignment).unwrap_or(u64::MAX);
        if tensor.start != expected {
            let fault = if tensor.start < expected { "overlaps" } else { "leaves a hole after" };
            let neighbour = before.map_or("the header".to_owned(), |t| quoted(&t.name));
            let what = format!(
                "tensor {} {fault} {neighbour}, expected its data to start at byte {expected}, got {}",
                quoted(&tensor.name),
                tensor.start
            );
            return Err(cursor.damaged(what));
        }
        before = Some(tensor);
    }
    let end = before.map_or(0, |before| before.end);
    let padded = aligned(end, alignment).unwrap_or(u64::MAX);
    let size = cursor.size();
    let (least, most) = (data_start.saturating_add(end), data_start.saturating_add(padded));
    let wrong = |what: String, hint| Err(cursor.wrong(Flaw::new(what, hint)));
    match (size.cmp(&least), size.cmp(&most)) {
        (Ordering::Less, _) => {
            let what = format!("the file is cut short, expected {least} bytes, got {size}");
            wrong(what, INCOMPLETE)
        }
        (_, Ordering::Greater) => {
            let what = format!("bytes after the last tensor, expected {most} bytes, got {size}");
            wrong(what, DAMAGED)
        }
        _ => Ok(header),
    }
}
