//! A difference without its noise: every element follows from its neighbours.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use super::each::Each;
use super::kernel::Direct;
use super::tile::Tile;
use crate::simd::Body;

/// `out = a + alpha G(M(b - c))` of operands `a, b, c`: `M` is the median of an element and its
/// neighbours, three by three, and `G` a Gaussian of standard deviation 1 as far as 4 neighbours,
/// down the columns and then along the rows.
///
/// Beyond the unit its elements stand in mirrored order, the first after itself. In a unit of one
/// dimension an element has neighbours to two sides only. The difference is rounded to f32; of the
/// Gaussian the sums are in f64, `x_0 g_0` first and then `(x_-j + x_j) g_j` from `j = 4` to 1, and
/// rounded to f32 after the columns and after the rows; the product and the sum with `a` in f32.
/// What is not finite spreads as far as the neighbours reach.
///
/// Source: `smoothAdd` of sd-webui-supermerger, which calls `median_filter(size=3)` and
/// `gaussian_filter(sigma=1)` of `SciPy`; in tensors of more than two dimensions it takes neighbours
/// in all of them, where here rows are one line.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Smooth {
    /// How much is added.
    pub alpha: f64,
}

/// How far the Gaussian reaches.
const REACH: usize = 4;
/// `e^(-j^2 / 2)` over the sum of these from -4 to 4, for `j` from 0 to 4.
const BELL: [f64; REACH + 1] = [
    0.398_943_469_356_097_76,
    0.241_971_445_656_600_73,
    0.053_991_127_420_704_41,
    0.004_431_861_620_031_265_5,
    0.000_133_830_624_614_741_75,
];

/// Rows that an element's value depends on, above and below its own.
const HALO: usize = REACH + 1;

impl Direct for Smooth {
    fn check(&self, operands: usize) -> Result<(), String> {
        if operands != 3 {
            return Err(format!("smooth of {operands} operands, expected 3"));
        }
        if !(self.alpha as f32).is_finite() {
            return Err(format!("smooth with alpha {:?}, expected a finite f32", self.alpha));
        }
        Ok(())
    }

    fn by_rows(&self) -> bool {
        true
    }

    fn halo(&self) -> usize {
        HALO
    }

    /// Differences, medians, columns; a cell's elements are in each.
    fn state_bytes(&self, _: usize, tile: usize) -> u64 {
        3 * (tile * size_of::<f32>()) as u64
    }

    fn map(&self, tile: Tile, out: &mut [f32]) {
        let [a, b, c] = tile.operands else { return };
        let (isa, row) = (tile.isa, tile.row.max(1));
        let [before, after] = tile.around.map(|around| around / row);
        let rows = out.len() / row;
        let mut difference = vec![0.0; b.len()];
        isa.run(Each { x: [b, c], formula: |[b, c]: [f32; 2]| b - c, out: &mut difference });
        // Where less than the halo is shown, the unit ends; elsewhere no mirror is reached.
        let shown = Mirror { count: before + rows + after };
        let mut medians = vec![0.0; b.len()];
        for i in 0..shown.count {
            let lines = [shown.before(i, 1), i, shown.after(i, 1)];
            let lines = lines.map(|i| &difference[i * row..][..row]);
            isa.run(Median { lines, out: &mut medians[i * row..][..row] });
        }
        let (mut column, alpha) = (vec![0.0; row], self.alpha as f32);
        for (i, out) in out.chunks_mut(row).enumerate() {
            let i = before + i;
            let line = |i: usize| &medians[i * row..][..row];
            let around = std::array::from_fn(|j| {
                [line(shown.before(i, j + 1)), line(shown.after(i, j + 1))]
            });
            isa.run(Columns { own: line(i), around, out: &mut column });
            if row == 1 {
                out.copy_from_slice(&column);
            } else {
                isa.run(Along { column: &column, out });
            }
            for (out, a) in out.iter_mut().zip(&a[i * row..]) {
                *out = a + alpha * *out;
            }
        }
    }
}

/// Places of a line that is mirrored at its ends, over and over.
struct Mirror {
    count: usize,
}

impl Mirror {
    fn at(&self, i: usize) -> usize {
        let (turn, at) = (i / self.count, i % self.count);
        if turn.is_multiple_of(2) { at } else { self.count - 1 - at }
    }

    /// The place `n` before the `i`-th: all is the same again after twice the line.
    fn before(&self, i: usize, n: usize) -> usize {
        self.at(i + 2 * self.count * n - n)
    }

    /// The place `n` after the `i`-th.
    fn after(&self, i: usize, n: usize) -> usize {
        self.at(i + n)
    }
}

/// The median of each element and its neighbours in three lines.
struct Median<'a> {
    lines: [&'a [f32]; 3],
    out: &'a mut [f32],
}

impl Body for Median<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (n, lines) = (self.out.len(), self.lines);
        if n == 1 {
            self.out[0] = middle(lines.map(|line| line[0]));
            return;
        }
        for (i, next) in [(0, 1), (n - 1, n - 2)] {
            self.out[i] = median_of_nine(lines.map(|line| [line[i], line[i], line[next]]));
        }
        let [left, own, right] = [0, 1, 2].map(|at| lines.map(|line| &line[at..n - 2 + at]));
        for (i, out) in self.out[1..n - 1].iter_mut().enumerate() {
            let three = |j: usize| [left[j][i], own[j][i], right[j][i]];
            *out = median_of_nine([three(0), three(1), three(2)]);
        }
    }
}

/// The smaller and the larger; a NaN is the larger.
#[inline(always)]
fn ordered(x: f32, y: f32) -> [f32; 2] {
    let swap = y < x || x.is_nan();
    if swap { [y, x] } else { [x, y] }
}

#[inline(always)]
fn middle([x, y, z]: [f32; 3]) -> f32 {
    let [x, y] = ordered(x, y);
    let [y, _] = ordered(y, z);
    ordered(x, y)[1]
}

/// Sorted threes; then the largest of the smallest, the middle of the middle ones and the smallest
/// of the largest have the median in their middle.
#[inline(always)]
fn median_of_nine(lines: [[f32; 3]; 3]) -> f32 {
    let [one, two, three] = lines.map(|[x, y, z]| {
        let [x, y] = ordered(x, y);
        let [y, z] = ordered(y, z);
        let [x, y] = ordered(x, y);
        [x, y, z]
    });
    let low = ordered(ordered(one[0], two[0])[1], three[0])[1];
    let high = ordered(ordered(one[2], two[2])[0], three[2])[0];
    middle([low, middle([one[1], two[1], three[1]]), high])
}

/// The Gaussian down the columns.
struct Columns<'a> {
    own: &'a [f32],
    around: [[&'a [f32]; 2]; REACH],
    out: &'a mut [f32],
}

impl Body for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { own, around, out } = self;
        let around = around.map(|lines| lines.map(|line| &line[..out.len()]));
        for (i, (out, own)) in out.iter_mut().zip(own).enumerate() {
            *out = bell(*own, |j| around[j - 1].map(|line| line[i]));
        }
    }
}

/// The Gaussian along a row.
struct Along<'a> {
    column: &'a [f32],
    out: &'a mut [f32],
}

impl Body for Along<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { column, out } = self;
        let n = column.len();
        let line = Mirror { count: n };
        for i in (0..n.min(REACH)).chain(n.saturating_sub(REACH)..n) {
            out[i] = bell(column[i], |j| [column[line.before(i, j)], column[line.after(i, j)]]);
        }
        if n > 2 * REACH {
            let inner = n - 2 * REACH;
            let shifted: [_; 2 * REACH + 1] = std::array::from_fn(|j| &column[j..j + inner]);
            for (i, out) in out[REACH..REACH + inner].iter_mut().enumerate() {
                let around = |j: usize| [shifted[REACH - j][i], shifted[REACH + j][i]];
                *out = bell(shifted[REACH][i], around);
            }
        }
    }
}

/// The Gaussian of an element and what lies `j` before and after it.
#[inline(always)]
fn bell(own: f32, around: impl Fn(usize) -> [f32; 2]) -> f32 {
    let mut sum = f64::from(own) * BELL[0];
    for j in (1..=REACH).rev() {
        let [before, after] = around(j).map(f64::from);
        sum += (before + after) * BELL[j];
    }
    sum as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_do_not_fit_are_told() {
        assert!(Smooth { alpha: 1.0 }.check(3).is_ok());
        let what = Smooth { alpha: 1.0 }.check(2).expect_err("a refusal");
        assert_eq!(what, "smooth of 2 operands, expected 3");
        assert!(Smooth { alpha: f64::NAN }.check(3).is_err());
    }

    #[test]
    fn the_bell_is_that_of_its_formula() {
        let height = |j: usize| (-0.5 * (j * j) as f64).exp();
        let sum = height(0) + 2.0 * (1..=REACH).map(height).sum::<f64>();
        for (j, weight) in BELL.iter().enumerate() {
            assert!((weight - height(j) / sum).abs() < 1e-17, "{j} {:.18}", height(j) / sum);
        }
    }

    #[test]
    fn medians_are_those_of_sorted_elements() {
        for seed in 0..2_000_u32 {
            let value = |i: u32| ((seed * 9 + i).wrapping_mul(0x9E37_79B9) >> 28) as f32;
            let nine: [f32; 9] = std::array::from_fn(|i| value(i as u32));
            let mut sorted = nine;
            sorted.sort_unstable_by(f32::total_cmp);
            let found =
                median_of_nine(std::array::from_fn(|i| std::array::from_fn(|j| nine[3 * i + j])));
            assert_eq!(found.to_bits(), sorted[4].to_bits(), "{nine:?}");
        }
    }

    #[test]
    fn a_mirror_repeats_its_edge() {
        let line = Mirror { count: 3 };
        assert_eq!([5, 4, 3, 2, 1].map(|n| line.before(0, n)), [1, 2, 2, 1, 0]);
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|n| line.after(0, n)), [0, 1, 2, 2, 1, 0, 0, 1]);
    }
}
