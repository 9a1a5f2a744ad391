//! Select, calculate, erase.

#![allow(clippy::inline_always)]

use std::ops::ControlFlow;

use serde::Deserialize;

use crate::kernels::check::{expect_not_negative, expect_operands};
use crate::kernels::kernel::{Kernel, Next, Step, Sums, sums_of};
use crate::kernels::select::{self, Cut, LONGEST, PASSES, Sample, Search, Target};
use crate::kernels::tile::{Tile, Whole};
use crate::simd::{BLOCK, Body};

/// `out = b + (sum_i t_i e_i) / (sum_i e_i)` of a base `b` and models `x_i`, with `d_i = x_i - b`:
///
/// 1. Select: `t_i = d_i` where the variance of the `d_i` is one of the `floor(select_topk n)` largest of
///    the `n` that are not 0, of equals those of lowest index; else 0. The variance over the models
///    is formed in f64, with their number as the divisor, and rounded to f32. With a share of 1 every
///    element is selected.
/// 2. Calculate: `w_i` is the mean of `t_i^2` over the unit as a share of the sum of these means,
///    in f64, rounded to f32. Where that sum is 0 or below `floor`, all weights are equal.
/// 3. Erase: `S = ((0 + t_0) + t_1) + ...`; `e_i = w_i` where `t_i` has the sign of `S` (positive
///    where it is 0) and is not 0, else 0. The divisor is at least `floor`, and 1 where it is 0.
///
/// Source: Wan et al. 2024, "Knowledge fusion of chat models", arXiv:2408.07990. With a `floor` of 1e-6 it is `sce` of
/// mergekit 0.1.5, where weights of models whose squares lie below that are equal.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Sce {
    /// The share of the elements models differ in that is selected.
    pub select_topk: f64,
    /// Sums below this count as none.
    pub floor: f64,
}

/// What a pass sums: first what finds the selected elements, then their squares.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Counts of variances, until it is known where the selected end.
    search: Option<Search>,
    squares: Squares,
}

/// The sums of squares of the selected differences of each model, in f64 on the grid, and the number
/// of elements.
#[derive(Clone, Debug)]
pub struct Squares {
    /// Where the selected end, if not all are.
    cut: Option<Cut>,
    totals: Vec<f64>,
}

impl Sums for Seen {
    fn is_exact(&self) -> bool {
        self.search.is_some()
    }

    fn flush(&mut self) {
        self.search.iter_mut().for_each(Search::flush);
    }

    fn add_next(&mut self, next: Self) {
        self.search.iter_mut().zip(next.search).for_each(|(sum, next)| sum.add_next(next));
        let totals = self.squares.totals.iter_mut().zip(next.squares.totals);
        totals.for_each(|(sum, next)| *sum += next);
    }
}

/// What is known of a unit.
#[derive(Debug)]
pub struct Facts {
    squares: Squares,
    /// The weights of the models.
    weights: Vec<f32>,
}

impl Sce {
    /// The variances of a tile, as bits.
    fn variances<'a>(tile: Tile, room: &'a mut [u32; BLOCK]) -> &'a [u32] {
        let out = &mut room[..tile.operands[0].len()];
        tile.isa.run(Variance { x: tile.operands, out });
        out
    }

    /// 1 for each element that is selected, else 0.
    fn selected<'a>(tile: Tile, cut: Option<Cut>, room: &'a mut [f32; BLOCK]) -> &'a [f32] {
        let n = tile.operands[0].len();
        let Some(cut) = cut else { return &room[..n] };
        let mut variances = [0; BLOCK];
        let variances = Self::variances(tile, &mut variances);
        for (i, (selected, v)) in room.iter_mut().zip(variances).enumerate() {
            let before = tile.first + (i as u64) < cut.end;
            let inside = *v > cut.bits || (*v == cut.bits && before);
            *selected = f32::from(u8::from(inside));
        }
        &room[..n]
    }
}

impl Sce {
    fn weigh(&self, squares: Squares) -> Facts {
        Facts { weights: weights(&squares.totals, self.floor), squares }
    }
}

impl Kernel for Sce {
    type Sums = Seen;
    type Learned = Facts;

    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("sce", operands, operands >= 2, "a base and at least one model")?;
        if !(0.0..=1.0).contains(&self.select_topk) {
            return Err(format!("sce with select_topk {}, expected 0 to 1", self.select_topk));
        }
        expect_not_negative("sce", "floor", self.floor)
    }

    fn longest(&self) -> u64 {
        LONGEST
    }

    fn passes(&self) -> usize {
        1 + if self.select_topk < 1.0 { PASSES } else { 0 }
    }

    fn start(&self, whole: Whole) -> Next<Self> {
        let search = (self.select_topk < 1.0).then(|| Search::sample(1, whole.elements));
        // One for each model, and the number of elements.
        let squares = Squares { cut: None, totals: vec![0.0; whole.operands] };
        Step::Pass(Seen { search, squares })
    }

    fn reduce(&self, tile: Tile, seen: &mut Seen) {
        let Seen { search, squares: Squares { cut, totals } } = seen;
        if let Some(search) = search {
            let mut room = [0; BLOCK];
            search.add(tile.isa, 0, tile.first, Self::variances(tile, &mut room));
        } else {
            let mut selected = [1.0; BLOCK];
            add_squares(tile, Self::selected(tile, *cut, &mut selected), totals);
        }
    }

    #[allow(clippy::cast_sign_loss)] // a share of a length is not negative
    fn learn(&self, Seen { search, squares }: Seen) -> Next<Self> {
        let Some(search) = search else { return Step::Known(self.weigh(squares)) };
        let target = |stream, sample: &Sample| {
            let different = sample.elements() - sample.zeros();
            let rank = (self.select_topk * different as f64) as u64;
            vec![Target::new(stream, rank, sample)]
        };
        match search.next(target) {
            ControlFlow::Continue(search) => Step::Pass(Seen { search: Some(search), squares }),
            ControlFlow::Break(ends) => {
                let cut = ends.first().map(|(_, cut)| *cut);
                Step::Pass(Seen { search: None, squares: Squares { cut, ..squares } })
            }
        }
    }

    fn key(&self) -> Option<String> {
        Some(format!("sce {:?}", self.select_topk))
    }

    fn statistics(&self, facts: &Facts) -> Option<Vec<u64>> {
        let Squares { cut, totals } = &facts.squares;
        let totals = totals.iter().map(|total| total.to_bits());
        Some(totals.chain(cut.iter().flat_map(|cut| cut.numbers())).collect())
    }

    fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Next<Self>> {
        let (totals, rest) = statistics.split_at_checked(whole.operands)?;
        let totals = sums_of(totals).filter(|t| t.last() == Some(&(whole.elements as f64)))?;
        let cut = match (self.select_topk < 1.0, rest) {
            (false, []) => None,
            (true, &[bits, end]) => Some(Cut::of([bits, end], whole.elements)?),
            _ => return None,
        };
        Some(Step::Known(self.weigh(Squares { cut, totals })))
    }

    fn state_bytes(&self, operands: usize, _: usize) -> u64 {
        ((operands + 4) * BLOCK * size_of::<f64>()) as u64 + select::state_bytes(1)
    }

    fn kept_bytes(&self, _: Whole) -> u64 {
        select::kept_bytes(1, 1)
    }

    fn map(&self, tile: Tile, facts: &Facts, out: &mut [f32]) {
        let mut selected = [1.0; BLOCK];
        let selected = Self::selected(tile, facts.squares.cut, &mut selected);
        let (x, weights, floor) = (tile.operands, facts.weights.as_slice(), self.floor as f32);
        tile.isa.run(Fuse { x, selected, weights, floor, out });
    }
}
fn add_squares(tile: Tile, selected: &[f32], totals: &mut [f64]) {
    let (base, mut t) = (tile.operands[0], [0.0; BLOCK]);
    for (x, total) in tile.operands[1..].iter().zip(&mut *totals) {
        for (t, ((x, b), s)) in t.iter_mut().zip(x.iter().zip(base).zip(selected)) {
            *t = (x - b) * s;
        }
        *total += tile.isa.dot(&t[..base.len()], &t[..base.len()]);
    }
    if let Some(count) = totals.last_mut() {
        *count += base.len() as f64;
    }
}

/// The weights of the models, from their sums of squares and the number of elements.
fn weights(totals: &[f64], floor: f64) -> Vec<f32> {
    let Some((count, squares)) = totals.split_last() else { return Vec::new() };
    let means: Vec<_> = squares.iter().map(|sum| sum / count).collect();
    let total: f64 = means.iter().sum();
    let even = 1.0 / means.len() as f64;
    let share = |mean: &f64| if total == 0.0 || total < floor { even } else { mean / total };
    means.iter().map(|mean| share(mean) as f32).collect()
}

/// At most a block.
struct Variance<'a> {
    x: &'a [&'a [f32]],
    out: &'a mut [u32],
}

impl Body for Variance<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, out } = self;
        let (base, models) = (x[0], &x[1..]);
        let count = models.len() as f64;
        let mean = &mut [0.0_f64; BLOCK][..out.len()];
        let squares = &mut [0.0_f64; BLOCK][..out.len()];
        for x in models {
            for (mean, (x, b)) in mean.iter_mut().zip(x.iter().zip(base)) {
                *mean += f64::from(x - b);
            }
        }
        for mean in &mut *mean {
            *mean /= count;
        }
        for x in models {
            for ((sum, mean), (x, b)) in squares.iter_mut().zip(&*mean).zip(x.iter().zip(base)) {
                let off = f64::from(x - b) - mean;
                *sum += off * off;
            }
        }
        for (out, sum) in out.iter_mut().zip(squares) {
            *out = ((*sum / count) as f32).to_bits() & i32::MAX as u32;
        }
    }
}

/// Steps 2 and 3; at most a block.
struct Fuse<'a> {
    x: &'a [&'a [f32]],
    selected: &'a [f32],
    weights: &'a [f32],
    floor: f32,
    out: &'a mut [f32],
}

impl Body for Fuse<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, selected, weights, floor, out } = self;
        let (base, models) = (x[0], &x[1..]);
        let sum = &mut [0.0_f32; BLOCK][..out.len()];
        let divisor = &mut [0.0_f32; BLOCK][..out.len()];
        for x in models {
            for ((sum, s), (x, b)) in sum.iter_mut().zip(selected).zip(x.iter().zip(base)) {
                *sum += (x - b) * s;
            }
        }
        out.fill(0.0);
        for (x, weight) in models.iter().zip(weights) {
            let sums = out.iter_mut().zip(&mut *divisor).zip(&*sum);
            for (((out, divisor), sum), ((x, b), s)) in sums.zip(x.iter().zip(base).zip(selected)) {
                let t = (x - b) * s;
                let agrees = if *sum >= 0.0 { t > 0.0 } else { t < 0.0 };
                let erased = weight * f32::from(u8::from(agrees));
                *out += t * erased;
                *divisor += erased;
            }
        }
        for ((out, b), divisor) in out.iter_mut().zip(base).zip(&*divisor) {
            let divisor = if *divisor < floor { floor } else { *divisor };
            *out = b + *out / if divisor == 0.0 { 1.0 } else { divisor };
        }
    }
}
