//! How many directions a matrix has, from one pass over its rows.
//!
//! The participation ratio of the singular values, `(sum s^2)^2 / sum s^4`, is 1 for a matrix of rank
//! one, `r` for `r` equal singular values, and `nm / (n + m)` for noise of shape (n, m). It is
//! estimated from two independent count sketches of the rows (Charikar, Chen and Farach-Colton 2002):
//! column `c` is added with a random sign to one of 32 buckets, `Y = D S` and `Z = D T`. With
//! `E S S' = E T T' = 1`, `|Y|^2` and `|Z|^2` both have the mean `|D|^2 = sum s^2`, and `|Y' Z|^2` has
//! the mean `|D' D|^2 = sum s^4` exactly, as S and T are independent. The estimate
//! `|Y|^2 |Z|^2 / |Y' Z|^2` is the ratio of the three: exact for rank one, never less than 1, and
//! biased only as a ratio of means is. Signs are Philox words of keys 0 and 1, counter = column, the
//! same for every matrix. S puts column `c` into bucket `c % 32`; T turns the buckets by 8 every 32
//! columns, so that columns which share one bucket are apart in the other.

use std::sync::OnceLock;

use serde::Serialize;

use super::grid::CELL;
use crate::math::noise;
use crate::simd::{BLOCK, Body, Isa, LANES, Lanes, total};

/// By how much T turns its buckets, and after how many columns they are back.
const TURN: usize = 8;
const ROUND: usize = LANES * LANES / TURN;
const _: () = assert!(BLOCK.is_multiple_of(ROUND), "a piece starts at the first bucket");

/// The sketches of one matrix, or of some rows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    /// The row that is being read.
    row: [Lanes; 2],
    /// `|Y|^2` and `|Z|^2`.
    sizes: [f64; 2],
    /// `Y' Z` of the cell that is being read, in f32.
    cell: Vec<Lanes>,
    /// `Y' Z` of the cells before.
    cross: Vec<f64>,
}

/// What the sketches of a matrix say of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// `|Y|^2 |Z|^2`.
    pub sizes: f64,
    /// `|Y' Z|^2`.
    pub cross: f64,
}

impl Default for Sketch {
    fn default() -> Self {
        let (row, cell) = ([[0.0; LANES]; 2], vec![[0.0; LANES]; LANES]);
        Self { row, sizes: [0.0; 2], cell, cross: Vec::new() }
    }
}

impl Sketch {
    /// Bytes that one takes.
    pub const BYTES: u64 = (size_of::<Self>() + LANES * LANES * size_of::<f64>()) as u64;

    /// Adds `x - reference`, elements of one row from `column` on, a multiple of [`BLOCK`].
    pub fn fold(&mut self, isa: &Isa, x: &[f32], reference: &[f32], column: usize) {
        let columns = column..column + x.len();
        let signs = signs().each_ref().map(|signs| &signs[columns.clone()]);
        isa.run(Fold { x, reference, signs, row: &mut self.row });
    }

    /// Makes the row that of the difference of two matrices: sketches are linear.
    pub fn difference(&mut self, x: &Self, reference: &Self) {
        for (row, (x, r)) in self.row.iter_mut().zip(x.row.iter().zip(&reference.row)) {
            *row = std::array::from_fn(|lane| x[lane] - r[lane]);
        }
    }

    /// Ends a row.
    pub fn end_row(&mut self, isa: &Isa) {
        for (size, row) in self.sizes.iter_mut().zip(&self.row) {
            *size += total(&row.map(|x| x * x));
        }
        isa.run(Outer { row: &self.row, cross: &mut self.cell });
        self.row = [[0.0; LANES]; 2];
    }

    /// Ends a cell.
    pub fn end_cell(&mut self) {
        let cell = std::mem::take(&mut self.cell);
        self.cross = cell.iter().flatten().copied().map(f64::from).collect();
    }

    /// Adds the sketch of the next cell.
    pub fn merge_next(&mut self, next: &Self) {
        self.sizes.iter_mut().zip(&next.sizes).for_each(|(sum, next)| *sum += next);
        self.cross.iter_mut().zip(&next.cross).for_each(|(sum, next)| *sum += next);
    }

    /// What it says.
    #[must_use]
    pub fn spread(&self) -> Spread {
        Spread {
            sizes: self.sizes[0] * self.sizes[1],
            cross: self.cross.iter().map(|x| x * x).sum(),
        }
    }
}

/// The sign bits of the columns, for S and for T.
fn signs() -> &'static [Vec<u32>; 2] {
    static SIGNS: OnceLock<[Vec<u32>; 2]> = OnceLock::new();
    SIGNS.get_or_init(|| {
        [0, 1].map(|key| {
            let mut words = vec![0; CELL];
            noise::words(Isa::best(), key, 0, &mut words);
            words.iter().map(|word| word & (1 << 31)).collect()
        })
    })
}

struct Fold<'a> {
    x: &'a [f32],
    reference: &'a [f32],
    signs: [&'a [u32]; 2],
    row: &'a mut [Lanes; 2],
}

impl Body for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Fold { x, reference, signs: [s, t], row } = self;
        let mut rows = *row;
        let whole = x.len() / ROUND * ROUND;
        for at in (0..whole).step_by(ROUND) {
            step::<0>(x, reference, [s, t], at, &mut rows);
            step::<1>(x, reference, [s, t], at, &mut rows);
            step::<2>(x, reference, [s, t], at, &mut rows);
            step::<3>(x, reference, [s, t], at, &mut rows);
        }
        for at in whole..x.len() {
            let delta = (x[at] - reference[at]).to_bits();
            let lane = at % LANES;
            rows[0][lane] += f32::from_bits(delta ^ s[at]);
            rows[1][(lane + (at - whole) / LANES * TURN) % LANES] += f32::from_bits(delta ^ t[at]);
        }
        *row = rows;
    }
}

/// Adds the columns of one turn of a round that begins at `at`.
#[inline(always)]
fn step<const BY: usize>(
    x: &[f32],
    reference: &[f32],
    signs: [&[u32]; 2],
    at: usize,
    rows: &mut [Lanes; 2],
) {
    let first = at + BY * LANES;
    let (x, reference) = (&x[first..first + LANES], &reference[first..first + LANES]);
    let [s, t] = signs.map(|signs| &signs[first..first + LANES]);
    let mut deltas = [0; LANES];
    for lane in 0..LANES {
        deltas[lane] = (x[lane] - reference[lane]).to_bits();
    }
    for lane in 0..LANES {
        rows[0][lane] += f32::from_bits(deltas[lane] ^ s[lane]);
    }
    for turned in (0..LANES).step_by(TURN) {
        let bucket = (turned + BY * TURN) % LANES;
        for lane in 0..TURN {
            rows[1][bucket + lane] += f32::from_bits(deltas[turned + lane] ^ t[turned + lane]);
        }
    }
}

/// `cross += y z'`.
struct Outer<'a> {
    row: &'a [Lanes; 2],
    cross: &'a mut [Lanes],
}

impl Body for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [y, z] = *self.row;
        for (cross, y) in self.cross.iter_mut().zip(y) {
            // By value, so that lanes are what is worked on side by side, and not rows.
            let mut sums = *cross;
            for lane in 0..LANES {
                sums[lane] += y * z[lane];
            }
            *cross = sums;
        }
    }
}
