//! Safetensors headers, read strictly and written exactly.
//!
//! A file is `u64 length (little endian) | length bytes of JSON | tensor data`. The JSON is one
//! object: an optional `__metadata__` map of strings, then one entry per tensor with `dtype`,
//! `shape` and `data_offsets` (a half-open byte range inside the data). Source: the format section
//! of the safetensors README, and the behaviour of the `safetensors` crate where that is silent.
//!
//! Reading is a total function over hostile bytes: every size is checked with 64-bit arithmetic
//! against the size of the file before memory is asked for, and what is allocated stays within a
//! small multiple of the header's length. What is refused although the `safetensors` crate takes it
//! is ambiguous (duplicate names, unknown fields, entries that are not objects) or beyond the
//! limits below; nothing is accepted that the crate refuses, but for its fixed limit of 100 MB.

mod foreign;
mod json;
mod open;
mod write;

use std::cmp::Ordering;
use std::path::Path;

pub use open::read;
pub use write::encode;

use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};

/// More tensors than any model has; a header of 100 MB could otherwise declare two million.
const MAX_TENSORS: usize = 1_000_000;
/// Dimensions of one tensor. `NumPy` stops at 64 as well.
const MAX_RANK: usize = 64;
/// Bytes of one tensor name.
const MAX_NAME: usize = 4096;
/// Bytes of all metadata keys and values together, each entry counted with its bookkeeping.
const MAX_METADATA: usize = 16 << 20;
/// The key of the text map that stands beside the tensors.
const METADATA: &str = "__metadata__";

const DAMAGED: &str =
    "the file is damaged or was written by a faulty tool; download or convert it again";
const INCOMPLETE: &str = "the download or copy is probably incomplete; fetch the file again";

/// One tensor of a file: what its bytes mean and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name as in the file. It may hold any characters: print it with [`quoted`], never use it
    /// as a path.
    pub name: String,
    /// The type of one element.
    pub dtype: Dtype,
    /// Dimensions, slowest first; empty for a scalar.
    pub shape: Vec<u64>,
    /// First byte, counted from the beginning of the data section.
    pub start: u64,
    /// One past the last byte, counted from the beginning of the data section.
    pub end: u64,
}

impl Tensor {
    /// Rows: the first dimension, 1 for a scalar.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of one row, 1 for a vector or a scalar. Saturates; a header with such a shape is
    /// refused by [`parse`] and [`encode`].
    #[must_use]
    pub fn row_elements(&self) -> u64 {
        self.shape.iter().skip(1).fold(1, |product, &n| product.saturating_mul(n))
    }

    /// Elements of the whole tensor. Saturates like [`Tensor::row_elements`].
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.rows().saturating_mul(self.row_elements())
    }

    /// Everything that can be wrong with one tensor regardless of its neighbours.
    fn check(&self) -> Checked<()> {
        if self.shape.len() > MAX_RANK {
            return Err(Flaw::new(
                format!(
                    "too many dimensions, expected at most {MAX_RANK}, got {}",
                    self.shape.len()
                ),
                DAMAGED,
            ));
        }
        let size = byte_size(self.dtype, &self.shape)?;
        let (start, end) = (self.start, self.end);
        let Some(found) = end.checked_sub(start) else {
            return Err(Flaw::new(
                format!(
                    "`data_offsets` run backwards, expected an end of at least {start}, got {end}"
                ),
                DAMAGED,
            ));
        };
        if found != size {
            return Err(Flaw::new(
                format!(
                    "{} of shape {:?} does not fit its `data_offsets` {start}..{end}, \
                     expected {size} bytes, got {found}",
                    self.dtype.name(),
                    self.shape
                ),
                DAMAGED,
            ));
        }
        Ok(())
    }
}

/// The header of one file, checked: names are unique and the tensors tile the data exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the data section begins, in bytes from the beginning of the file.
    pub data_start: u64,
    /// The text map, in file order, keys unique.
    pub metadata: Vec<(String, String)>,
    /// All tensors in data order: by start, then end, then name.
    pub tensors: Vec<Tensor>,
    /// Indices into `tensors`, ordered by name.
    by_name: Vec<u32>,
}

impl Header {
    /// The tensor of that exact name, found in O(log n).
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let named = |&at: &u32| self.tensors[at as usize].name.as_str().cmp(name);
        let found = self.by_name.binary_search_by(named).ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }
}

/// The outcome of a check that does not know where it is made.
type Checked<T> = std::result::Result<T, Flaw>;

/// What is wrong and what to do about it, before it is known where it stands.
struct Flaw {
    what: String,
    hint: &'static str,
}

impl Flaw {
    fn new(what: String, hint: &'static str) -> Self {
        Self { what, hint }
    }

    #[cold]
    fn at(self, place: &str) -> Error {
        Error::checkpoint(format!("{place}: {}", self.what)).hint(self.hint)
    }
}

/// Parse and check the JSON text of a header.
///
/// `data_start` and `data_len` are the place and size in bytes of the data section in the file at
/// `path`; the tensors must fill exactly `data_len` bytes.
pub fn parse(json: &[u8], data_start: u64, data_len: u64, path: &Path) -> Result<Header> {
    let place = path.display().to_string();
    let text = std::str::from_utf8(json).map_err(|e| {
        let at = e.valid_up_to();
        let what =
            format!("header is not text, expected UTF-8, got byte {:#04x} at {at}", json[at]);
        Flaw::new(what, DAMAGED).at(&place)
    })?;
    let (metadata, mut tensors) = json::read(text, path)?;
    tensors.sort_unstable_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
    let by_name = index(&tensors).map_err(|flaw| flaw.at(&place))?;
    for tensor in &tensors {
        tensor
            .check()
            .map_err(|flaw| flaw.at(&format!("{place}: tensor {}", quoted(&tensor.name))))?;
    }
    let end = tile(&tensors).map_err(|flaw| flaw.at(&place))?;
    let (expected, got) = (data_start.saturating_add(end), data_start.saturating_add(data_len));
    match end.cmp(&data_len) {
        Ordering::Greater => {
            let what = format!("file is cut short, expected {expected} bytes, got {got}");
            Err(Flaw::new(what, INCOMPLETE).at(&place))
        }
        Ordering::Less => {
            let what = format!("bytes after the last tensor, expected {expected} bytes, got {got}");
            Err(Flaw::new(what, DAMAGED).at(&place))
        }
        Ordering::Equal => Ok(Header { data_start, metadata, tensors, by_name }),
    }
}

/// The order of the tensors by name; two of the same name are an error.
fn index(tensors: &[Tensor]) -> Checked<Vec<u32>> {
    let name = |at: u32| tensors[at as usize].name.as_str();
    let mut order = Vec::new();
    order.try_reserve_exact(tensors.len()).map_err(|_| no_memory("the names"))?;
    order.extend(0..tensors.len() as u32);
    order.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
    match order.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
        Some(pair) => Err(twice("tensor", name(pair[0]))),
        None => Ok(order),
    }
}

/// Check that tensors in data order cover the data without hole or overlap; where they end.
fn tile(tensors: &[Tensor]) -> Checked<u64> {
    let mut before: Option<&Tensor> = None;
    for tensor in tensors {
        let expected = before.map_or(0, |t| t.end);
        if tensor.start != expected {
            let fault = if tensor.start < expected { "overlaps" } else { "leaves a hole after" };
            let neighbour = before.map_or("the header".to_owned(), |t| quoted(&t.name));
            let what = format!(
                "tensor {} {fault} {neighbour}, expected its data to start at byte {expected}, got {}",
                quoted(&tensor.name),
                tensor.start
            );
            return Err(Flaw::new(what, DAMAGED));
        }
        before = Some(tensor);
    }
    Ok(before.map_or(0, |t| t.end))
}

/// Bytes of a tensor, proved not to overflow; a zero dimension hides no overflow of the others.
fn byte_size(dtype: Dtype, shape: &[u64]) -> Checked<u64> {
    let bits = dtype.bits();
    let full =
        shape.iter().filter(|&&n| n != 0).try_fold(bits, |product, &n| product.checked_mul(n));
    let Some(full) = full else {
        let what = format!(
            "shape overflows, expected less than 2^64 bits, got {} of {shape:?}",
            dtype.name()
        );
        return Err(Flaw::new(what, DAMAGED));
    };
    let size = if shape.contains(&0) { 0 } else { full };
    if size % 8 != 0 {
        let what = format!(
            "{} of shape {shape:?} does not fill whole bytes, expected a multiple of 8 bits, got {size}",
            dtype.name()
        );
        return Err(Flaw::new(what, DAMAGED));
    }
    Ok(size / 8)
}

fn twice(kind: &str, name: &str) -> Flaw {
    Flaw::new(
        format!("duplicate {kind} {}, expected unique names, got it twice", quoted(name)),
        "readers disagree on which one counts, so the file is refused; write it again with unique names",
    )
}

#[cold]
fn no_memory(what: &str) -> Flaw {
    let what = format!("out of memory, expected room for {what}, got none");
    Flaw::new(what, "lower `max_header_bytes` or free memory")
}
