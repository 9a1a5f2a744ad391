//! Formulas of whole matrices: what singular values and vectors make of what models add to a base.
//!
//! A unit of `m` rows of `n` elements is one matrix. Everything is f64 arithmetic of this crate's own
//! (`gemm`, `tridiagonal`, `eigen`, `spectrum`): sums, products, quotients and square roots in a fixed order, so that
//! the bits depend on nothing but the operands.

#![allow(clippy::inline_always)]
#![allow(clippy::many_single_char_names)] // the letters of the books

use serde::Deserialize;

use self::long::Long;
use self::spectrum::{Wanted, top};
use super::Stretch;
use crate::simd::{BLOCK, Body, Isa};

mod eigen;
mod gemm;
mod lanes;
mod long;
mod rotation;
mod spectrum;
mod tasks;
mod tridiagonal;

/// Rows of the long side that are worked on at once.
const PANEL: usize = 256;
/// Bytes that packing and rotations take beside the matrices.
const ROOM: u64 = 24 << 20;
/// Bytes that packing takes in a product alone.
const PACKED: u64 = 1 << 20;

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
    /// `polar(U) S polar(V)^T` of the strongest directions `U`, `S`, `V` of every `w_i (x_i - c)` by
    /// itself, side by side; `polar(X) = X (X^T X)^-1/2`, over the directions whose singular value
    /// is above 1e-6 of the largest. Of a vector the mean of all is taken. Gargiulo et al. 2025,
    /// "Task singular vectors", arXiv:2412.00081.
    Decorrelated {
        /// How many of each; if not given, the short side over the number of models, at least 1.
        rank: Option<usize>,
    },
    /// `x_1 Q - x_0`, with the orthogonal `Q` of the short side that brings `x_1` nearest to `x_0` (on
    /// the left of a wide matrix); no turn along what neither determines. Of one model of weight 1; a
    /// vector is not turned. The product is rounded to f32 before `x_0` is taken away.
    Rotated {},
}

/// What was made of a unit's differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// `f(D)`, row by row; `x_1 Q` of a rotation.
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
            return Err(format!("weight or lambda {bad:?}, expected a finite f32"));
        }
        let alone = self.weights == [1.0] && !self.apart;
        match self.make {
            Make::Rotated {} if !alone => {
                Err("a rotation, expected one model of weight 1 and no base apart".to_owned())
            }
            Make::Rank(0) | Make::Decorrelated { rank: Some(0) } => {
                Err("rank 0, expected at least 1".to_owned())
            }
            Make::Energy(share) if !(share > 0.0 && share <= 1.0) => {
                Err(format!("energy {share}, expected above 0 and at most 1"))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that a worker holds of a unit with so many rows, elements in a row and bytes of output.
    ///
    /// `4 m n` for each matrix of differences; beside them the output, or what is greater: square
    /// matrices of the short side in f64, or the vectors of the iteration. Of two that are rotated
    /// the first is given up early.
    #[must_use]
    pub fn state_bytes(&self, rows: u64, columns: u64, output: u64) -> u64 {
        let (short, long) = (rows.min(columns), rows.max(columns));
        let of = |count: u64| count.saturating_mul(8);
        let work = match self.make {
            _ if short <= 1 => 0,
            Make::Rank(rank) => vectors_of(rank, short, long),
            Make::Energy(_) | Make::Isotropic {} | Make::Rotated {} => 2 * short * short,
            Make::Decorrelated { .. } => {
                let rank = self.rank_of_each(short as usize);
                let all = (rank * self.matrices()) as u64;
                let found = all * short + vectors_of(rank, short, long);
                found.max(3 * all * all + all * short).max(all * all + 2 * all * short)
            }
        };
        let panel = of(2 * PANEL as u64 * short);
        let differences = rows.saturating_mul(columns).saturating_mul(4);
        let later = output.max(of(work) + panel + ROOM);
        if matches!(self.make, Make::Rotated {}) {
            let product = differences.saturating_add(of(short * short) + PACKED);
            return differences.saturating_add(product.max(later));
        }
        differences.saturating_mul(self.matrices() as u64).saturating_add(later)
    }

    /// How many directions of each model are decorrelated.
    fn rank_of_each(&self, short: usize) -> usize {
        match self.make {
            Make::Decorrelated { rank: Some(rank) } => rank.min(short),
            _ => (short / self.weights.len().max(1)).max(1),
        }
    }

    /// Matrices that are held: one for all models' differences, or one for each, or both operands.
    #[must_use]
    pub fn matrices(&self) -> usize {
        match self.make {
            Make::Decorrelated { .. } => self.weights.len(),
            Make::Rotated {} => 2,
            _ => 1,
        }
    }

    /// Fills a stretch of matrix `index` of the differences, or of the operands that are rotated.
    pub fn gather(&self, stretch: Stretch, index: usize, differences: &mut [f32]) {
        if matches!(self.make, Make::Rotated {}) {
            return differences.copy_from_slice(stretch.operands[index]);
        }
        let base = stretch.operands[usize::from(self.apart)];
        let models = &stretch.operands[1 + usize::from(self.apart)..];
        differences.fill(0.0);
        for (i, (x, weight)) in models.iter().zip(&self.weights).enumerate() {
            let weight = *weight as f32;
            if self.matrices() == 1 || i == index {
                stretch.isa.run(Gather { x, base, weight, out: &mut *differences });
            }
        }
    }

    /// Makes `f(D)` of the matrices of differences, rows of `columns` elements.
    ///
    /// # Errors
    /// A sentence without the place: values that are not finite, or the engine was stopped.
    pub fn solve(
        &self,
        engine: &Engine,
        differences: Vec<Vec<f32>>,
        columns: usize,
    ) -> Result<Made, String> {
        let blocks = differences.iter().flat_map(|each| each.chunks(BLOCK));
        let bad: u64 = blocks.map(|block| engine.isa.count_nonfinite(block)).sum();
        if bad > 0 {
            return Err(format!(
                "{bad} elements of {} are not finite, expected none: one would spread over the \
                 whole matrix",
                if matches!(self.make, Make::Rotated {}) { "the models" } else { "the difference" }
            ));
        }
        let elements = differences.first().map_or(0, Vec::len);
        let rows = elements / columns.max(1);
        if rows.min(columns) <= 1 {
            return Ok(self.vector(differences));
        }
        let of = |values| Long::new(values, rows, columns);
        let mut matrices: Vec<Long> = differences.into_iter().map(of).collect();
        let note = self.matrix(engine, &mut matrices);
        let note = note.ok_or("the decomposition did not end, expected it to")?;
        let first = matrices.into_iter().next();
        Ok(Made { values: first.map_or_else(Vec::new, |first| first.values), note })
    }

    /// Turns the first matrix into what is made of all; gives the note. `None` if it did not end.
    fn matrix(&self, engine: &Engine, matrices: &mut Vec<Long>) -> Option<String> {
        let wanted = match self.make {
            Make::Decorrelated { .. } => {
                let rank = self.rank_of_each(matrices.first()?.short());
                return tasks::decorrelate(engine, matrices, rank);
            }
            Make::Rotated {} => return rotation::rotate(engine, matrices),
            Make::Rank(rank) => Wanted::Rank(rank),
            Make::Energy(share) => Wanted::Energy(share),
            Make::Isotropic {} => Wanted::Energy(1.0),
        };
        let all = matrices.first_mut()?;
        let found = top(engine, all.view(), wanted)?;
        Some(match self.make {
            Make::Isotropic {} => all.flatten(engine, found),
            _ => all.project(engine, &found),
        })
    }

    /// What is made of one row or one column.
    fn vector(&self, differences: Vec<Vec<f32>>) -> Made {
        let mut all = differences.into_iter();
        let mut values = all.next().unwrap_or_default();
        if matches!(self.make, Make::Rotated {}) {
            values = all.next().unwrap_or_default();
            return Made { values, note: "vectors: not rotated".to_owned() };
        }
        if matches!(self.make, Make::Rank(_) | Make::Energy(_)) {
            return Made { values, note: String::new() }; // it has rank 1
        }
        for other in all {
            values.iter_mut().zip(&other).for_each(|(sum, d)| *sum += d);
        }
        let count = self.weights.len() as f32;
        for d in &mut values {
            *d /= count;
        }
        Made { values, note: "vectors: mean of the differences".to_owned() }
    }

    pub(super) fn map(&self, stretch: Stretch, made: &Made, out: &mut [f32]) {
        let first = stretch.first as usize;
        let (base, lambda) = (stretch.operands[0], self.lambda as f32);
        let made = &made.values[first..first + out.len()];
        if matches!(self.make, Make::Rotated {}) {
            out.copy_from_slice(base);
            return stretch.isa.run(Gather { x: made, base, weight: lambda, out });
        }
        stretch.isa.run(Settle { base, made, lambda, out });
    }
}

/// Elements that are held to find so many directions.
fn vectors_of(rank: usize, short: u64, long: u64) -> u64 {
    if spectrum::is_few(rank, short as usize) {
        spectrum::guarded(rank) as u64 * (long + 3 * short)
    } else {
        2 * short * short
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
