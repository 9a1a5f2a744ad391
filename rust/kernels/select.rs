//! The largest magnitudes of a stream, exactly, without holding the stream.
//!
//! "The `rank` largest" are the first `rank` elements in the order of falling magnitude, and of
//! rising index among equals: there is always exactly one such set. The bits of an f32 without its
//! sign are ordered like its magnitude (NaN above infinity), so the set is found by counting bits:
//!
//! 1. Every eighth magnitude is counted, by its upper 16 bits: a guess of where the last element
//!    that belongs to the set will lie, and the number of elements.
//! 2. All magnitudes above the guess are counted, those inside one by one. If the guess missed, all
//!    are counted by their upper bits, and then those in the right bin by their lower ones.
//! 3. If only a part of those that equal the smallest magnitude of the set belongs to it, they are
//!    counted block by block, so that the rest of the rule can be applied where the block is seen.
//!
//! The guess decides how often one must look, never what is found.

#![allow(clippy::inline_always)]
#![allow(clippy::cast_sign_loss)] // shares of a length are not negative

use crate::simd::{BLOCK, Body, Isa};

/// The most numbers counted apart at once.
const BINS: u64 = 1 << 17;
/// Only each so many-th element is counted in the first look.
const SAMPLE: usize = 8;
/// How many values of the magnitude's 31 bits fall together in a look at its upper ones: 2 to this.
const LOWER: u32 = 15;
/// Elements of a [`BLOCK`]: 2 to this.
const BLOCK_SHIFT: u32 = BLOCK.ilog2();

/// How many looks are enough for any stream: a sample, a guess, the upper and the lower bits, and
/// two for the place of the last of many equals.
pub const LOOKS: usize = 6;
/// How many are enough where only the smallest magnitude of a set is wanted, not its members.
pub const LOOKS_FOR_VALUE: usize = LOOKS - 2;
/// The longest stream: counts of one bin are 32 bits wide.
pub const LONGEST: u64 = u32::MAX as u64;

/// Where the set of the largest ends: all above `bits` are in it, and those that equal `bits` if
/// they come before `block`, or in the block that starts there before `left` others were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The smallest magnitude in the set.
    pub bits: u32,
    block: u64,
    left: u64,
}

/// A set of the largest, on the way to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The stream it is of.
    pub stream: usize,
    rank: u64,
    /// Whether its members are wanted, and not only the smallest magnitude of them.
    members: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// The end lies in these bins of magnitudes; surely, if they hold them all.
    Magnitudes(Bins),
    /// The end lies among those that equal `bits`, `left` of which are in the set: in these bins
    /// of indices.
    Equals { bits: u32, left: u64, bins: Bins },
    /// It is known.
    Known(Cut),
}

/// `count` bins, each of 2 to the `shift` numbers, from `low` on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bins {
    low: u64,
    shift: u32,
    count: u64,
}

impl Bins {
    /// All magnitudes, by their upper bits.
    const ALL: Self = Self { low: 0, shift: LOWER, count: 1 << (31 - LOWER) };

    /// The numbers `low..=high`, in as narrow bins as there can be.
    fn over(low: u64, high: u64, narrowest: u32) -> Self {
        let mut shift = narrowest;
        while (high - low) >> shift >= BINS {
            shift += 1;
        }
        Self { low, shift, count: ((high - low) >> shift) + 1 }
    }

    /// Those of one bin.
    fn inside(self, bin: u64, narrowest: u32) -> Self {
        let low = self.low + (bin << self.shift);
        Self::over(low, low + (1 << self.shift) - 1, narrowest)
    }
}

/// What was counted for one target, or of one stream in the first look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Elements seen.
    seen: u64,
    /// How many lie above all bins.
    above: u64,
    /// How many lie in each; empty as long as none does.
    bins: Vec<u32>,
    /// Bins that were met, one entry for each time: moved into `bins` when they become many.
    met: Vec<u32>,
}

/// Bins met before they are added up: most stretches hold few elements of a guess.
const MET: usize = 1 << 13;

impl Tally {
    fn meet(&mut self, bin: u32) {
        self.met.push(bin);
        if self.met.len() >= MET {
            self.settle();
        }
    }

    /// Adds up the bins that were met.
    fn settle(&mut self) {
        let count = self.met.iter().max().map_or(0, |bin| *bin as usize + 1);
        self.bins.resize(self.bins.len().max(count), 0);
        self.met.drain(..).for_each(|bin| self.bins[bin as usize] += 1);
    }

    /// Adds another tally of the same target.
    pub fn merge(&mut self, other: &Self) {
        self.seen += other.seen;
        self.above += other.above;
        self.bins.resize(self.bins.len().max(other.bins.len()), 0);
        self.bins.iter_mut().zip(&other.bins).for_each(|(bin, other)| *bin += other);
        self.met.extend(&other.met);
        self.settle();
    }

    /// The first look at a stretch of a stream.
    pub fn sample(&mut self, magnitudes: &[u32]) {
        self.seen += magnitudes.len() as u64;
        self.bins.resize(Bins::ALL.count as usize, 0);
        magnitudes.iter().step_by(SAMPLE).for_each(|m| self.bins[(m >> LOWER) as usize] += 1);
    }

    /// How many elements the whole stream has.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The bin in which the element of this rank from above lies (the first has rank 1), and how
    /// many lie above that bin; `None` if it lies elsewhere.
    fn find(&self, rank: u64, from_above: bool) -> Option<(u64, u64)> {
        let mut before = self.above;
        let bin = |i: usize| if from_above { self.bins.len() - 1 - i } else { i };
        if before >= rank {
            return None;
        }
        for i in 0..self.bins.len() {
            let count = u64::from(self.bins[bin(i)]);
            if before + count >= rank {
                return Some((bin(i) as u64, before));
            }
            before += count;
        }
        None
    }
}

/// Bytes that the tallies of one target take at most.
pub const TALLY_BYTES: u64 = (BINS + MET as u64) * size_of::<u32>() as u64;

impl Cut {
    const ALL: Self = Self { bits: 0, block: u64::MAX, left: 0 };
    const NONE: Self = Self { bits: i32::MAX as u32, block: 0, left: 0 };

    /// How many elements of the block that starts at `first` come before the place from which on
    /// those that equal [`Cut::bits`] are no longer in the set.
    #[must_use]
    pub fn place(&self, first: u64, len: usize, magnitude: impl Fn(usize) -> u32) -> usize {
        if first < self.block {
            return len;
        }
        let mut left = if first == self.block { self.left } else { 0 };
        for i in 0..len {
            if left == 0 {
                return i;
            }
            left -= u64::from(magnitude(i) == self.bits);
        }
        len
    }
}

impl Target {
    /// The `rank` largest of a stream, of which a sample was counted.
    #[must_use]
    pub fn new(stream: usize, rank: u64, sample: &Tally) -> Self {
        let stage = match rank {
            0 => Stage::Known(Cut::NONE),
            rank if rank >= sample.seen => Stage::Known(Cut::ALL),
            _ => Stage::Magnitudes(guess(rank, sample)),
        };
        Self { stream, rank, members: true, stage }
    }

    /// The element of this rank from above, the largest being the first: [`Cut::bits`] of its cut.
    #[must_use]
    pub fn value(stream: usize, rank: u64, sample: &Tally) -> Self {
        let known = rank == 0 || rank > sample.seen;
        let stage =
            if known { Stage::Known(Cut::NONE) } else { Stage::Magnitudes(guess(rank, sample)) };
        Self { stream, rank, members: false, stage }
    }

    /// Its end, once it is known.
    #[must_use]
    pub fn cut(&self) -> Option<Cut> {
        match self.stage {
            Stage::Known(cut) => Some(cut),
            _ => None,
        }
    }

    /// Another look at a stretch of its stream: at most a block of a grid of blocks.
    pub fn count(&self, isa: &Isa, first: u64, magnitudes: &[u32], tally: &mut Tally) {
        tally.seen += magnitudes.len() as u64;
        match self.stage {
            Stage::Magnitudes(bins) => isa.run(Count { bins, magnitudes, tally }),
            Stage::Equals { bits, bins, .. } => {
                let Some(bin) = first.checked_sub(bins.low).map(|at| at >> bins.shift) else {
                    return;
                };
                if bin < bins.count {
                    tally.bins.resize(bins.count as usize, 0);
                    tally.bins[bin as usize] += isa.run(Equal { bits, magnitudes });
                }
            }
            Stage::Known(_) => {}
        }
    }

    /// What the look taught.
    #[must_use]
    pub fn learn(&self, tally: &Tally) -> Self {
        let mut tally = tally.clone();
        tally.settle();
        let stage = match self.stage {
            Stage::Magnitudes(bins) => self.after_magnitudes(bins, &tally),
            Stage::Equals { bits, left, bins } => {
                let (bin, before) = tally.find(left, false).unwrap_or_default();
                let left = left - before;
                if bins.shift > BLOCK_SHIFT {
                    Stage::Equals { bits, left, bins: bins.inside(bin, BLOCK_SHIFT) }
                } else {
                    let block = bins.low + (bin << bins.shift);
                    Stage::Known(Cut { bits, block, left })
                }
            }
            known @ Stage::Known(_) => known,
        };
        Self { stage, ..*self }
    }

    fn after_magnitudes(&self, bins: Bins, tally: &Tally) -> Stage {
        let Some((bin, above)) = tally.find(self.rank, true) else {
            return Stage::Magnitudes(Bins::ALL); // the guess missed
        };
        if bins.shift > 0 {
            return Stage::Magnitudes(bins.inside(bin, 0));
        }
        let (end, left) = ((bins.low + bin) as u32, self.rank - above);
        // Which of many zeros are kept makes no difference.
        let all = left == u64::from(tally.bins[bin as usize]);
        if end == 0 || all || !self.members {
            return Stage::Known(Cut { bits: end, ..Cut::ALL });
        }
        let bins = Bins::over(0, tally.seen - 1, BLOCK_SHIFT);
        Stage::Equals { bits: end, left, bins }
    }
}

/// Where the element of `rank` should lie, give or take three standard deviations of the sample.
fn guess(rank: u64, sample: &Tally) -> Bins {
    let counted: u64 = sample.bins.iter().map(|bin| u64::from(*bin)).sum();
    let share = rank as f64 / sample.seen as f64;
    let (at, n) = (share * counted as f64, counted as f64);
    let spread = 3.0 * (n * share * (1.0 - share)).sqrt() + 1.0;
    let upper = ((at - spread).max(0.0) as u64).max(1);
    let lower = ((at + spread).ceil() as u64).min(counted);
    let bin = |rank| sample.find(rank, true).map_or(0, |(bin, _)| bin);
    Bins::over(bin(lower) << LOWER, ((bin(upper) + 1) << LOWER) - 1, 0)
}

struct Count<'a> {
    bins: Bins,
    magnitudes: &'a [u32],
    tally: &'a mut Tally,
}

impl Body for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const ROW: usize = 16;
        let Self { bins: Bins { low, shift, count }, magnitudes, tally } = self;
        // Both fit the 31 bits of a magnitude.
        let (low, width) = (low as u32, (count << shift) as u32);
        let mut above = 0;
        for row in magnitudes.chunks(ROW) {
            let mut inside = 0;
            for m in row {
                above += u32::from(*m >= low + width);
                inside += u32::from(m.wrapping_sub(low) < width);
            }
            if inside > 0 {
                for m in row.iter().filter(|m| m.wrapping_sub(low) < width) {
                    tally.meet((m - low) >> shift);
                }
            }
        }
        tally.above += u64::from(above);
    }
}

struct Equal<'a> {
    bits: u32,
    magnitudes: &'a [u32],
}

impl Body for Equal<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        self.magnitudes.iter().map(|m| u32::from(*m == self.bits)).sum()
    }
}

#[cfg(test)]
mod tests;
