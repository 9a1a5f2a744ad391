//! Singular vectors of several matrices, made orthogonal to one another.

use std::ops::Range;

use super::eigen::eigen;
use super::gemm::{View, add_lower, gram, mirror, product};
use super::long::{Long, parts};
use super::operands::{Operands, slabs};
use super::spectrum::{RESOLVED, Wanted, top};
use super::{Engine, PANEL};

/// The strongest directions of every matrix, decorrelated: `polar(U) S polar(V)^T` of all their
/// singular triplets side by side. `None` if stopped.
///
/// With `W = [A_t V_t]_t S^-1` in place of `U`, `polar(U) = W (W^T W)^-1/2`, so that nothing of the long
/// side is ever held but one matrix: first each by itself, then what is made of all, for which they
/// are read once more. Directions that others span already, below [`RESOLVED`], are left out.
pub(super) fn decorrelate(
    engine: &Engine,
    operands: &mut Operands,
    rank: usize,
) -> Option<(Vec<f32>, String)> {
    let short = operands.short();
    let (mut vectors, mut strengths, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
    let mut kept = Vec::new();
    for index in 0..operands.count {
        let found = top(engine, operands.whole(index)?.view(), Wanted::Rank(rank))?;
        let largest = found.squares.first().map_or(0.0, |square| square.sqrt());
        let values = found.squares[..found.rank].iter().map(|square| square.sqrt());
        let values: Vec<f64> = values.filter(|s| *s > RESOLVED * largest).collect();
        kept.push(100.0 * found.share());
        vectors.extend_from_slice(&found.vectors[..values.len() * short]);
        ranks.push(values.len());
        strengths.extend(values);
    }
    let count = strengths.len();
    if count == 0 {
        return Some((operands.empty().values, "no difference".to_owned()));
    }
    let panels = Panels { ranks, short, inverse: strengths.iter().map(|s| 1.0 / s).collect() };
    let turn = {
        let mut middle = root(engine, panels.gram(engine, operands, &vectors)?, count)?;
        for row in middle.chunks_exact_mut(count) {
            row.iter_mut().zip(&strengths).for_each(|(x, s)| *x *= s);
        }
        let right = View::new(&vectors, short).transposed();
        let right = root(engine, gram(engine, right), count)?;
        let both = product(engine, View::new(&middle, count), View::new(&right, count));
        drop((middle, right));
        product(engine, View::new(&both, count), View::new(&vectors, short))
    };
    let mut out = operands.empty();
    for slab in slabs(operands.long()) {
        let read = panels.read(operands, slab.clone())?;
        for rows in parts(0..slab.len(), PANEL) {
            if engine.stopped() {
                return None;
            }
            let along = panels.along(engine, &read, &vectors, rows.clone());
            let made = product(engine, View::new(&along, count), View::new(&turn, short));
            out.set(slab.start + rows.start..slab.start + rows.end, &made);
        }
    }
    let share = kept.iter().fold(f64::INFINITY, |least: f64, share| least.min(*share));
    let note = format!("{rank} directions of each model keep {share:.0} % of it at least");
    Some((out.values, note))
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
    Some(gram(engine, View::new(&found.vectors, n)))
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
    ) -> Vec<f64> {
        let (count, mut first) = (self.inverse.len(), 0);
        let mut out = vec![0.0; rows.len() * count];
        for (matrix, rank) in read.iter().zip(&self.ranks) {
            let of = View::new(&vectors[first * self.short..][..rank * self.short], self.short);
            let along = product(engine, matrix.view().rows(rows.clone()), of.transposed());
            let inverse = &self.inverse[first..first + rank];
            for (to, from) in out.chunks_exact_mut(count).zip(along.chunks_exact((*rank).max(1))) {
                for ((to, from), inverse) in to[first..].iter_mut().zip(from).zip(inverse) {
                    *to = from * inverse;
                }
            }
            first += rank;
        }
        out
    }

    /// Their inner products.
    fn gram(&self, engine: &Engine, operands: &mut Operands, vectors: &[f64]) -> Option<Vec<f64>> {
        let count = self.inverse.len();
        let mut out = vec![0.0; count * count];
        for slab in slabs(operands.long()) {
            let read = self.read(operands, slab.clone())?;
            for rows in parts(0..slab.len(), PANEL) {
                let along = self.along(engine, &read, vectors, rows);
                let along = View::new(&along, count);
                add_lower(engine, (along.transposed(), along, 1.0), &mut out, count);
            }
        }
        mirror(&mut out, count);
        Some(out)
    }
}
