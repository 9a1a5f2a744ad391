//! Two matrices in one frame, after the rotation that brings the first nearest to the second.
//!
//! `R = argmin |A R - B|_F` over orthogonal `R` is the polar factor of `M = A^T B` (Schönemann 1966, "A
//! generalized solution of the orthogonal Procrustes problem"), on the short side of both.

use serde::Deserialize;

use super::differences::Matrix;
use super::make::{Bytes, Made, Make, Outcome, square};
use super::operands::{Operands, SLAB, slabs};
use crate::kernels::tile::Tile;
use crate::linalg::engine::{Engine, PANEL};
use crate::linalg::gemm::{View, add_product};
use crate::linalg::long::{Long, parts};
use crate::linalg::polar::polar;
use crate::linalg::power::powers;

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

impl Make for Turned {
    fn check(&self, of: &Matrix<()>) -> Result<(), String> {
        let alone = of.weights == [1.0] && !of.apart;
        let within = (0.0..=1.0).contains(&self.alignment);
        if alone && within && self.alpha.is_finite() && self.centralization.is_finite() {
            return Ok(());
        }
        Err("a rotation, expected one model of weight 1, no base apart, an alignment from \
             0 to 1 and finite numbers"
            .to_owned())
    }

    fn matrices(&self, _: usize) -> usize {
        2
    }

    fn gather(&self, _: &Matrix<()>, tile: Tile, index: usize, out: &mut [f32]) {
        out.copy_from_slice(tile.operands[index]);
    }

    fn solve(&self, _: &Matrix<()>, engine: &Engine, operands: &mut Operands) -> Outcome<Made> {
        rotate(engine, operands, *self)
    }

    fn vectors(&self, _: &Matrix<()>, _: &Engine, all: Vec<Vec<f32>>) -> Option<Made> {
        let mut all = all.into_iter();
        let (mut values, other) = (all.next()?, all.next()?);
        for (x, other) in values.iter_mut().zip(other) {
            *x = ((1.0 - self.alpha) * f64::from(*x) + self.alpha * f64::from(other)) as f32;
        }
        Some(Made { values, note: "vectors: not rotated".to_owned() })
    }

    fn bytes(&self, _: usize, rows: u64, columns: u64) -> Bytes {
        let short = rows.min(columns);
        let powers = u64::from(self.alpha != 0.0) + u64::from(1.0 - self.alpha != 0.0);
        let between = self.alignment > 0.0 && self.alignment < 1.0;
        // The copy that is inverted and its inverse; or the parts, and half turns.
        let solved = if between { (7 + 2 * powers).max(8) } else { 6 };
        let parts = (8 * SLAB + 32 * PANEL) as u64 * short;
        Bytes { solved: solved * square(short) / 2, made: powers.max(1) * square(short), parts }
    }

    fn subject(&self) -> &'static str {
        "the models"
    }

    fn map(&self, _: &Matrix<()>, _: Tile, made: &[f32], out: &mut [f32]) {
        out.copy_from_slice(made);
    }
}

/// How many of each are made of rows.
enum Turn {
    /// None.
    Nothing,
    /// As they are.
    Same,
    /// Times a matrix.
    By(Vec<f64>),
    /// Times its transpose.
    Back(Vec<f64>),
}

/// `(1 - alpha) A R^t + alpha B R^(t-1)`, of what is left of `A` and `B` without their means, plus `(1 - t)`
/// and `t` of these. `None` if stopped.
///
/// # Errors
/// A sentence if there is no way to a part of the rotation.
fn rotate(engine: &Engine, operands: &mut Operands, how: Turned) -> Outcome<Made> {
    let short = operands.short();
    let means = [mean(engine, operands, 0, how)?, mean(engine, operands, 1, how)?];
    let mut m = engine.zeros(short * short)?;
    for slab in slabs(operands.long()) {
        let both = [operands.slab(0, slab.clone())?, operands.slab(1, slab.clone())?];
        for rows in parts(0..slab.len(), PANEL) {
            let [a, b] = [0, 1].map(|i| centred(engine, &both[i], rows.clone(), &means[i]));
            let (a, b) = (a?, b?);
            let (a, b) = (View::new(&a, short), View::new(&b, short));
            add_product(engine, (a.transposed(), b, 1.0), &mut m, short)?;
        }
    }
    let t = how.alignment;
    let turn = polar(engine, m, short, t > 0.0 && t < 1.0)?;
    let turns = match turns(engine, turn, short, how)? {
        Ok(turns) => turns,
        Err(why) => return Some(Err(why)),
    };
    let shares = [1.0 - how.alpha, how.alpha];
    let offset = means[0].iter().zip(&means[1]);
    let offset = engine.collect(offset.map(|(a, b)| (1.0 - t) * a + t * b))?;
    let mut out = operands.empty()?;
    for slab in slabs(operands.long()) {
        let both = [operands.slab(0, slab.clone())?, operands.slab(1, slab.clone())?];
        for rows in parts(0..slab.len(), PANEL) {
            if engine.stopped() {
                return None;
            }
            let mut made = engine.room(rows.len() * short)?;
            rows.clone().for_each(|_| made.extend_from_slice(&offset));
            for i in [0, 1] {
                let x = centred(engine, &both[i], rows.clone(), &means[i])?;
                add_turned(engine, (&x, &turns[i], shares[i]), &mut made, short)?;
            }
            out.set(slab.start + rows.start..slab.start + rows.end, &made);
        }
    }
    Some(Ok(Made { values: out.values, note: String::new() }))
}

/// The share of the mean row of the long side that is taken away before anything is turned.
fn mean(engine: &Engine, operands: &mut Operands, index: usize, how: Turned) -> Option<Vec<f64>> {
    let (long, short) = (operands.long(), operands.short());
    let mut sums: Vec<f64> = engine.zeros(short)?;
    let nothing = engine.copy(&sums)?;
    if how.centralization == 0.0 {
        return Some(sums);
    }
    for slab in slabs(long) {
        let read = operands.slab(index, slab.clone())?;
        for row in centred(engine, &read, 0..slab.len(), &nothing)?.chunks_exact(short) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
    for sum in &mut sums {
        *sum = *sum / long as f64 * how.centralization;
    }
    Some(sums)
}

/// Rows of the long side without a mean, one after the other.
fn centred(
    engine: &Engine,
    slab: &Long,
    rows: std::ops::Range<usize>,
    mean: &[f64],
) -> Option<Vec<f64>> {
    let view = slab.view().rows(rows.clone());
    let mut out = engine.zeros(rows.len() * mean.len())?;
    for (i, row) in out.chunks_exact_mut(mean.len()).enumerate() {
        for (j, (x, mean)) in row.iter_mut().zip(mean).enumerate() {
            *x = view.at(i, j) - mean;
        }
    }
    Some(out)
}

/// What the first and the second are turned by.
fn turns(engine: &Engine, turn: Vec<f64>, n: usize, how: Turned) -> Outcome<[Turn; 2]> {
    let (t, alpha) = (how.alignment, how.alpha);
    let (first, second) = (1.0 - alpha != 0.0, alpha != 0.0);
    let when = |has: bool, turn: Turn| if has { turn } else { Turn::Nothing };
    if t >= 1.0 {
        return Some(Ok([when(first, Turn::By(turn)), when(second, Turn::Same)]));
    }
    if t <= 0.0 {
        return Some(Ok([when(first, Turn::Same), when(second, Turn::Back(turn))]));
    }
    let wanted: Vec<f64> = [(first, t), (second, t - 1.0)]
        .into_iter()
        .filter_map(|(has, t)| has.then_some(t))
        .collect();
    let found = match powers(engine, turn, n, &wanted)? {
        Ok(found) => found,
        Err(why) => return Some(Err(why)),
    };
    let mut found = found.into_iter();
    let mut next =
        |has: bool| if has { found.next().map_or(Turn::Nothing, Turn::By) } else { Turn::Nothing };
    Some(Ok([next(first), next(second)]))
}

fn add_turned(
    engine: &Engine,
    (x, turn, share): (&[f64], &Turn, f64),
    out: &mut [f64],
    n: usize,
) -> Option<()> {
    let x_view = View::new(x, n);
    match turn {
        Turn::Nothing => {}
        Turn::Same => out.iter_mut().zip(x).for_each(|(out, x)| *out += share * x),
        Turn::By(turn) => add_product(engine, (x_view, View::new(turn, n), share), out, n)?,
        Turn::Back(turn) => {
            let back = View::new(turn, n).transposed();
            add_product(engine, (x_view, back, share), out, n)?;
        }
    }
    Some(())
}
