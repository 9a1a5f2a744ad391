//! The largest magnitudes of a stream, exactly, without holding the stream.
//!
//! "The `rank` largest" are the first `rank` elements in the order of falling magnitude, and of
//! rising index among equals: there is always exactly one such set. The bits of an f32 without its
//! sign are ordered like its magnitude (NaN above infinity), so the set is found by counting bits:
//!
//! 1. Short runs all over the stream are sampled: they tell between which two magnitudes the last
//!    element of the set should lie. A short stream is its own sample, and all is known.
//! 2. All magnitudes above the two are counted, those between them one by one. If the guess missed,
//!    all are counted by their upper bits, and then those in the right bin by their lower ones.
//! 3. If only a part of those that equal the smallest magnitude of the set belongs to it, the place
//!    of the last is looked for where it must be: what was counted is kept item by item.
//!
//! The guess decides how often one must look, never what is found.

#![allow(clippy::inline_always)]
#![allow(clippy::cast_sign_loss)] // shares of a length are not negative

use std::ops::Range;

pub use self::sample::{Sample, sampled};
pub use self::tally::Tally;
use crate::simd::{Body, Isa};

mod known;
mod sample;
mod tally;

/// The most bins of one target, and of all targets of a unit together.
const BINS: [u64; 2] = [1 << 19, 1 << 21];
/// The fewest bins of a target: enough to end any search in [`LOOKS`].
const FEWEST: u64 = 1 << 16;

/// How many looks are enough for any stream: a sample, a guess, the upper and the lower bits, and
/// two for the place of the last of many equals.
pub const LOOKS: usize = 6;
/// How many are enough where only the smallest magnitude of a set is wanted, not its members.
pub const LOOKS_FOR_VALUE: usize = LOOKS - 2;
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
    most: u64,
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

/// The numbers `low..=high` in bins, each of 2 to the `shift` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bins {
    low: u64,
    high: u64,
    shift: u32,
}

impl Bins {
    /// As narrow as `most` bins can be.
    fn over(low: u64, high: u64, most: u64) -> Self {
        let mut shift = 0;
        while (high - low) >> shift >= most {
            shift += 1;
        }
        Self { low, high, shift }
    }

    /// The numbers of one bin.
    fn inside(self, bin: u32, most: u64) -> Self {
        let low = self.low + (u64::from(bin) << self.shift);
        Self::over(low, self.high.min(low + (1 << self.shift) - 1), most)
    }
}

/// Bytes that samples and tallies of a unit take at most.
#[must_use]
pub fn kept_bytes(streams: u64, targets: u64) -> u64 {
    streams * sample::SAMPLE * size_of::<u32>() as u64
        + 2 * targets * most(targets) * size_of::<(u32, u32)>() as u64
}

/// Bytes that those of one worker take at most.
#[must_use]
pub fn state_bytes(targets: u64) -> u64 {
    targets * (most(targets) * size_of::<(u32, u32)>() as u64 + 4 * tally::MET as u64)
}

/// The most bins of one of so many targets.
fn most(targets: u64) -> u64 {
    (BINS[1] / targets.max(1)).clamp(FEWEST, BINS[0])
}

impl Target {
    /// The `rank` largest of a stream, one of so many `targets` that are looked for together.
    #[must_use]
    pub fn new(stream: usize, rank: u64, targets: u64, sample: &Sample) -> Self {
        let known = match rank {
            0 => Some(Cut::NONE),
            rank => (rank >= sample.elements).then_some(Cut::ALL),
        };
        Self { stream, ..Self::of(rank, targets, sample, known) }
    }

    /// The element of this rank from above, the largest being the first: [`Cut::bits`] of its cut.
    #[must_use]
    pub fn value(rank: u64, targets: u64, sample: &Sample) -> Self {
        let known = (rank == 0 || rank > sample.elements).then_some(Cut::NONE);
        Self { members: false, ..Self::of(rank, targets, sample, known) }
    }

    fn of(rank: u64, targets: u64, sample: &Sample, known: Option<Cut>) -> Self {
        let (elements, most) = (sample.elements, most(targets));
        let sampled = &sample.magnitudes;
        let stage = match known {
            Some(cut) => Stage::Known(cut),
            None if sampled.len() as u64 == elements => Stage::Known(among(rank, sampled)),
            None => {
                let [low, high] = guess(rank as f64 / elements as f64, sampled);
                Stage::Magnitudes(Bins::over(low.into(), high.into(), most))
            }
        };
        Self { stream: 0, rank, elements, most, members: true, stage }
    }

    /// Its end, once it is known.
    #[must_use]
    pub fn cut(&self) -> Option<Cut> {
        match self.stage {
            Stage::Known(cut) => Some(cut),
            _ => None,
        }
    }

    /// Where the next look has something to see.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        match self.stage {
            Stage::Magnitudes(_) => 0..self.elements,
            Stage::Equals { bins, .. } => bins.low..bins.high + 1,
            Stage::Known(_) => 0..0,
        }
    }

    /// Another look at a stretch of its stream.
    pub fn count(&self, isa: &Isa, first: u64, magnitudes: &[u32], tally: &mut Tally) {
        if tally.places.is_empty() {
            tally.places.push((first, 0));
        }
        match self.stage {
            Stage::Magnitudes(bins) => {
                let (low, width) = (bins.low as u32, (bins.high - bins.low) as u32);
                isa.run(Count { low, width, shift: bins.shift, magnitudes, tally });
            }
            Stage::Equals { bits, bins, .. } => {
                for (i, _) in magnitudes.iter().enumerate().filter(|(_, m)| **m == bits) {
                    let at = first + i as u64;
                    if (bins.low..=bins.high).contains(&at) {
                        tally.meet(((at - bins.low) >> bins.shift) as u32);
                    }
                }
            }
            Stage::Known(_) => {}
        }
    }

    /// What the look taught.
    #[must_use]
    pub fn learn(&self, tally: &Tally) -> Self {
        let stage = match self.stage {
            Stage::Magnitudes(bins) => self.after_magnitudes(bins, tally),
            Stage::Equals { bits, left, bins } => {
                let (bin, before, _) = tally.find(left, false).unwrap_or_default();
                if bins.shift > 0 {
                    let bins = bins.inside(bin, self.most);
                    Stage::Equals { bits, left: left - before, bins }
                } else {
                    Stage::Known(Cut { bits, end: bins.low + u64::from(bin) + 1 })
                }
            }
            known @ Stage::Known(_) => known,
        };
        Self { stage, ..*self }
    }

    fn after_magnitudes(&self, bins: Bins, tally: &Tally) -> Stage {
        let Some((bin, above, count)) = tally.find(self.rank, true) else {
            let all = Bins::over(0, i32::MAX as u64, self.most); // the guess missed
            return Stage::Magnitudes(all);
        };
        if bins.shift > 0 {
            return Stage::Magnitudes(bins.inside(bin, self.most));
        }
        let (end, left) = ((bins.low + u64::from(bin)) as u32, self.rank - above);
        // Which of many zeros are kept makes no difference.
        if end == 0 || left == count || !self.members {
            return Stage::Known(Cut { bits: end, ..Cut::ALL });
        }
        let (place, before) = tally.place(bin, left, self.elements);
        let bins = Bins::over(place.start, place.end - 1, self.most);
        Stage::Equals { bits: end, left: left - before, bins }
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
    shift: u32,
    magnitudes: &'a [u32],
    tally: &'a mut Tally,
}

impl Body for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { low, width, shift, magnitudes, tally } = self;
        let (mut above, mut inside) = (0_u32, 0_u32);
        for m in magnitudes {
            let over = u32::from(m.cast_signed() > (low + width).cast_signed()); // 31 bits
            above += over;
            inside += u32::from(m.cast_signed() >= low.cast_signed()) - over;
        }
        tally.above += u64::from(above);
        if inside == 0 {
            return;
        }
        // Without a branch: every one is written, and stays if it is inside.
        let mut end = tally.met.len();
        tally.met.resize(end + magnitudes.len(), 0);
        for m in magnitudes {
            let bin = m.wrapping_sub(low);
            tally.met[end] = bin >> shift;
            end += usize::from(bin <= width);
            if end == tally.met.len() {
                break;
            }
        }
        tally.met.truncate(end);
        if end >= tally::MET {
            tally.settle();
        }
    }
}

#[cfg(test)]
mod tests;
