//! Counts of magnitudes, sparse and in order.

use std::ops::Range;

use super::most;

/// Hits that are kept before they are counted.
pub(super) const MET: usize = 1 << 16;

/// What was counted for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// The most bins there can be.
    most: u64,
    /// How many lie above all bins.
    pub(super) above: u64,
    /// Bins and how many lie in them; rising from the start of a place to its end.
    counts: Vec<(u32, u32)>,
    /// Where in the stream each place starts, and where its counts do; none if that was given up.
    pub(super) places: Vec<(u64, usize)>,
    /// Bins that were met, one entry for each time.
    pub(super) met: Vec<u32>,
    /// Whether the places were given up.
    scattered: bool,
}

impl Tally {
    /// Empty, for one of so many targets.
    #[must_use]
    pub fn new(targets: u64) -> Self {
        let (counts, places, met) = (Vec::new(), Vec::new(), Vec::new());
        Self { most: most(targets), above: 0, counts, places, met, scattered: false }
    }

    /// Adds the tally of the same target over the next place.
    pub fn merge(&mut self, next: &Self) {
        self.above += next.above;
        let start = self.counts.len();
        self.counts.extend(&next.counts);
        self.places.extend(next.places.iter().map(|(first, at)| (*first, start + at)));
        if self.counts.len() as u64 > 2 * self.most {
            self.scattered = true;
            self.gather();
        }
        if self.scattered {
            self.places.clear();
        }
    }

    /// Counts the bins that were met; nothing is lost, but what is kept becomes small.
    pub fn settle(&mut self) {
        let before = self.counts.len();
        let last = self.met.iter().max().map_or(0, |bin| *bin as usize);
        if last < self.met.len() {
            let mut counts = vec![0; last + 1];
            self.met.iter().for_each(|bin| counts[*bin as usize] += 1);
            let bins = (0..).zip(counts).filter(|(_, count)| *count > 0);
            self.counts.extend(bins);
        } else {
            self.met.sort_unstable();
            let runs = self.met.chunk_by(|a, b| a == b);
            self.counts.extend(runs.map(|run| (run[0], run.len() as u32)));
        }
        self.met.clear();
        if before > 0 {
            self.gather();
        }
    }

    /// Makes the counts of one place of all.
    fn gather(&mut self) {
        self.counts.sort_unstable_by_key(|(bin, _)| *bin);
        self.counts.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
    }

    pub(super) fn meet(&mut self, bin: u32) {
        self.met.push(bin);
        if self.met.len() >= MET {
            self.settle();
        }
    }

    /// The bin in which the element of this rank lies (the first has rank 1), how many lie before
    /// that bin and how many in it; `None` if it lies elsewhere.
    pub(super) fn find(&self, rank: u64, from_above: bool) -> Option<(u32, u64, u64)> {
        if self.above >= rank {
            return None;
        }
        let mut whole = self.clone();
        whole.gather();
        if from_above {
            whole.counts.reverse();
        }
        let mut before = self.above;
        for (bin, count) in whole.counts {
            let count = u64::from(count);
            if before + count >= rank {
                return Some((bin, before, count));
            }
            before += count;
        }
        None
    }

    /// The place of the `left`-th element of a bin in a stream of `elements`, and how many of the
    /// bin lie before it.
    pub(super) fn place(&self, bin: u32, left: u64, elements: u64) -> (Range<u64>, u64) {
        let mut before = 0;
        for (i, (first, start)) in self.places.iter().enumerate() {
            let next = self.places.get(i + 1).copied().unwrap_or((elements, self.counts.len()));
            let counts = &self.counts[*start..next.1];
            let found = counts.binary_search_by_key(&bin, |(bin, _)| *bin);
            let count = found.map_or(0, |at| u64::from(counts[at].1));
            if before + count >= left {
                return (*first..next.0, before);
            }
            before += count;
        }
        (0..elements, 0)
    }
}
