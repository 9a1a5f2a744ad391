//! Singular vectors of several matrices, made orthogonal to one another.

use std::ops::Range;

use serde::Deserialize;

use super::differences::Matrix;
use super::make::{Bytes, Made, Make, Outcome, mean, square};
use super::operands::{Operands, SLAB, slabs};
use super::spectral::vectors_of;
use crate::kernels::tile::Tile;
use crate::linalg::eigen::eigen;
use crate::linalg::engine::{Engine, PANEL};
use crate::linalg::gemm::{View, add_lower, gram, mirror, product};
use crate::linalg::long::{Long, parts};
use crate::linalg::spectrum::{RESOLVED, Wanted, top};

/// The strongest directions of each model.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Decorrelated {
    /// How many of each; if not given, the short side over the number of models, at least 1.
    rank: Option<usize>,
}

impl Decorrelated {
    /// How many directions of each of so many models are decorrelated.
    fn rank_of_each(&self, models: usize, short: usize) -> usize {
        match self.rank {
            Some(rank) => rank.min(short),
            None => (short / models.max(1)).max(1),
        }
    }
}

impl Make for Decorrelated {
    fn check(&self, _: &Matrix<()>) -> Result<(), String> {
        if self.rank == Some(0) { Err("rank 0, expected at least 1".to_owned()) } else { Ok(()) }
    }

    fn matrices(&self, models: usize) -> usize {
        models
    }

    fn gather(&self, of: &Matrix<()>, tile: Tile, index: usize, out: &mut [f32]) {
        of.one(tile, index, of.weights[index] as f32, out);
    }

    fn solve(&self, of: &Matrix<()>, engine: &Engine, operands: &mut Operands) -> Outcome<Made> {
        let rank = self.rank_of_each(of.weights.len(), operands.short());
        decorrelate(engine, operands, rank).map(Ok)
    }

    fn vectors(&self, of: &Matrix<()>, _: &Engine, all: Vec<Vec<f32>>) -> Option<Made> {
        mean(of, all)
    }

    fn bytes(&self, models: usize, rows: u64, columns: u64) -> Bytes {
        let short = rows.min(columns);
        let rank = self.rank_of_each(models, short as usize);
        let models = models as u64;
        let count = rank as u64 * models;
        let vectors = 8 * count * short;
        let found = 4 * rows * columns + vectors + vectors_of(rank, rows, columns);
        let solved = found.max(3 * square(count) + vectors);
        let parts = (4 * SLAB) as u64 * models * short + (16 * PANEL) as u64 * count;
        Bytes { solved, made: 2 * vectors, parts }
    }
}

/// The strongest directions of every matrix, decorrelated: `polar(U) S polar(V)^T` of all their
/// singular triplets side by side. `None` if stopped.
///
/// With `W = [A_t V_t]_t S^-1` in place of `U`, `polar(U) = W (W^T W)^-1/2`, so that nothing of the long
/// side is ever held but one matrix: first each by itself, then what is made of all, for which they
/// are read once more. Directions that others span already, below [`RESOLVED`], are left out.
fn decorrelate(engine: &Engine, operands: &mut Operands, rank: usize) -> Option<Made> {
    let short = operands.short();
    let (mut vectors, mut strengths, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
    let mut kept = Vec::new();
    for index in 0..operands.count {
        let found = top(engine, operands.whole(index)?.view(), Wanted::Rank(rank))?;
        let largest = found.squares.first().map_or(0.0, |square| square.sqrt());
        let values = found.squares[..found.rank].iter().map(|square| square.sqrt());
        let values = values.filter(|s| *s > RESOLVED * largest);
        let before = strengths.len();
        engine.reserve(&mut strengths, found.rank)?;
        strengths.extend(values);
        let count = strengths.len() - before;
        kept.push(100.0 * found.share());
        engine.reserve(&mut vectors, count * short)?;
        vectors.extend_from_slice(&found.vectors[..count * short]);
        ranks.push(count);
    }
    let count = strengths.len();
    if count == 0 {
        let values = operands.empty()?.values;
        return Some(Made { values, note: "no difference".to_owned() });
    }
    let inverse = engine.collect(strengths.iter().map(|s| 1.0 / s))?;
    let panels = Panels { ranks, short, inverse };
    let turn = {
        let mut middle = root(engine, panels.gram(engine, operands, &vectors)?, count)?;
        for row in middle.chunks_exact_mut(count) {
            row.iter_mut().zip(&strengths).for_each(|(x, s)| *x *= s);
        }
        let right = View::new(&vectors, short).transposed();
        let right = root(engine, gram(engine, right)?, count)?;
        let both = product(engine, View::new(&middle, count), View::new(&right, count))?;
        drop((middle, right));
        product(engine, View::new(&both, count), View::new(&vectors, short))?
    };
    let mut out = operands.empty()?;
    for slab in slabs(operands.long()) {
        let read = panels.read(operands, slab.clone())?;
        for rows in parts(0..slab.len(), PANEL) {
            if engine.stopped() {
                return None;
            }
            let along = panels.along(engine, &read, &vectors, rows.clone())?;
            let made = product(engine, View::new(&along, count), View::new(&turn, short))?;
            out.set(slab.start + rows.start..slab.start + rows.end, &made);
        }
    }
    let share = kept.iter().fold(f64::INFINITY, |least: f64, share| least.min(*share));
    let note = format!("{rank} directions of each model keep {share:.0} % of it at least");
    Some(Made { values: out.values, note })
}

/// The inverse square root of a symmetric matrix, over the directions it has.
fn root(engine: &Engine, a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let mut found = eigen(engine, a, n)?;
    let least = RESOLVED * RESOLVED * found.values[0];
    let resolved = found.values.iter().filter(|value| **value > least).count();
    found.vectors.truncate(resolved * n);
    for (row, value) in found.vectors.chunks_exact_mut(n).zip(&found.values) {
        let factor = 1.0 / value.sqrt().sqrt();
        for x in row.iter_mut() {
            *x *= factor;
        }
    }
    gram(engine, View::new(&found.vectors, n))
}

/// The left singular vectors of all matrices side by side, some rows at a time.
struct Panels {
    /// How many are of each matrix.
    ranks: Vec<usize>,
    short: usize,
    /// One over each singular value.
    inverse: Vec<f64>,
}

impl Panels {
    /// The same part of all matrices.
    fn read(&self, operands: &mut Operands, slab: Range<usize>) -> Option<Vec<Long>> {
        (0..self.ranks.len()).map(|index| operands.slab(index, slab.clone())).collect()
    }

    /// Rows of a part that was read.
    fn along(
        &self,
        engine: &Engine,
        read: &[Long],
        vectors: &[f64],
        rows: Range<usize>,
    ) -> Option<Vec<f64>> {
        let (count, mut first) = (self.inverse.len(), 0);
        let mut out: Vec<f64> = engine.zeros(rows.len() * count)?;
        for (matrix, rank) in read.iter().zip(&self.ranks) {
            let of = View::new(&vectors[first * self.short..][..rank * self.short], self.short);
            let along = product(engine, matrix.view().rows(rows.clone()), of.transposed())?;
            let inverse = &self.inverse[first..first + rank];
            for (to, from) in out.chunks_exact_mut(count).zip(along.chunks_exact((*rank).max(1))) {
                for ((to, from), inverse) in to[first..].iter_mut().zip(from).zip(inverse) {
                    *to = from * inverse;
                }
            }
            first += rank;
        }
        Some(out)
    }

    /// Their inner products.
    fn gram(&self, engine: &Engine, operands: &mut Operands, vectors: &[f64]) -> Option<Vec<f64>> {
        let count = self.inverse.len();
        let mut out = engine.zeros(count * count)?;
        for slab in slabs(operands.long()) {
            let read = self.read(operands, slab.clone())?;
            for rows in parts(0..slab.len(), PANEL) {
                let along = self.along(engine, &read, vectors, rows)?;
                let along = View::new(&along, count);
                add_lower(engine, (along.transposed(), along, 1.0), &mut out, count)?;
            }
        }
        mirror(&mut out, count);
        Some(out)
    }
}
