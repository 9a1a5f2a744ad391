//! Formulas of whole matrices: what singular values and vectors make of what models add to a base.
//!
//! A unit of `m` rows of `n` elements is one matrix. Everything is f64 arithmetic of this crate's own
//! (`gemm`, `tridiagonal`, `eigen`, `spectrum`): sums, products, quotients and square roots in a fixed order, so that
//! the bits depend on nothing but the operands.

#![allow(clippy::inline_always)]
#![allow(clippy::many_single_char_names)] // the letters of the books

use serde::Deserialize;

use self::gemm::{View, gram, product};
use self::spectrum::{RESOLVED, Top, Wanted, top};
use super::Stretch;
use crate::simd::{BLOCK, Body, Isa};

mod eigen;
mod gemm;
mod lanes;
mod spectrum;
mod tridiagonal;

/// Rows of the long side that are worked on at once.
const PANEL: usize = 256;
/// Bytes that packing and rotations take beside the matrices.
const ROOM: u64 = 24 << 20;

/// What the linear algebra runs on.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// The arithmetic.
    pub isa: &'static Isa,
    /// Asked again and again; once it says so, what is being made is given up and means nothing.
    pub stop: &'a dyn Fn() -> bool,
}

impl Engine<'_> {
    fn run<B: Body>(&self, body: B) -> B::Output {
        self.isa.run(body)
    }

    fn stopped(&self) -> bool {
        (self.stop)()
    }
}

#[cfg(test)]
impl Engine<'static> {
    fn of(isa: &'static Isa) -> Self {
        Self { isa, stop: &|| false }
    }

    fn best() -> Self {
        Self::of(Isa::best())
    }
}

/// `out = x_0 + lambda f(D)`, with `D = sum_i w_i (x_i - c)`: the models' differences from a base `c`,
/// which is `x_0`, or operand 1 if `apart`.
///
/// `D` is formed in f32, each step rounded, models in the plan's order; `f(D)` in f64, rounded to f32
/// once; then `f(D) lambda` and the sum, each rounded to f32.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// One finite weight for each model.
    pub weights: Vec<f64>,
    /// What the result is multiplied by.
    pub lambda: f64,
    /// Whether operand 1, and not operand 0, is what differences are taken from.
    pub apart: bool,
    /// What is made of the differences.
    pub make: Make,
}

/// What is made of a matrix `D = U S V^T`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Make {
    /// `sum_{i <= rank} s_i u_i v_i^T`: the nearest matrix of this rank (Eckart and Young 1936). Where
    /// the rank is few of many, by subspace iteration from a fixed random start, until the energy it
    /// captures grows by less than 1e-7 of the whole in a step, or 12 steps are done.
    Rank(usize),
    /// The same with the least rank that holds this share of `sum s_i^2`.
    Energy(f64),
    /// `mean(s) U V^T`: all directions at one strength, those left out whose singular value is below
    /// 1e-6 of the largest. A vector (one row or one column) is divided by the number of models.
    /// Marczak et al. 2025, "No task left behind", arXiv:2502.04959.
    Isotropic {},
}

/// What was made of a unit's differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// `f(D)`, row by row.
    values: Vec<f32>,
    /// What there is to say about it.
    pub note: String,
}

impl Matrix {
    pub(super) fn check(&self, operands: usize) -> Result<(), String> {
        let (models, bases) = (self.weights.len(), 1 + usize::from(self.apart));
        if models == 0 || operands != models + bases {
            return Err(format!(
                "{models} weights for {operands} operands, expected one for each but the bases"
            ));
        }
        let finite = |x: &&f64| !(**x as f32).is_finite();
        if let Some(bad) = self.weights.iter().chain([&self.lambda]).find(finite) {
            return Err(format!("weight or lambda {bad}, expected a finite f32"));
        }
        match self.make {
            Make::Rank(0) => Err("rank 0, expected at least 1".to_owned()),
            Make::Energy(share) if !(share > 0.0 && share <= 1.0) => {
                Err(format!("energy {share}, expected above 0 and at most 1"))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that a worker holds of a unit with so many rows, elements in a row and bytes of output.
    ///
    /// `4 m n` for the differences; beside them the output, or what is greater: two square matrices
    /// of the short side in f64, or the vectors of the iteration.
    #[must_use]
    pub fn state_bytes(&self, rows: u64, columns: u64, output: u64) -> u64 {
        let (short, long) = (rows.min(columns), rows.max(columns));
        let of = |count: u64| count.saturating_mul(8);
        let all = of(2 * short.saturating_mul(short));
        let work = match self.make {
            _ if short <= 1 => 0,
            Make::Rank(rank) if spectrum::is_few(rank, short as usize) => {
                of(spectrum::guarded(rank) as u64 * (long + 3 * short))
            }
            _ => all,
        };
        let panel = of(2 * PANEL as u64 * short);
        let differences = rows.saturating_mul(columns).saturating_mul(4);
        differences.saturating_add(output.max(work + panel + ROOM))
    }

    /// Adds a stretch of the operands to the differences, which it fills.
    pub fn gather(&self, stretch: Stretch, differences: &mut [f32]) {
        let base = stretch.operands[usize::from(self.apart)];
        let models = &stretch.operands[1 + usize::from(self.apart)..];
        differences.fill(0.0);
        for (x, weight) in models.iter().zip(&self.weights) {
            let weight = *weight as f32;
            stretch.isa.run(Gather { x, base, weight, out: &mut *differences });
        }
    }

    /// Makes `f(D)` of the differences, rows of `columns` elements.
    ///
    /// # Errors
    /// A sentence without the place: values that are not finite, or the engine was stopped.
    pub fn solve(
        &self,
        engine: &Engine,
        mut differences: Vec<f32>,
        columns: usize,
    ) -> Result<Made, String> {
        let blocks = differences.chunks(BLOCK);
        let bad: u64 = blocks.map(|block| engine.isa.count_nonfinite(block)).sum();
        if bad > 0 {
            return Err(format!(
                "{bad} elements of the difference are not finite, expected none: one would spread \
                 over the whole matrix"
            ));
        }
        let rows = differences.len() / columns.max(1);
        let failed = || "the decomposition did not end, expected it to".to_owned();
        if rows.min(columns) <= 1 {
            let note = self.vector(&mut differences);
            return Ok(Made { values: differences, note });
        }
        let mut long = Long::new(differences, rows, columns);
        let note = match self.make {
            Make::Rank(rank) => {
                let found = top(engine, long.view(), Wanted::Rank(rank)).ok_or_else(failed)?;
                long.project(engine, &found)
            }
            Make::Energy(share) => {
                let found = top(engine, long.view(), Wanted::Energy(share)).ok_or_else(failed)?;
                long.project(engine, &found)
            }
            Make::Isotropic {} => {
                let found = top(engine, long.view(), Wanted::Energy(1.0)).ok_or_else(failed)?;
                long.flatten(engine, found)
            }
        };
        Ok(Made { values: long.values, note })
    }

    /// What is made of one row or one column.
    fn vector(&self, differences: &mut [f32]) -> String {
        match self.make {
            Make::Rank(_) | Make::Energy(_) => String::new(), // it has rank 1
            Make::Isotropic {} => {
                let count = self.weights.len() as f32;
                for d in differences.iter_mut() {
                    *d /= count;
                }
                "vectors: mean of the differences".to_owned()
            }
        }
    }

    pub(super) fn map(&self, stretch: Stretch, made: &Made, out: &mut [f32]) {
        let first = stretch.first as usize;
        let (base, lambda) = (stretch.operands[0], self.lambda as f32);
        let made = &made.values[first..first + out.len()];
        stretch.isa.run(Settle { base, made, lambda, out });
    }
}

/// A matrix as its long side sees it: rows, or else columns, none longer than they are many.
struct Long {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Long {
    fn new(values: Vec<f32>, rows: usize, columns: usize) -> Self {
        Self { values, rows, columns }
    }

    fn view(&self) -> View<'_, f32> {
        let view = View::new(&self.values, self.columns);
        if self.rows < self.columns { view.transposed() } else { view }
    }

    /// Keeps what lies along the vectors found.
    fn project(&mut self, engine: &Engine, found: &Top) -> String {
        let short = self.rows.min(self.columns);
        let vectors = View::new(&found.vectors, short);
        self.each_panel(engine, |panel| {
            let along = product(engine, panel, vectors.transposed());
            product(engine, View::new(&along, found.rank), vectors)
        });
        format!("rank {} keeps {:.0} % of the difference", found.rank, 100.0 * found.share())
    }

    /// Gives all directions the mean of the singular values.
    fn flatten(&mut self, engine: &Engine, mut found: Top) -> String {
        let short = self.rows.min(self.columns);
        let values: Vec<f64> = found.squares.iter().map(|square| square.sqrt()).collect();
        let mean = values.iter().sum::<f64>() / short as f64;
        let resolved = values.iter().filter(|s| **s > RESOLVED * values[0]).count();
        found.vectors.truncate(resolved * short);
        for (row, s) in found.vectors.chunks_exact_mut(short).zip(&values) {
            let factor = (mean / s).sqrt();
            for x in row.iter_mut() {
                *x *= factor;
            }
        }
        let turn = gram(engine, View::new(&found.vectors, short));
        drop(found);
        self.each_panel(engine, |panel| product(engine, panel, View::new(&turn, short)));
        match short - resolved {
            0 => String::new(),
            _ if resolved == 0 => "no difference".to_owned(),
            _ => "directions of no strength left out".to_owned(),
        }
    }

    /// Replaces rows of the long side, some at a time, by what `make` gives for them.
    fn each_panel(&mut self, engine: &Engine, mut make: impl FnMut(View<f32>) -> Vec<f64>) {
        let (long, short) = (self.rows.max(self.columns), self.rows.min(self.columns));
        for first in (0..long).step_by(PANEL) {
            if engine.stopped() {
                return;
            }
            let panel = first..long.min(first + PANEL);
            let new = make(self.view().rows(panel.clone()));
            if self.rows < self.columns {
                for (i, column) in panel.enumerate() {
                    for row in 0..short {
                        self.values[row * self.columns + column] = new[i * short + row] as f32;
                    }
                }
            } else {
                let values = &mut self.values[first * short..][..new.len()];
                values.iter_mut().zip(&new).for_each(|(value, new)| *value = *new as f32);
            }
        }
    }
}

/// `out = out + (x - base) weight`, each step rounded to f32.
struct Gather<'a> {
    x: &'a [f32],
    base: &'a [f32],
    weight: f32,
    out: &'a mut [f32],
}

impl Body for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, x), base) in self.out.iter_mut().zip(self.x).zip(self.base) {
            *out += (x - base) * self.weight;
        }
    }
}

/// `out = base + made lambda`, each step rounded to f32.
struct Settle<'a> {
    base: &'a [f32],
    made: &'a [f32],
    lambda: f32,
    out: &'a mut [f32],
}

impl Body for Settle<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, base), made) in self.out.iter_mut().zip(self.base).zip(self.made) {
            *out = base + made * self.lambda;
        }
    }
}
