//! Two matrices in one frame, after the rotation that brings the first nearest to the second.
//!
//! `R = argmin |A R - B|_F` over orthogonal `R` is the polar factor of `M = A^T B` (Schönemann 1966, "A
//! generalized solution of the orthogonal Procrustes problem"), on the short side of both.

use super::gemm::{View, add_product};
use super::long::{Long, parts};
use super::operands::{Operands, slabs};
use super::polar::polar;
use super::power::powers;
use super::{Engine, PANEL, Turned};

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
pub(super) fn rotate(
    engine: &Engine,
    operands: &mut Operands,
    how: Turned,
) -> Option<Result<(Vec<f32>, String), String>> {
    let short = operands.short();
    let means = [mean(operands, 0, how)?, mean(operands, 1, how)?];
    let mut m = vec![0.0; short * short];
    for slab in slabs(operands.long()) {
        let both = [operands.slab(0, slab.clone())?, operands.slab(1, slab.clone())?];
        for rows in parts(0..slab.len(), PANEL) {
            let [a, b] = [0, 1].map(|i| centred(&both[i], rows.clone(), &means[i]));
            let (a, b) = (View::new(&a, short), View::new(&b, short));
            add_product(engine, (a.transposed(), b, 1.0), &mut m, short);
        }
    }
    let t = how.alignment;
    let turn = polar(engine, m, short, t > 0.0 && t < 1.0)?;
    let turns = match turns(engine, turn, short, how)? {
        Ok(turns) => turns,
        Err(why) => return Some(Err(why)),
    };
    let shares = [1.0 - how.alpha, how.alpha];
    let offset: Vec<f64> =
        means[0].iter().zip(&means[1]).map(|(a, b)| (1.0 - t) * a + t * b).collect();
    let mut out = operands.empty();
    for slab in slabs(operands.long()) {
        let both = [operands.slab(0, slab.clone())?, operands.slab(1, slab.clone())?];
        for rows in parts(0..slab.len(), PANEL) {
            if engine.stopped() {
                return None;
            }
            let mut made = offset.repeat(rows.len());
            for i in [0, 1] {
                let x = centred(&both[i], rows.clone(), &means[i]);
                add_turned(engine, (&x, &turns[i], shares[i]), &mut made, short);
            }
            out.set(slab.start + rows.start..slab.start + rows.end, &made);
        }
    }
    Some(Ok((out.values, String::new())))
}

/// The share of the mean row of the long side that is taken away before anything is turned.
fn mean(operands: &mut Operands, index: usize, how: Turned) -> Option<Vec<f64>> {
    let (long, short) = (operands.long(), operands.short());
    let mut sums = vec![0.0; short];
    if how.centralization == 0.0 {
        return Some(sums);
    }
    for slab in slabs(long) {
        let read = operands.slab(index, slab.clone())?;
        for row in centred(&read, 0..slab.len(), &vec![0.0; short]).chunks_exact(short) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
    for sum in &mut sums {
        *sum = *sum / long as f64 * how.centralization;
    }
    Some(sums)
}

/// Rows of the long side without a mean, one after the other.
fn centred(slab: &Long, rows: std::ops::Range<usize>, mean: &[f64]) -> Vec<f64> {
    let view = slab.view().rows(rows.clone());
    let mut out = vec![0.0; rows.len() * mean.len()];
    for (i, row) in out.chunks_exact_mut(mean.len()).enumerate() {
        for (j, (x, mean)) in row.iter_mut().zip(mean).enumerate() {
            *x = view.at(i, j) - mean;
        }
    }
    out
}

/// What the first and the second are turned by.
fn turns(
    engine: &Engine,
    turn: Vec<f64>,
    n: usize,
    how: Turned,
) -> Option<Result<[Turn; 2], String>> {
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

fn add_turned(engine: &Engine, (x, turn, share): (&[f64], &Turn, f64), out: &mut [f64], n: usize) {
    let x_view = View::new(x, n);
    match turn {
        Turn::Nothing => {}
        Turn::Same => out.iter_mut().zip(x).for_each(|(out, x)| *out += share * x),
        Turn::By(turn) => add_product(engine, (x_view, View::new(turn, n), share), out, n),
        Turn::Back(turn) => {
            let back = View::new(turn, n).transposed();
            add_product(engine, (x_view, back, share), out, n);
        }
    }
}
