//! Small networks of a plan, applied to one vector before the job: an embedder folded into a bias.
//!
//! Each layer is `W · x + b` in f64, summed in column order, then its activation; `W` and `b` are
//! weighted sums of rows, in f64, in the plan's order. The last layer's output is rounded once to
//! f32. Source: the embedders of diffusion transformers (`Linear -> SiLU -> Linear`).

use std::ops::Range;
use std::sync::Arc;

use super::opened::{Inputs, expect_equal, uncomputable};
use super::rows::{Room, Rows};
use crate::error::{Error, Result};
use crate::io::source::Source;
use crate::memory;
use crate::plan::{Activation, LayerSpec, MixSpec, NetworkSpec};
use crate::simd::Isa;

/// Rows of a matrix at a time: the whole one in f64 would break the memory promise.
const ROWS: u64 = 64;
/// Columns of a matrix: wider than any embedder.
const COLUMNS: u64 = 65_536;

/// A network whose tensors are known to be there.
#[derive(Debug)]
pub struct Network {
    input: Vec<f64>,
    layers: Vec<Layer>,
    /// The output, once it is made.
    values: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    weight: Mix,
    bias: Mix,
    rows: u64,
    activation: Activation,
}

/// A weighted sum of tensors of one shape.
#[derive(Debug)]
struct Mix {
    terms: Vec<(f64, Rows)>,
    rows: u64,
    columns: u64,
}

impl Network {
    pub(super) fn check(spec: &NetworkSpec, inputs: &Inputs, here: &str) -> Result<Self> {
        let mut width = spec.input.len() as u64;
        let mut layers = Vec::new();
        for layer in &spec.layers {
            let layer = Layer::check(layer, width, inputs, here)?;
            width = layer.rows;
            layers.push(layer);
        }
        Ok(Self { input: spec.input.clone(), layers, values: Vec::new() })
    }

    /// How many values come out.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.layers.last().map_or(self.input.len() as u64, |layer| layer.rows)
    }

    /// The output; nothing before [`Network::evaluate`].
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn evaluate(&mut self, sources: &[Arc<dyn Source>]) -> Result<()> {
        let mut vector = self.input.clone();
        for layer in &self.layers {
            vector = layer.output(&vector, sources)?;
        }
        self.values = vector.iter().map(|&value| value as f32).collect();
        Ok(())
    }
}

impl Layer {
    fn check(spec: &LayerSpec, width: u64, inputs: &Inputs, here: &str) -> Result<Self> {
        let weight = Mix::check(&spec.weight, inputs, here)?;
        let bias = Mix::check(&spec.bias, inputs, here)?;
        expect_equal(here, "rows of a layer's weight and bias", bias.rows, weight.rows)?;
        if weight.columns != width || width == 0 || bias.columns != 1 {
            let what = format!("{here}: a layer does not fit its input of {width} values");
            return Err(Error::plan(what));
        }
        Ok(Self { rows: weight.rows, weight, bias, activation: spec.activation })
    }

    fn output(&self, input: &[f64], sources: &[Arc<dyn Source>]) -> Result<Vec<f64>> {
        let mut output = Vec::new();
        for start in (0..self.rows).step_by(ROWS as usize) {
            let range = start..self.rows.min(start + ROWS);
            let bias = self.bias.sum(range.clone(), sources)?;
            let weight = self.weight.sum(range, sources)?;
            output.extend(affine(&weight, &bias, input));
        }
        if self.activation == Activation::Silu {
            for value in &mut output {
                *value = silu(*value);
            }
        }
        Ok(output)
    }
}

impl Mix {
    fn check(spec: &MixSpec, inputs: &Inputs, here: &str) -> Result<Self> {
        let (operands, weights) = (spec.operands.len() as u64, spec.weights.len() as u64);
        expect_equal(here, "weights of a layer", operands, weights)?;
        let mut mix = Self { terms: Vec::new(), rows: 0, columns: 0 };
        for (rows, weight) in spec.operands.iter().zip(&spec.weights) {
            let (found, columns) = Rows::find(rows, inputs, here)?;
            let count = rows.end - rows.start;
            if mix.terms.is_empty() {
                (mix.rows, mix.columns) = (count, columns);
            }
            expect_equal(here, "elements of a layer", mix.rows * mix.columns, count * columns)?;
            expect_equal(here, "columns of a layer", mix.columns, columns)?;
            if columns > COLUMNS {
                let what = format!("{columns} columns in a layer, expected at most {COLUMNS}");
                return Err(Error::plan(format!("{here}: {what}")));
            }
            if found.codec.is_none() {
                return Err(Error::plan(format!("{here}: {}", uncomputable(found.dtype))));
            }
            mix.terms.push((*weight, found));
        }
        Ok(mix)
    }

    fn sum(&self, rows: Range<u64>, sources: &[Arc<dyn Source>]) -> Result<Vec<f64>> {
        let elements = rows.start * self.columns..rows.end * self.columns;
        let count = (elements.end - elements.start) as usize;
        let (mut sum, mut values) = (Vec::new(), Vec::new());
        memory::resize(&mut sum, count)?;
        memory::resize(&mut values, count)?;
        for (weight, rows) in &self.terms {
            let mut buffers = vec![Vec::new(); rows.windows()];
            let open = rows.open(sources, elements.clone(), &mut buffers.iter_mut())?;
            open.decode(Isa::best(), elements.clone(), &mut Room::default(), &mut values);
            sum.iter_mut().zip(&values).for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        Ok(sum)
    }
}

/// `W · x + b`; `weight` is (out, in) in row-major order.
fn affine<'a>(
    weight: &'a [f64],
    bias: &'a [f64],
    input: &'a [f64],
) -> impl Iterator<Item = f64> + 'a {
    let dot = move |row: &[f64]| row.iter().zip(input).fold(0.0, |sum, (w, x)| sum + w * x);
    weight.chunks_exact(input.len()).zip(bias).map(move |(row, b)| dot(row) + b)
}

fn silu(value: f64) -> f64 {
    value / (1.0 + (-value).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_by_three_by_hand() {
        let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let got: Vec<f64> = affine(&weight, &[0.5, -0.5], &[1.0, 0.0, -1.0]).collect();
        assert_eq!(got, [-1.5, -2.5]);
    }

    #[test]
    fn silu_at_known_points() {
        assert!((silu(1.0) - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert!((silu(-1.0) + 0.268_941_421_369_995_1).abs() < 1e-15);
        assert_eq!(silu(0.0).to_bits(), 0);
    }
}
