//! Sweeps of rotations of neighbouring rows, applied many at a time.

#![allow(clippy::inline_always, clippy::needless_range_loop)]

use super::engine::Engine;
use crate::simd::Body;

/// Elements of every vector that rotations are applied to at a time.
const STRIP: usize = 16;
/// Sweeps that are applied side by side.
const TOGETHER: usize = 4;
/// Rotations of neighbouring rows, from the last pair of a sweep to the first.
#[derive(Default)]
pub struct Sweeps {
    /// The upper row of the first pair, and how many pairs.
    pub starts: Vec<(usize, usize)>,
    /// Cosine and sine.
    pub turns: Vec<[f64; 2]>,
}

impl Sweeps {
    /// None again.
    pub fn clear(&mut self) {
        self.starts.clear();
        self.turns.clear();
    }
}

/// The upper row of the first pair, and a rotation for this and every pair above it.
type Sweep<'a> = (usize, &'a [[f64; 2]]);
/// A part of some rows.
type Strip = [f64; STRIP];

/// Applies the rotations of one sweep.
#[inline(always)]
fn turn(strip: &mut [Strip], (start, turns): Sweep) {
    // The upper row of a pair is the lower one of the next.
    let mut lower = strip[start + 1];
    for (i, turn) in turns.iter().enumerate() {
        strip[start - i + 1] = pair(strip[start - i], &mut lower, *turn);
    }
    strip[start + 1 - turns.len()] = lower;
}

/// Applies sweeps one after the other, where all of them turn side by side: each is a row below the
/// one before, whose rows it takes over as they are made.
#[inline(always)]
fn turn_together(strip: &mut [Strip], sweeps: &[Sweep; TOGETHER]) {
    let mut range = 0..usize::MAX;
    for (k, (start, turns)) in sweeps.iter().enumerate() {
        range.end = range.end.min((start + 1).saturating_sub(k));
        range.start = range.start.max((start + 1 - turns.len()).saturating_sub(k));
    }
    if range.is_empty() {
        for sweep in sweeps {
            turn(strip, *sweep);
        }
        return;
    }
    let mut below = [&[][..]; TOGETHER];
    for (k, (start, turns)) in sweeps.iter().enumerate() {
        let (before, rest) = turns.split_at(start + 1 - (range.end + k));
        turn(strip, (*start, before));
        below[k] = rest;
    }
    let mut lower = [[0.0; STRIP]; TOGETHER];
    for k in 0..TOGETHER {
        lower[k] = strip[range.end + k];
    }
    let turns = below.map(|turns| &turns[..range.len()]);
    for (i, at) in range.clone().rev().enumerate() {
        let mut row = strip[at];
        for k in 0..TOGETHER {
            row = pair(row, &mut lower[k], turns[k][i]);
        }
        strip[at + TOGETHER] = row;
    }
    for k in 0..TOGETHER {
        strip[range.start + k] = lower[k];
    }
    for (k, turns) in below.iter().enumerate() {
        let rest = &turns[range.len()..];
        if !rest.is_empty() {
            turn(strip, (range.start + k - 1, rest));
        }
    }
}

/// Turns a pair of rows; gives the new lower one, and leaves the new upper one in `lower`.
#[inline(always)]
fn pair(upper: Strip, lower: &mut Strip, [c, s]: [f64; 2]) -> Strip {
    let mut turned = [0.0; STRIP];
    for lane in 0..STRIP {
        turned[lane] = s * upper[lane] + c * lower[lane];
        lower[lane] = c * upper[lane] - s * lower[lane];
    }
    turned
}

/// Applies sweeps of rotations to rows, a strip of columns at a time, which stays in the cache.
pub struct Turn<'a> {
    /// Asked whether to stop.
    pub engine: &'a Engine<'a>,
    /// What is applied.
    pub sweeps: &'a Sweeps,
    /// To what: square.
    pub vectors: &'a mut [f64],
    /// Rows, and elements of a row.
    pub n: usize,
}

impl Body for Turn<'_> {
    /// `None` if stopped or out of memory.
    type Output = Option<()>;

    #[inline(always)]
    fn run(self) -> Option<()> {
        let n = self.n;
        let mut strip = self.engine.zeros::<Strip>(n)?;
        for first in (0..n).step_by(STRIP) {
            if self.engine.stopped() {
                return None;
            }
            let width = STRIP.min(n - first);
            for (to, row) in strip.iter_mut().zip(self.vectors.chunks_exact(n)) {
                to[..width].copy_from_slice(&row[first..first + width]);
            }
            let mut turns = self.sweeps.turns.as_slice();
            let mut waiting: [Sweep; TOGETHER] = [(0, &[]); TOGETHER];
            for (i, (start, count)) in self.sweeps.starts.iter().enumerate() {
                let (now, rest) = turns.split_at(*count);
                turns = rest;
                waiting[i % TOGETHER] = (*start, now);
                if i % TOGETHER + 1 == TOGETHER {
                    turn_together(&mut strip, &waiting);
                } else if i + 1 == self.sweeps.starts.len() {
                    for sweep in &waiting[..=i % TOGETHER] {
                        turn(&mut strip, *sweep);
                    }
                }
            }
            for (from, row) in strip.iter().zip(self.vectors.chunks_exact_mut(n)) {
                row[first..first + width].copy_from_slice(&from[..width]);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::noise;
    use crate::simd::Isa;

    #[test]
    fn sweeps_side_by_side_are_sweeps_one_after_the_other() {
        let n = 40;
        let mut words = vec![0; n * STRIP + 400];
        noise::words(Isa::best(), 4, 0, &mut words);
        let values: Vec<f64> =
            words.iter().map(|word| f64::from(word.cast_signed()) / 2_147_483_648.0).collect();
        let strip: Vec<Strip> = values.as_chunks().0[..n].to_vec();
        let turns: Vec<[f64; 2]> = values[n * STRIP..].as_chunks().0.to_vec();
        // Upper rows of the first pairs, and how many pairs: all along, staggered, next to nothing.
        for each in [
            [(38, 39), (38, 39), (38, 39), (38, 39)],
            [(38, 30), (35, 36), (38, 20), (30, 31)],
            [(38, 3), (38, 39), (20, 5), (38, 38)],
            [(38, 0), (2, 3), (1, 2), (0, 1)],
            [(9, 10), (38, 20), (20, 21), (38, 1)],
        ] {
            let sweeps = each.map(|(start, count)| (start, &turns[start..start + count]));
            let (mut got, mut want) = (strip.clone(), strip.clone());
            turn_together(&mut got, &sweeps);
            for sweep in sweeps {
                turn(&mut want, sweep);
            }
            assert_eq!(got, want, "{each:?}");
        }
    }
}
