//! One set of the largest on the way to its end.

#![allow(clippy::inline_always)]
#![allow(clippy::cast_sign_loss)] // shares of a length are not negative

use std::ops::Range;

use super::sample::{SAMPLE, Sample};
use super::tally::{FEWEST, Found, MET, Tally, most};
use crate::simd::{Body, Isa};

/// How many passes are enough for any stream: a sample, a guess, the upper and the lower bits, and
/// two for the place of the last of many equals.
pub const PASSES: usize = 6;
/// How many are enough where only the smallest magnitude of a set is wanted, not its members.
pub const PASSES_FOR_VALUE: usize = PASSES - 2;
/// The longest stream: counts of one bin are 32 bits wide.
pub const LONGEST: u64 = u32::MAX as u64;

/// Where the set of the largest ends: all above `bits` are in it, and those that equal `bits` if
/// their index is below `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The smallest magnitude in the set.
    pub bits: u32,
    /// Where those that equal it stop to be in it.
    pub end: u64,
}

impl Cut {
    /// It as two numbers.
    #[must_use]
    pub fn numbers(self) -> [u64; 2] {
        [self.bits.into(), self.end]
    }

    /// The one that two numbers say, if a stream of so many elements can have it.
    #[must_use]
    pub fn of([bits, end]: [u64; 2], elements: u64) -> Option<Self> {
        let bits = i32::try_from(bits).ok()?.cast_unsigned();
        (end <= elements || end == Self::ALL.end).then_some(Self { bits, end })
    }

    /// The set of all.
    const ALL: Self = Self { bits: 0, end: u64::MAX };
    /// The empty set.
    pub const NONE: Self = Self { bits: i32::MAX as u32, end: 0 };
}

/// A set of the largest, on the way to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The stream it is of.
    pub stream: usize,
    rank: u64,
    elements: u64,
    /// Whether its members are wanted, and not only the smallest magnitude of them.
    members: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// The end lies between these magnitudes; surely, if they are all there are.
    Magnitudes(Span),
    /// The end lies among those that equal `bits`, `left` of which are in the set: between these
    /// indices.
    Equals { bits: u32, left: u64, span: Span },
    /// It is known.
    Known(Cut),
}

/// The numbers `low..=high`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    low: u64,
    high: u64,
}

impl Span {
    /// The numbers of a bin that a tally found.
    fn inside(self, found: Found) -> Self {
        let low = self.low + (u64::from(found.bin) << found.shift);
        Self { low, high: self.high.min(low + (1 << found.shift) - 1) }
    }
}

/// Bytes that samples and tallies of a unit take at most.
#[must_use]
pub fn kept_bytes(streams: u64, targets: u64) -> u64 {
    // Before the bins of many places are counted together, and once more while the end is searched.
    streams * SAMPLE * size_of::<u32>() as u64
        + (2 * targets + 2) * most(targets) * size_of::<(u32, u32)>() as u64
}

/// Bytes that those of one worker take at most.
#[must_use]
pub fn state_bytes(targets: u64) -> u64 {
    targets * (2 * FEWEST * size_of::<(u32, u32)>() as u64 + 4 * MET as u64)
}

impl Target {
    /// The `rank` largest of a stream.
    #[must_use]
    pub fn new(stream: usize, rank: u64, sample: &Sample) -> Self {
        let known = match rank {
            0 => Some(Cut::NONE),
            rank => (rank >= sample.elements).then_some(Cut::ALL),
        };
        Self { stream, ..Self::of(rank, sample, known) }
    }

    /// The element of this rank from above, the largest being the first: [`Cut::bits`] of its cut.
    #[must_use]
    pub fn value(rank: u64, sample: &Sample) -> Self {
        let known = (rank == 0 || rank > sample.elements).then_some(Cut::NONE);
        Self { members: false, ..Self::of(rank, sample, known) }
    }

    fn of(rank: u64, sample: &Sample, known: Option<Cut>) -> Self {
        let elements = sample.elements;
        let sampled = &sample.magnitudes;
        let stage = match known {
            Some(cut) => Stage::Known(cut),
            None if sampled.len() as u64 == elements => Stage::Known(among(rank, sampled)),
            None => {
                let [low, high] = guess(rank as f64 / elements as f64, sampled);
                Stage::Magnitudes(Span { low: low.into(), high: high.into() })
            }
        };
        Self { stream: 0, rank, elements, members: true, stage }
    }

    /// Its end, once it is known.
    #[must_use]
    pub fn cut(&self) -> Option<Cut> {
        match self.stage {
            Stage::Known(cut) => Some(cut),
            _ => None,
        }
    }

    /// Where the next pass has something to see.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        match self.stage {
            Stage::Magnitudes(_) => 0..self.elements,
            Stage::Equals { span, .. } => span.low..span.high + 1,
            Stage::Known(_) => 0..0,
        }
    }

    /// Counts some of its stream.
    pub fn count(&self, isa: &Isa, first: u64, magnitudes: &[u32], tally: &mut Tally) {
        if tally.places.is_empty() {
            tally.places.push((first, 0));
        }
        match self.stage {
            Stage::Magnitudes(span) => {
                let (low, width) = (span.low as u32, (span.high - span.low) as u32);
                isa.run(Count { low, width, magnitudes, tally });
            }
            Stage::Equals { bits, span, .. } => {
                for (i, _) in magnitudes.iter().enumerate().filter(|(_, m)| **m == bits) {
                    let at = first + i as u64;
                    if (span.low..=span.high).contains(&at) {
                        tally.meet(&[(at - span.low) as u32]);
                    }
                }
            }
            Stage::Known(_) => {}
        }
    }

    /// What a pass taught.
    #[must_use]
    pub fn learn(&self, tally: &Tally) -> Self {
        let stage = match self.stage {
            Stage::Magnitudes(span) => self.after_magnitudes(span, tally),
            Stage::Equals { bits, left, span } => {
                let found = tally.find(left, false).unwrap_or_default();
                let span = span.inside(found);
                if found.shift > 0 {
                    Stage::Equals { bits, left: left - found.before, span }
                } else {
                    Stage::Known(Cut { bits, end: span.low + 1 })
                }
            }
            known @ Stage::Known(_) => known,
        };
        Self { stage, ..*self }
    }

    fn after_magnitudes(&self, span: Span, tally: &Tally) -> Stage {
        let Some(found) = tally.find(self.rank, true) else {
            return Stage::Magnitudes(Span { low: 0, high: i32::MAX as u64 }); // the guess missed
        };
        let span = span.inside(found);
        if found.shift > 0 {
            return Stage::Magnitudes(span);
        }
        let (end, left) = (span.low as u32, self.rank - found.before);
        // Which of many zeros are kept makes no difference.
        if end == 0 || left == found.count || !self.members {
            return Stage::Known(Cut { bits: end, ..Cut::ALL });
        }
        let (place, before) = tally.place(found.bin, left, self.elements);
        let span = Span { low: place.start, high: place.end - 1 };
        Stage::Equals { bits: end, left: left - before, span }
    }
}

/// The end of the `rank` largest of all `magnitudes`.
fn among(rank: u64, magnitudes: &[u32]) -> Cut {
    let mut sorted = magnitudes.to_vec();
    let at = magnitudes.len() - rank as usize;
    let (_, &mut bits, largest) = sorted.select_nth_unstable(at);
    let left = rank as usize - largest.iter().filter(|m| **m > bits).count();
    let mut equals = magnitudes.iter().enumerate().filter(|(_, m)| **m == bits);
    match equals.nth(left - 1) {
        Some((last, _)) if bits > 0 => Cut { bits, end: last as u64 + 1 },
        _ => Cut { bits, ..Cut::ALL },
    }
}

/// Between which magnitudes the end of a `share` should lie: four standard deviations of the sample
/// on either side, for neighbours are alike.
fn guess(share: f64, sample: &[u32]) -> [u32; 2] {
    let mut sorted = sample.to_vec();
    let n = sample.len() as f64;
    let spread = 4.0 * (n * share * (1.0 - share)).sqrt() + 1.0;
    let mut from_below = |rank: f64, beyond: u32| {
        let inside = (0.0..n).contains(&rank);
        if inside { *sorted.select_nth_unstable(rank as usize).1 } else { beyond }
    };
    let at = n * (1.0 - share);
    [from_below(at - spread, 0), from_below(at + spread, i32::MAX as u32)]
}

struct Count<'a> {
    low: u32,
    width: u32,
    magnitudes: &'a [u32],
    tally: &'a mut Tally,
}

/// Magnitudes that are compared side by side: in most rows none is of interest.
const ROW: usize = 32;

impl Body for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { low, width, magnitudes, tally } = self;
        let high = (low + width).cast_signed(); // all are of 31 bits
        let mut above = [0_u32; ROW];
        let (rows, rest) = magnitudes.as_chunks::<ROW>();
        for row in rows {
            let mut inside = false;
            for lane in 0..ROW {
                above[lane] += u32::from(row[lane].cast_signed() > high);
                inside |= row[lane].wrapping_sub(low) <= width;
            }
            if inside {
                // Without a branch: every one is written, and stays if it is inside.
                let (mut met, mut end) = ([0; ROW], 0);
                for m in row {
                    let bin = m.wrapping_sub(low);
                    met[end % ROW] = bin;
                    end += usize::from(bin <= width);
                }
                tally.meet(&met[..end]);
            }
        }
        for m in rest {
            above[0] += u32::from(m.cast_signed() > high);
            let bin = m.wrapping_sub(low);
            if bin <= width {
                tally.meet(&[bin]);
            }
        }
        tally.above += above.iter().copied().map(u64::from).sum::<u64>();
    }
}

#[cfg(test)]
mod tests;
