//! One tensor of a file, and what tensors of a file must be to each other.

use crate::dtype::Dtype;
use crate::error::{Error, quoted};

/// More tensors than any model has; a header of 100 MB could otherwise declare two million.
pub(super) const MAX_TENSORS: usize = 1_000_000;
/// Dimensions of one tensor. `NumPy` stops at 64 as well.
pub(super) const MAX_RANK: usize = 64;
/// Bytes of one tensor name.
pub(super) const MAX_NAME: usize = 4096;
/// Bytes of all metadata keys and values together, each entry counted with its bookkeeping.
pub(super) const MAX_METADATA: usize = 16 << 20;
/// The key of the text map that stands beside the tensors.
pub(super) const METADATA: &str = "__metadata__";

pub(super) const DAMAGED: &str =
    "the file is damaged or was written by a faulty tool; download or convert it again";
pub(super) const INCOMPLETE: &str =
    "the download or copy is probably incomplete; fetch the file again";

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
    /// refused when it is read and when it is written.
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
    pub(super) fn check(&self) -> Checked<()> {
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

/// The outcome of a check that does not know where it is made.
pub(super) type Checked<T> = std::result::Result<T, Flaw>;

/// What is wrong and what to do about it, before it is known where it stands.
pub(super) struct Flaw {
    pub(super) what: String,
    pub(super) hint: &'static str,
}

impl Flaw {
    pub(super) fn new(what: String, hint: &'static str) -> Self {
        Self { what, hint }
    }

    #[cold]
    pub(super) fn at(self, place: &str) -> Error {
        Error::checkpoint(format!("{place}: {}", self.what)).hint(self.hint)
    }
}

/// The order of the tensors by name; two of the same name are an error.
pub(super) fn index(tensors: &[Tensor]) -> Checked<Vec<u32>> {
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
pub(super) fn tile(tensors: &[Tensor]) -> Checked<u64> {
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

pub(super) fn twice(kind: &str, name: &str) -> Flaw {
    Flaw::new(
        format!("duplicate {kind} {}, expected unique names, got it twice", quoted(name)),
        "readers disagree on which one counts, so the file is refused; write it again with unique names",
    )
}

#[cold]
pub(super) fn no_memory(what: &str) -> Flaw {
    let what = format!("out of memory, expected room for {what}, got none");
    Flaw::new(what, "lower `max_header_bytes` or free memory")
}
