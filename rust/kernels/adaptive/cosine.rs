//! A way between two models whose share follows from the angle of their columns.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use super::{Facts, Formula, expect_operands};
use crate::kernels::each::Each;
use crate::kernels::sums::Sums;
use crate::kernels::{Stretch, Whole};

/// `out = (1 - k) a + k b` of operands `a, b`, with `k = 1 - s` and `s = c - alpha`, at least 0 and
/// at most 1, where `c` is the cosine of the two columns the element is in; with `whole` the mean
/// of that and of the cosine of the two units.
///
/// Where columns agree more than `alpha`, so much of the first stays. Products are summed in f64 on
/// the grid, of elements that are finite in both; a column of length 0 has the cosine 0. `k` is
/// formed in f64 and rounded to f32 once. A unit of one dimension is one column.
///
/// Source: `add_cosine_a` and, with `whole`, `add_cosine_b` of sd-mecha, after the modes `cosineA`
/// and `cosineB` of sd-webui-supermerger, which besides stretch the cosines to those of the model.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Cosine {
    /// The cosine up to which the second operand is taken whole.
    pub alpha: f64,
    /// Whether the unit's own cosine counts as much as that of the column.
    pub whole: bool,
}

/// Sums of a column: `a b`, `a a`, `b b`.
const SUMS: usize = 3;

impl Formula for Cosine {
    fn check(&self, operands: usize) -> Result<(), String> {
        expect_operands("cosine", operands, operands == 2, "2")?;
        if (self.alpha as f32).is_finite() {
            return Ok(());
        }
        Err(format!("cosine with alpha {:?}, expected a finite f32", self.alpha))
    }

    fn by_rows(&self) -> bool {
        true
    }

    fn passes(&self) -> usize {
        1
    }

    fn start(&self, _: usize, _: Whole, _: &Facts) -> Option<Sums> {
        Some(Sums::Totals(Vec::new())) // how many columns there are, the first stretch tells
    }

    fn reduce(&self, _: usize, stretch: Stretch, _: &Facts, sums: &mut Sums) {
        let (Sums::Totals(totals), [a, b]) = (sums, stretch.operands) else { return };
        let row = stretch.row.max(1);
        totals.resize(SUMS * row, 0.0);
        stretch.isa.run(Columns { a, b, row, totals });
    }

    fn learn(&self, _: usize, sums: &Sums, _: &Facts) -> Facts {
        let Sums::Totals(totals) = sums else { return Facts::default() };
        let columns = totals.len() / SUMS;
        let of = |sum: usize| &totals[sum * columns..(sum + 1) * columns];
        let cosine =
            |ab: f64, aa: f64, bb: f64| if ab == 0.0 { 0.0 } else { ab / (aa.sqrt() * bb.sqrt()) };
        let unit = cosine(of(0).iter().sum(), of(1).iter().sum(), of(2).iter().sum());
        let share = |column: usize| {
            let own = cosine(of(0)[column], of(1)[column], of(2)[column]);
            let cosine = if self.whole { f64::midpoint(own, unit) } else { own };
            (1.0 - (cosine - self.alpha).clamp(0.0, 1.0)) as f32
        };
        Facts { numbers: (0..columns).map(share).collect(), ..Facts::default() }
    }

    fn state_bytes(&self, _: usize, stretch: usize) -> u64 {
        (stretch * SUMS * size_of::<f64>()) as u64
    }

    fn map(&self, stretch: Stretch, facts: &Facts, out: &mut [f32]) {
        let (row, [a, b]) = (stretch.row.max(1), stretch.operands) else { return };
        let share = facts.numbers.as_slice();
        for ((out, a), b) in out.chunks_mut(row).zip(a.chunks(row)).zip(b.chunks(row)) {
            let formula = |[a, b, k]: [f32; 3]| (1.0 - k) * a + k * b;
            stretch.isa.run(Each { x: [a, b, share], formula, out });
        }
    }
}

/// Adds the products of whole rows to the sums of their columns.
struct Columns<'a> {
    a: &'a [f32],
    b: &'a [f32],
    row: usize,
    totals: &'a mut [f64],
}

impl crate::simd::Body for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (ab, rest) = self.totals.split_at_mut(self.row);
        let (aa, bb) = rest.split_at_mut(self.row);
        for (a, b) in self.a.chunks(self.row).zip(self.b.chunks(self.row)) {
            let sums = ab.iter_mut().zip(aa.iter_mut()).zip(bb.iter_mut());
            for (((ab, aa), bb), (a, b)) in sums.zip(a.iter().zip(b)) {
                let both = a.is_finite() && b.is_finite();
                let (a, b) = if both { (f64::from(*a), f64::from(*b)) } else { (0.0, 0.0) };
                *ab += a * b;
                *aa += a * a;
                *bb += b * b;
            }
        }
    }
}
