//! What tensors of a safetensors file must be, alone and to each other.

use crate::dtype::Dtype;
use crate::error::quoted;
use crate::format::flaw::{Checked, DAMAGED, Flaw};
use crate::format::tensor::Tensor;

/// Dimensions of one tensor. `NumPy` stops at 64 as well.
pub(super) const MAX_RANK: usize = 64;
/// The key of the text map that stands beside the tensors.
pub(super) const METADATA: &str = "__metadata__";
/// What to do about too much of it.
pub(super) const NOTES: &str = "metadata holds notes, not data; read the tensors with `safetensors.torch.load_file` and write \
     them without it with `save_file`";

/// Everything that can be wrong with one tensor regardless of its neighbours.
pub(super) fn check(tensor: &Tensor) -> Checked<()> {
    if tensor.shape.len() > MAX_RANK {
        return Err(Flaw::new(
            format!("too many dimensions, expected at most {MAX_RANK}, got {}", tensor.shape.len()),
            DAMAGED,
        ));
    }
    let size = byte_size(tensor.dtype, &tensor.shape)?;
    let (start, end) = (tensor.start, tensor.end);
    let Some(found) = end.checked_sub(start) else {
        return Err(Flaw::new(
            format!("`data_offsets` run backwards, expected an end of at least {start}, got {end}"),
            DAMAGED,
        ));
    };
    if found != size {
        return Err(Flaw::new(
            format!(
                "{} of shape {:?} does not fit its `data_offsets` {start}..{end}, \
                 expected {size} bytes, got {found}",
                tensor.dtype.name(),
                tensor.shape
            ),
            DAMAGED,
        ));
    }
    Ok(())
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
