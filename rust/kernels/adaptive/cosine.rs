//! A way between two models whose share follows from the angle of their columns.

#![allow(clippy::inline_always)]

use serde::Deserialize;

use crate::kernels::check::expect_operands;
use crate::kernels::each::Each;
use crate::kernels::kernel::{Kernel, Next, Step, Sums};
use crate::kernels::select::LONGEST;
use crate::kernels::tile::{Tile, Whole};

/// `out = (1 - k) a + k b` of operands `a, b`, with `k = 1 - s` and `s = c - alpha`, at least 0 and
/// at most 1, where `c` is the cosine of the two columns the element is in; with `whole` the mean
/// of that and of the cosine of the two units.
///
/// Where columns agree more than `alpha`, so much of the first stays. Products are summed in f64 on
/// the grid, of elements that are finite in both; a column of length 0 has the cosine 0. `k` is
/// formed in f64 and rounded to f32 once. A unit of one dimension is one column.
///
/// Source: `add_cosine_a` and, with `whole`, `add_cosine_b` of sd-mecha, after the modes `cosineA`
/// and `cosineB` of sd-webui-supermerger, which besides scale the cosines to those of the model.
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

/// [`SUMS`] for each column, one after the other; none at all stands for as many zeros as there are.
#[derive(Clone, Debug)]
pub struct Products(Vec<f64>);

impl Sums for Products {
    fn is_exact(&self) -> bool {
        false
    }

    fn add_next(&mut self, next: Self) {
        self.0.resize(self.0.len().max(next.0.len()), 0.0);
        self.0.iter_mut().zip(next.0).for_each(|(sum, next)| *sum += next);
    }
}

impl Kernel for Cosine {
    type Sums = Products;
    /// The share of the second operand in each column.
    type Learned = Vec<f32>;

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

    fn longest(&self) -> u64 {
        LONGEST
    }

    fn passes(&self) -> usize {
        1
    }

    fn start(&self, _: Whole) -> Next<Self> {
        Step::Pass(Products(Vec::new())) // how many columns there are, the first tile tells
    }

    fn reduce(&self, tile: Tile, Products(totals): &mut Products) {
        let row = tile.row.max(1);
        totals.resize(SUMS * row, 0.0);
        tile.isa.run(Columns { a: tile.operands[0], b: tile.operands[1], row, totals });
    }

    fn learn(&self, Products(totals): Products) -> Next<Self> {
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
        Step::Known((0..columns).map(share).collect())
    }

    fn state_bytes(&self, _: usize, tile: usize) -> u64 {
        (tile * SUMS * size_of::<f64>()) as u64
    }

    fn map(&self, tile: Tile, shares: &Vec<f32>, out: &mut [f32]) {
        let (row, a, b) = (tile.row.max(1), tile.operands[0], tile.operands[1]);
        for ((out, a), b) in out.chunks_mut(row).zip(a.chunks(row)).zip(b.chunks(row)) {
            let formula = |[a, b, k]: [f32; 3]| (1.0 - k) * a + k * b;
            tile.isa.run(Each { x: [a, b, shares], formula, out });
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
