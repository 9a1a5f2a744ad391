//! Formulas of whole matrices: what singular values and vectors make of what models add to a base.
//!
//! A unit of `m` rows of `n` elements is one matrix. Everything is f64 arithmetic of this crate's own
//! (`gemm`, `tridiagonal`, `eigen`, `spectrum`, `inverse`, `polar`, `power`): sums, products, quotients and
//! square roots in a fixed order, so that the bits depend on nothing but the operands. At most one
//! matrix is held whole; what is made of several reads them again and again, part by part.

#![allow(clippy::inline_always)]
#![allow(clippy::many_single_char_names)] // the letters of the books

use serde::Deserialize;

use self::long::Long;
use self::operands::Operands;
pub use self::operands::Read;
use self::spectrum::{Wanted, top};
use super::Stretch;
use super::delta::{Consensus, Delta, Sparsify};
use crate::simd::{Body, Isa};

mod eigen;
mod gemm;
mod inverse;
mod lanes;
mod long;
mod memory;
mod operands;
mod polar;
mod power;
mod rotation;
mod shared;
mod spectrum;
mod sweeps;
mod tasks;
mod tridiagonal;

/// Rows of the long side that are worked on at once.
const PANEL: usize = 256;
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
#[derive(Clone, Debug, Deserialize, PartialEq)]
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
    /// `U vote(S V_1^T, ..., S V_T^T)` with `[D_1 | ... | D_T] = U S [V_1 | ... | V_T]^T`, `D_i = x_i - c`
    /// side by side along the rows. The blocks are rounded to f32 and voted on as [`Delta`] does with a
    /// base of 0, over the directions whose singular value is above 1e-6 of the largest, in falling order
    /// and row by row; the largest element of every vector of the shorter side is positive. A vector
    /// is voted on as it is. Stoica et al. 2024, "Model merging with SVD to tie the
    /// `KnOTS`", arXiv:2410.19735.
    Shared(Vote),
    /// `(1 - alpha) x_0 R^t + alpha x_1 R^(t-1)`, with the orthogonal `R` of the short side that brings `x_0`
    /// nearest to `x_1` (on the left of a wide matrix); no turn along what neither determines. Rounded to
    /// f32 once, and neither multiplied nor added. Of two models, both of which are operands; a vector
    /// is not turned.
    Rotated(Turned),
}

/// How a rotation is used.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Turned {
    /// The power `t` of the rotation, 0 to 1. Between them it is one without a reflection.
    pub alignment: f64,
    /// The share of the second.
    pub alpha: f64,
    /// The share of the mean row of the long side that is taken from both before, and of which
    /// `1 - t` and `t` are given back.
    pub centralization: f64,
}

/// What decides between models, as in [`Delta`].
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// Whether the sum is divided by the weights that went into it.
    pub normalize: bool,
    /// Which models take part in an element.
    pub consensus: Consensus,
    /// What is left: everything, or the largest.
    pub sparsify: Sparsify,
}

/// What was made of a unit's differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// `f(D)`, row by row; of a rotation the result.
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
        match &self.make {
            Make::Rotated(how) => {
                let given = [how.alpha, how.centralization];
                let within = (0.0..=1.0).contains(&how.alignment);
                if alone && within && given.iter().all(|x| x.is_finite()) {
                    return Ok(());
                }
                Err("a rotation, expected one model of weight 1, no base apart, an alignment from \
                     0 to 1 and finite numbers"
                    .to_owned())
            }
            Make::Rank(0) | Make::Decorrelated { rank: Some(0) } => {
                Err("rank 0, expected at least 1".to_owned())
            }
            Make::Energy(share) if !(*share > 0.0 && *share <= 1.0) => {
                Err(format!("energy {share}, expected above 0 and at most 1"))
            }
            Make::Shared(Vote { sparsify, .. }) => {
                if self.apart || !matches!(sparsify, Sparsify::None {} | Sparsify::Magnitude(_)) {
                    return Err("a vote of shared directions, expected no base apart, and the \
                                largest to be left"
                        .to_owned());
                }
                self.vote().map_or(Ok(()), |vote| vote.check(operands))
            }
            _ => Ok(()),
        }
    }

    /// The vote on shared directions.
    fn vote(&self) -> Option<Delta> {
        let Make::Shared(Vote { normalize, consensus, sparsify }) = &self.make else { return None };
        Some(Delta {
            weights: self.weights.clone(),
            lambda: 1.0,
            normalize: *normalize,
            consensus: *consensus,
            sparsify: sparsify.clone(),
        })
    }

    /// Whether a part of the shared directions is left out.
    fn thins(&self) -> bool {
        matches!(&self.make, Make::Shared(Vote { sparsify: Sparsify::Magnitude(_), .. }))
    }

    /// Matrices that are read: one for all models' differences, or one for each, or both operands.
    #[must_use]
    pub fn matrices(&self) -> usize {
        match self.make {
            Make::Decorrelated { .. } | Make::Shared(_) => self.weights.len(),
            Make::Rotated(_) => 2,
            _ => 1,
        }
    }

    /// Fills a stretch of matrix `index` of the differences, or of the operands that are rotated.
    pub fn gather(&self, stretch: Stretch, index: usize, differences: &mut [f32]) {
        if matches!(self.make, Make::Rotated(_)) {
            return differences.copy_from_slice(stretch.operands[index]);
        }
        let base = stretch.operands[usize::from(self.apart)];
        let models = &stretch.operands[1 + usize::from(self.apart)..];
        differences.fill(0.0);
        let votes = matches!(self.make, Make::Shared(_)); // weights come later
        for (i, (x, weight)) in models.iter().zip(&self.weights).enumerate() {
            let weight = if votes { 1.0 } else { *weight as f32 };
            if self.matrices() == 1 || i == index {
                stretch.isa.run(Gather { x, base, weight, out: &mut *differences });
            }
        }
    }

    /// Makes `f(D)` of the matrices of differences, so many rows of so many elements.
    ///
    /// # Errors
    /// A sentence without the place: values that are not finite; no way to what is asked for; they
    /// could not be read, or the engine was stopped.
    pub fn solve(
        &self,
        engine: &Engine,
        source: &mut dyn Read,
        shape: (usize, usize),
    ) -> Result<Made, String> {
        let over = "the decomposition did not end, expected it to";
        let mut operands = Operands::new(source, self.matrices(), shape);
        let held = if operands.count == 1 { Some(operands.whole(0).ok_or(over)?) } else { None };
        let bad = match &held {
            Some(all) => engine.isa.count_nonfinite(&all.values),
            None => operands.count_nonfinite(engine).ok_or(over)?,
        };
        if bad > 0 {
            return Err(format!(
                "{bad} elements of {} are not finite, expected none: one would spread over the \
                 whole matrix",
                if matches!(self.make, Make::Rotated(_)) { "the models" } else { "the difference" }
            ));
        }
        if operands.short() <= 1 {
            drop(held);
            return Ok(self.vector(engine, &mut operands).ok_or(over)?);
        }
        let (values, note) = self.matrix(engine, &mut operands, held).ok_or(over)??;
        if engine.stopped() { Err(over.to_owned()) } else { Ok(Made { values, note }) }
    }

    /// What is made of all matrices, and the note. `None` if it did not end.
    fn matrix(
        &self,
        engine: &Engine,
        operands: &mut Operands,
        held: Option<Long>,
    ) -> Option<Result<(Vec<f32>, String), String>> {
        let wanted = match &self.make {
            Make::Decorrelated { .. } => {
                let rank = self.rank_of_each(operands.short());
                return tasks::decorrelate(engine, operands, rank).map(Ok);
            }
            Make::Shared(_) => return shared::share(engine, operands, &self.vote()?).map(Ok),
            Make::Rotated(how) => return rotation::rotate(engine, operands, *how),
            Make::Rank(rank) => Wanted::Rank(*rank),
            Make::Energy(share) => Wanted::Energy(*share),
            Make::Isotropic {} => Wanted::Energy(1.0),
        };
        let mut all = held?;
        let found = top(engine, all.view(), wanted)?;
        let note = match self.make {
            Make::Isotropic {} => all.flatten(engine, found),
            _ => all.project(engine, &found),
        };
        Some(Ok((all.values, note)))
    }

    /// What is made of one row or one column.
    fn vector(&self, engine: &Engine, operands: &mut Operands) -> Option<Made> {
        let all: Option<Vec<Vec<f32>>> =
            (0..operands.count).map(|index| Some(operands.whole(index)?.values)).collect();
        let mut all = all?;
        if let Some(vote) = self.vote() {
            let values = shared::vectors(engine, &all, &vote)?;
            return Some(Made { values, note: "vectors: voted on as they are".to_owned() });
        }
        let mut values = std::mem::take(all.first_mut()?);
        match self.make {
            Make::Rotated(Turned { alpha, .. }) => {
                for (x, other) in values.iter_mut().zip(all.get(1)?) {
                    *x = ((1.0 - alpha) * f64::from(*x) + alpha * f64::from(*other)) as f32;
                }
                return Some(Made { values, note: "vectors: not rotated".to_owned() });
            }
            Make::Rank(_) | Make::Energy(_) => {
                return Some(Made { values, note: String::new() }); // it has rank 1
            }
            _ => {}
        }
        for other in &all[1..] {
            values.iter_mut().zip(other).for_each(|(sum, d)| *sum += d);
        }
        let count = self.weights.len() as f32;
        for d in &mut values {
            *d /= count;
        }
        Some(Made { values, note: "vectors: mean of the differences".to_owned() })
    }

    pub(super) fn map(&self, stretch: Stretch, made: &Made, out: &mut [f32]) {
        let first = stretch.first as usize;
        let (base, lambda) = (stretch.operands[0], self.lambda as f32);
        let made = &made.values[first..first + out.len()];
        if matches!(self.make, Make::Rotated(_)) {
            return out.copy_from_slice(made);
        }
        stretch.isa.run(Settle { base, made, lambda, out });
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
