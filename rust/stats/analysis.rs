//! What two models are like in one unit, beside each other and beside the base they come from.
//!
//! Norms, inner products and distances are those of [`UnitStats`](super::UnitStats); here is what
//! only an analysis wants: which elements are equal, which differences a merge would lose to
//! rounding, how often the changes from a base disagree in sign, and how many directions a
//! difference has. An element of which any operand is not finite enters none of it.
//!
//! A unit whose rows have 2 to [`CELL`] elements, and that has two rows, is a matrix: its cells are
//! whole rows, seen in pieces of at most [`BLOCK`]. Any other unit is a vector.

use serde::{Deserialize, Serialize};

use super::grid::CELL;
use super::sketch::{Sketch, Spread};
use crate::dtype::Float;
use crate::kernels::tile::Tile;
use crate::simd::{BLOCK, Body, Isa, LANES, total};

/// The arguments of an analysis. Operands are the two models, or base and the two models.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Analyze {
    /// Share of the second model in the merge that is asked about.
    pub alpha: f64,
}

impl Analyze {
    /// Whether the arguments are usable with this many operands; else what is wrong with them.
    ///
    /// # Errors
    /// A sentence without the place, which the caller knows.
    pub fn check(self, operands: usize) -> Result<(), String> {
        if !self.alpha.is_finite() {
            return Err(format!("alpha {}, expected a finite number", self.alpha));
        }
        let fits = matches!(operands, 2 | 3);
        if fits { Ok(()) } else { Err(format!("{operands} operands, expected 2 or 3")) }
    }

    /// Bytes that the sketches of one cell take.
    #[must_use]
    pub fn cell_bytes(operands: usize) -> u64 {
        deltas(operands) as u64 * Sketch::BYTES
    }
}

/// How many differences are sketched: `b - a`, and with a base `a - base` and `b - base`.
fn deltas(operands: usize) -> usize {
    if operands == 3 { 3 } else { 1 }
}

/// Elements of a row if a unit of so many elements is a matrix.
#[must_use]
pub fn matrix(elements: u64, row: usize) -> Option<usize> {
    (row > 1 && row <= CELL && elements > row as u64).then_some(row)
}

/// The analysis of one unit, or of one cell of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Analysis {
    /// Elements equal in both models; +0 and -0 differ, any two NaNs are equal.
    pub identical: u64,
    /// Elements that differ and of which `|alpha (b - a)|` is less than half the distance from `|a|`
    /// to the next larger value of the output's dtype.
    pub below_rounding: u64,
    /// Of a unit with a base: its changes beside each other.
    #[serde(flatten)]
    pub changes: Option<Changes>,
    /// Of each difference of a matrix (`b - a`; `a - base`; `b - base`): what its sketch says.
    pub spread: Vec<Spread>,
    #[serde(skip)]
    sketches: Vec<Sketch>,
}

/// How the changes of two models from their base agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Changes {
    /// Elements that both models changed.
    pub both: u64,
    /// Those of them that the two changed in opposite directions.
    pub conflicts: u64,
    /// `sum (a - base)(b - base)`.
    pub product: f64,
    /// `sum |(a - base)(b - base)|`.
    pub product_abs: f64,
    /// `|b - a|^2`, of the differences.
    pub between2: f64,
}

impl Analysis {
    /// Nothing seen yet, of so many operands; a matrix is sketched.
    #[must_use]
    pub fn new(operands: usize, is_matrix: bool) -> Self {
        let sketches = if is_matrix { deltas(operands) } else { 0 };
        Self {
            identical: 0,
            below_rounding: 0,
            changes: (operands == 3).then(Changes::default),
            spread: Vec::new(),
            sketches: vec![Sketch::default(); sketches],
        }
    }

    /// Adds a piece of at most [`BLOCK`] finite elements; of a matrix it lies in one row, from
    /// `column` on.
    pub fn add(&mut self, analyze: Analyze, to: Float, tile: Tile, column: usize) {
        let Tile { isa, operands, .. } = tile;
        let (a, b) = (operands[operands.len() - 2], operands[operands.len() - 1]);
        let counts = isa.run(Compare::new(analyze, to, a, b));
        self.identical += counts[0];
        self.below_rounding += counts[1];
        if let (Some(sums), &[base, a, b]) = (&mut self.changes, operands) {
            sums.add(&Agree { base, a, b }.of(isa));
        }
        match (self.sketches.as_mut_slice(), operands) {
            ([between], &[a, b]) => between.fold(isa, b, a, column),
            ([between, first, second], &[base, a, b]) => {
                first.fold(isa, a, base, column);
                second.fold(isa, b, base, column);
                between.difference(second, first);
            }
            _ => {}
        }
    }

    /// A piece of which something is not finite: those elements are zero in every operand.
    #[cold]
    pub fn add_masked(&mut self, analyze: Analyze, to: Float, tile: Tile, column: usize) {
        let operands = tile.operands;
        let mut copies: Vec<Vec<f32>> = operands.iter().map(|x| x.to_vec()).collect();
        let (a, b) = (operands[operands.len() - 2], operands[operands.len() - 1]);
        for i in 0..a.len() {
            if operands.iter().any(|x| !x[i].is_finite()) {
                for copy in &mut copies {
                    copy[i] = 0.0;
                }
                let same = a[i].to_bits() == b[i].to_bits() || a[i].is_nan() && b[i].is_nan();
                self.identical -= u64::from(!same); // its zeros are about to be counted
            }
        }
        let operands: Vec<_> = copies.iter().map(Vec::as_slice).collect();
        self.add(analyze, to, Tile { operands: &operands, ..tile }, column);
    }

    /// Ends a row of a matrix.
    pub fn end_row(&mut self, isa: &Isa) {
        self.sketches.iter_mut().for_each(|sketch| sketch.end_row(isa));
    }

    /// Ends a cell.
    pub fn end_cell(&mut self) {
        self.sketches.iter_mut().for_each(Sketch::end_cell);
    }

    /// Adds the next cell of the grid.
    pub fn merge_next(&mut self, next: &Self) {
        self.identical += next.identical;
        self.below_rounding += next.below_rounding;
        if let (Some(sums), Some(next)) = (&mut self.changes, &next.changes) {
            sums.add(next);
        }
        self.sketches.iter_mut().zip(&next.sketches).for_each(|(sum, next)| sum.merge_next(next));
    }

    /// Ends the unit: keeps what its sketches say and drops them.
    pub fn finish(&mut self) {
        self.spread.extend(self.sketches.drain(..).map(|sketch| sketch.spread()));
    }
}

impl Changes {
    fn add(&mut self, next: &Self) {
        self.both += next.both;
        self.conflicts += next.conflicts;
        self.product += next.product;
        self.product_abs += next.product_abs;
        self.between2 += next.between2;
    }
}

/// Counts of equal elements and of differences below the rounding.
struct Compare<'a> {
    a: &'a [f32],
    b: &'a [f32],
    alpha: f32,
    /// The bits of the smallest normal value.
    smallest: u32,
    /// Half the distance of two values, relative to their power of two.
    half: f32,
}

impl<'a> Compare<'a> {
    fn new(analyze: Analyze, to: Float, a: &'a [f32], b: &'a [f32]) -> Self {
        let (mantissa, exponent) = match to {
            Float::F32 => (23, -126),
            Float::F16 => (10, -14),
            Float::BF16 => (7, -126),
            Float::F8E4M3 => (3, -6),
            Float::F8E5M2 => (2, -14),
        };
        let (smallest, half) = (2.0_f32.powi(exponent).to_bits(), 2.0_f32.powi(-mantissa - 1));
        Self { a, b, alpha: analyze.alpha.abs() as f32, smallest, half }
    }
}

impl Body for Compare<'_> {
    type Output = [u64; 2];

    #[inline(always)]
    fn run(self) -> [u64; 2] {
        let (mut identical, mut below) = (0_u32, 0_u32);
        for (a, b) in self.a.iter().zip(self.b) {
            let same = a.to_bits() == b.to_bits();
            // Exponents compare as integers, and without the branches of a maximum of floats.
            let power = f32::from_bits((a.to_bits() & 0x7F80_0000).max(self.smallest));
            let lost = self.alpha * (b - a).abs() < power * self.half;
            identical += u32::from(same);
            below += u32::from(lost) & u32::from(!same);
        }
        [identical.into(), below.into()]
    }
}

/// The signs and products of the changes from a base.
#[derive(Clone, Copy)]
struct Agree<'a> {
    base: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
}

impl Agree<'_> {
    fn of(self, isa: &Isa) -> Changes {
        let changes = isa.run(self);
        let sums = [changes.product_abs, changes.between2];
        if sums.iter().all(|sum| sum.is_finite()) { changes } else { self.in_f64(changes) }
    }

    #[cold]
    fn in_f64(self, counts: Changes) -> Changes {
        let mut changes = Changes { product: 0.0, product_abs: 0.0, between2: 0.0, ..counts };
        for ((a, b), base) in self.a.iter().zip(self.b).zip(self.base) {
            let (a, b, base) = (f64::from(*a), f64::from(*b), f64::from(*base));
            let product = (a - base) * (b - base);
            changes.between2 += (b - a) * (b - a);
            changes.product += product;
            changes.product_abs += product.abs();
        }
        changes
    }
}

impl Body for Agree<'_> {
    type Output = Changes;

    #[inline(always)]
    fn run(self) -> Changes {
        let (mut both, mut conflicts) = (0_u32, 0_u32);
        let (mut signed, mut size, mut between) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut add = |lane: usize, a: f32, b: f32, base: f32| {
            between[lane] += (b - a) * (b - a);
            let (a, b) = (a - base, b - base);
            let changed = u32::from(a != 0.0) & u32::from(b != 0.0);
            both += changed;
            conflicts += changed & ((a.to_bits() ^ b.to_bits()) >> 31);
            signed[lane] += a * b;
            size[lane] += (a * b).abs();
        };
        let (a_rows, a_rest) = self.a.as_chunks::<LANES>();
        let (b_rows, b_rest) = self.b.as_chunks::<LANES>();
        let (base_rows, base_rest) = self.base.as_chunks::<LANES>();
        for ((a, b), base) in a_rows.iter().zip(b_rows).zip(base_rows) {
            for lane in 0..LANES {
                add(lane, a[lane], b[lane], base[lane]);
            }
        }
        for (lane, ((a, b), base)) in a_rest.iter().zip(b_rest).zip(base_rest).enumerate() {
            add(lane, *a, *b, *base);
        }
        Changes {
            both: both.into(),
            conflicts: conflicts.into(),
            product: total(&signed),
            product_abs: total(&size),
            between2: total(&between),
        }
    }
}

/// The pieces that a range of a unit is seen in: `(first, end, column, ends its row)`.
pub fn pieces(
    range: std::ops::Range<usize>,
    row: Option<usize>,
) -> impl Iterator<Item = (std::ops::Range<usize>, usize, bool)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let column = row.map_or(0, |row| (at - range.start) % row);
        let left = row.map_or(range.end - at, |row| row - column);
        let piece = at..at + left.min(BLOCK);
        at = piece.end;
        Some((piece, column, left <= BLOCK))
    })
}
