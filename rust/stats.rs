//! What a unit's operands and output are like: counts, norms and distances on a fixed grid.
//!
//! A unit is cut into cells of [`CELL`] elements and a cell into blocks of [`BLOCK`]. Blocks are
//! added in order into their cell, cells in order into the unit, both in f64. The grid is counted
//! from the unit's first element, so threads, chunks and the machine change no bit.

use serde::Serialize;

use crate::dtype::Float;
use crate::simd::{BLOCK, Isa};

pub use crate::simd::Pair;

/// Elements per cell of the reduction grid.
pub const CELL: usize = 65_536;

/// The statistics of one unit, or of one cell of it. Sums run over finite elements only; how many
/// were left out is in `nonfinite`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnitStats {
    /// Elements of the output.
    pub elements: u64,
    /// Elements whose written value differs from the first operand's; +0 and -0 differ, NaNs do not.
    pub changed: u64,
    /// Infinite and NaN elements of each operand.
    pub nonfinite: Vec<u64>,
    /// Infinite and NaN elements as written.
    pub nonfinite_out: u64,
    /// `|x_i|^2` of each operand.
    pub norm2: Vec<f64>,
    /// `<x_i, x_0>` of each operand.
    pub dot: Vec<f64>,
    /// `|x_i - x_0|^2` of each operand: of the differences, not a difference of norms.
    pub delta2: Vec<f64>,
}

impl UnitStats {
    /// Nothing seen yet, of a unit with this many operands.
    #[must_use]
    pub fn new(operands: usize) -> Self {
        Self {
            elements: 0,
            changed: 0,
            nonfinite: vec![0; operands],
            nonfinite_out: 0,
            norm2: vec![0.0; operands],
            dot: vec![0.0; operands],
            delta2: vec![0.0; operands],
        }
    }

    /// Adds the next block: each operand decoded, and the output as it is written. Every
    /// block but the last of a unit has [`BLOCK`] elements.
    ///
    /// # Panics
    /// If the number of operands is not the one given to [`UnitStats::new`] or the lengths differ.
    fn add_block(&mut self, isa: &Isa, operands: &[&[f32]], to: Float, bytes: &[u8]) {
        assert_eq!(operands.len(), self.nonfinite.len(), "operands of the statistics");
        debug_assert!((self.elements as usize).is_multiple_of(BLOCK), "a short block came before");
        let reference = operands[0];
        for (i, x) in operands.iter().enumerate() {
            let pair = if i == 0 { isa.norm2(x) } else { isa.gram(x, reference) };
            self.nonfinite[i] += pair.nonfinite;
            self.norm2[i] += pair.norm2;
            self.dot[i] += pair.dot;
            self.delta2[i] += pair.delta2;
        }
        let written = isa.written(to, bytes, reference);
        self.elements += reference.len() as u64;
        self.changed += written.changed;
        self.nonfinite_out += written.nonfinite;
    }

    /// Adds the next stretch of a cell, block by block.
    pub fn add(&mut self, isa: &Isa, operands: &[&[f32]], to: Float, bytes: &[u8]) {
        let n = bytes.len() / to.bytes();
        if n <= BLOCK {
            return self.add_block(isa, operands, to, bytes);
        }
        for first in (0..n).step_by(BLOCK) {
            let block = first..n.min(first + BLOCK);
            let operands: Vec<_> = operands.iter().map(|x| &x[block.clone()]).collect();
            let bytes = &bytes[block.start * to.bytes()..block.end * to.bytes()];
            self.add_block(isa, &operands, to, bytes);
        }
    }

    /// Adds the next cell of the grid. Cells are added in grid order.
    pub fn merge_next(&mut self, cell: &Self) {
        self.elements += cell.elements;
        self.changed += cell.changed;
        self.nonfinite_out += cell.nonfinite_out;
        add(&mut self.nonfinite, &cell.nonfinite);
        add(&mut self.norm2, &cell.norm2);
        add(&mut self.dot, &cell.dot);
        add(&mut self.delta2, &cell.delta2);
    }
}

fn add<T: Copy + std::ops::AddAssign>(sums: &mut [T], next: &[T]) {
    assert_eq!(sums.len(), next.len(), "operands of two cells");
    for (sum, next) in sums.iter_mut().zip(next) {
        *sum += *next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Written;

    const LEN: usize = CELL + 5 * BLOCK + 77;

    fn operand(seed: u64, spread: f32) -> Vec<f32> {
        let value = |i: u64| {
            let hash = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            (hash as f32 / 8_388_608.0 - 1.0) * spread
        };
        (0..LEN as u64).map(value).collect()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// What `exec` does: cell by cell, the cells added in order.
    fn stats(isa: &Isa, operands: &[&[f32]], written: &[f32]) -> UnitStats {
        let mut unit = UnitStats::new(operands.len());
        for start in (0..LEN).step_by(CELL) {
            let mut cell = UnitStats::new(operands.len());
            for start in (start..LEN.min(start + CELL)).step_by(BLOCK) {
                let range = start..LEN.min(start + BLOCK);
                let blocks: Vec<_> = operands.iter().map(|x| &x[range.clone()]).collect();
                cell.add_block(isa, &blocks, Float::F32, &bytes(&written[range]));
            }
            unit.merge_next(&cell);
        }
        unit
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
        a.iter().zip(b).filter(|(a, b)| a.is_finite() && b.is_finite()).map(product).sum()
    }

    fn near(got: f64, want: f64, scale: f64) {
        assert!((got - want).abs() <= 1e-6 * scale, "{got} {want}");
    }

    #[test]
    fn sums_are_those_of_f64_on_every_isa() {
        let (a, b) = (operand(1, 0.05), operand(2, 0.05));
        let delta: Vec<f32> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
        let want = stats(Isa::best(), &[&a, &b], &b);
        for isa in Isa::available() {
            let got = stats(isa, &[&a, &b], &b);
            assert_eq!(got, want, "{}", isa.name());
        }
        assert_eq!((want.elements, want.nonfinite_out), (LEN as u64, 0));
        assert_eq!(want.nonfinite, [0, 0]);
        let scale = dot(&a, &a);
        near(want.norm2[0], dot(&a, &a), scale);
        near(want.norm2[1], dot(&b, &b), scale);
        near(want.dot[1], dot(&a, &b), scale);
        near(want.delta2[1], dot(&delta, &delta), scale);
        assert_eq!((want.dot[0].to_bits(), want.delta2[0]), (want.norm2[0].to_bits(), 0.0));
    }

    #[test]
    fn huge_values_do_not_overflow_and_non_finite_ones_are_counted_and_left_out() {
        let (mut a, mut b) = (operand(1, 3e38), operand(2, 0.05));
        (a[7], a[BLOCK], a[LEN - 1]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        b[8] = f32::NAN;
        for isa in Isa::available() {
            let got = stats(isa, &[&a, &b], &a);
            assert_eq!(got.nonfinite, [3, 1], "{}", isa.name());
            assert_eq!((got.nonfinite_out, got.changed), (3, 0), "{}", isa.name());
            near(got.norm2[0], dot(&a, &a), dot(&a, &a));
            near(got.norm2[1], dot(&b, &b), dot(&b, &b));
            // Beside values of 1e38 those of b vanish; a[8] has no partner.
            let delta2 = dot(&a, &a) - f64::from(a[8]).powi(2);
            near(got.delta2[1], delta2, delta2);
            assert!((got.dot[1] - dot(&a, &b)).abs() < 1e-6 * (dot(&a, &a) * dot(&b, &b)).sqrt());
        }
    }

    #[test]
    fn changed_is_by_bits_but_for_nans() {
        let a = [0.0, 0.0, f32::NAN, f32::NAN, 1.0, f32::INFINITY];
        let b = [0.0, -0.0, -f32::NAN, 1.0, 1.0, f32::NEG_INFINITY];
        for isa in Isa::available() {
            let written = |x: &[f32], y: &[f32]| isa.written(Float::F32, &bytes(x), y);
            assert_eq!(written(&a, &b), Written { changed: 3, nonfinite: 3 }, "{}", isa.name());
            assert_eq!(written(&b, &a), Written { changed: 3, nonfinite: 2 }, "{}", isa.name());
            assert_eq!(isa.count_nonfinite(&a), 3, "{}", isa.name());
        }
    }

    #[test]
    fn tiny_deltas_of_large_operands_survive() {
        let a = [1024.0_f32; BLOCK];
        let b = a.map(f32::next_up);
        let mut stats = UnitStats::new(2);
        stats.add_block(Isa::best(), &[&a, &b], Float::F32, &bytes(&b));
        let ulp = f64::from(1024.0_f32.next_up()) - 1024.0;
        assert_eq!(stats.delta2[1].to_bits(), (ulp * ulp * BLOCK as f64).to_bits());
    }
}
