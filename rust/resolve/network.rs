//! Small networks that a plan folds into a bias: read and evaluated once, before the job.

use std::ops::Range;

use super::{Inputs, expect_equal, find_rows};
use crate::error::{Error, Result};
use crate::kernels::mlp;
use crate::plan::{LayerSpec, MixSpec, MlpSpec, RowsSpec};
use crate::simd::Isa;

/// The output of the network, rounded once to f32.
pub(super) fn evaluate(spec: &MlpSpec, inputs: &Inputs, here: &str) -> Result<Vec<f32>> {
    let mut vector = spec.input.clone();
    for (i, layer) in spec.layers.iter().enumerate() {
        if i > 0 {
            mlp::silu(&mut vector);
        }
        vector = layer_output(layer, &vector, inputs, here)?;
    }
    Ok(vector.iter().map(|&v| v as f32).collect())
}

/// A few rows of the matrix at a time: the whole one in f64 would break the memory promise.
fn layer_output(layer: &LayerSpec, input: &[f64], inputs: &Inputs, here: &str) -> Result<Vec<f64>> {
    const ROWS: u64 = 64;
    let row_count = |spec: &MixSpec| spec.operands.first().map_or(0, |rows| rows.end - rows.start);
    let rows = row_count(&layer.weight);
    expect_equal(here, "rows of a layer's weight and bias", row_count(&layer.bias), rows)?;
    let mut output = Vec::new();
    for start in (0..rows).step_by(ROWS as usize) {
        let range = start..rows.min(start + ROWS);
        let bias = mix(&layer.bias, range.clone(), inputs, here)?;
        let weight = mix(&layer.weight, range, inputs, here)?;
        let part = mlp::affine(&weight, &bias, input).ok_or_else(|| {
            Error::plan(format!("{here}: a layer does not fit its input of {} values", input.len()))
        })?;
        output.extend(part);
    }
    Ok(output)
}

/// A weighted sum of the same rows of several tensors, in f64.
fn mix(spec: &MixSpec, range: Range<u64>, inputs: &Inputs, here: &str) -> Result<Vec<f64>> {
    let mut sum: Vec<f64> = Vec::new();
    expect_equal(
        here,
        "weights of a layer",
        spec.operands.len() as u64,
        spec.weights.len() as u64,
    )?;
    for (operand, weight) in spec.operands.iter().zip(&spec.weights) {
        let (start, end) = (operand.start + range.start, operand.start + range.end);
        let rows = RowsSpec { start, end, tensor: operand.tensor.clone(), source: operand.source };
        let values = read_values(&rows, inputs, here)?;
        if sum.is_empty() {
            sum.resize(values.len(), 0.0);
        }
        expect_equal(here, "elements of a layer", sum.len() as u64, values.len() as u64)?;
        sum.iter_mut().zip(values).for_each(|(s, v)| *s += weight * f64::from(v));
    }
    Ok(sum)
}

fn read_values(rows: &RowsSpec, inputs: &Inputs, here: &str) -> Result<Vec<f32>> {
    const LIMIT: u64 = 1 << 22; // 64 rows of 65,536 elements: wider than any embedder
    let (tensor, at) = find_rows(rows, inputs, here)?;
    let float = tensor.dtype.float().ok_or_else(|| {
        Error::plan(format!("{here}: dtype {} cannot be computed with", tensor.dtype.name()))
    })?;
    let elements = (rows.end - rows.start).saturating_mul(tensor.row_elements());
    let count = usize::try_from(elements).ok().filter(|_| elements <= LIMIT);
    let count = count.ok_or_else(|| {
        Error::plan(format!(
            "{here}: {elements} elements in rows of a layer, expected at most {LIMIT}"
        ))
    })?;
    let mut buffer = Vec::new();
    let bytes = inputs.sources[rows.source].window(at, count * float.bytes(), &mut buffer)?;
    let mut values = vec![0.0; count];
    Isa::best().decode(float, &bytes, &mut values);
    Ok(values)
}
