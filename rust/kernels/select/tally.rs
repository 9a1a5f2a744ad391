//! Counts of magnitudes, sparse and in order.

use std::ops::Range;

/// The most bins that are kept of one target, and of all targets of a unit together.
const BINS: [u64; 2] = [1 << 19, 1 << 20];
/// The fewest bins of a target, and the most that a worker holds of one: enough to end any search in
/// as many passes as are made.
pub(super) const FEWEST: u64 = 1 << 16;

/// Hits that are kept before they are counted.
pub(super) const MET: usize = 1 << 14;

/// What was counted for one target: how many lie in each bin of 2 to the `shift` numbers. Bins are as
/// narrow as there is room for; they widen when more of them are met.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// The most bins of the whole stream.
    most: u64,
    shift: u32,
    /// How many lie above all bins.
    pub(super) above: u64,
    /// Bins and how many lie in them; rising from the start of a place to its end.
    counts: Vec<(u32, u32)>,
    /// Where in the stream each place starts, and where its counts do; none if that was given up.
    pub(super) places: Vec<(u64, usize)>,
    /// Numbers that were met, one entry for each time.
    met: Vec<u32>,
    /// Whether the places were given up.
    scattered: bool,
}

/// The bin an element lies in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) bin: u32,
    /// It holds 2 to this of the numbers.
    pub(super) shift: u32,
    /// How many elements lie before it.
    pub(super) before: u64,
    /// How many lie in it.
    pub(super) count: u64,
}

/// The most bins that are kept of one of so many targets.
pub(super) fn most(targets: u64) -> u64 {
    (BINS[1] / targets.max(1)).clamp(FEWEST, BINS[0])
}

impl Tally {
    /// Empty, for one of so many targets.
    #[must_use]
    pub fn new(targets: u64) -> Self {
        let (counts, places, met) = (Vec::new(), Vec::new(), Vec::new());
        Self { most: most(targets), shift: 0, above: 0, counts, places, met, scattered: false }
    }

    /// Adds the tally of the same target over the next place.
    pub fn merge(&mut self, next: &Self) {
        self.above += next.above;
        self.widen(next.shift);
        let (start, narrower) = (self.counts.len(), self.shift - next.shift);
        self.counts.extend(next.counts.iter().map(|(bin, count)| (bin >> narrower, *count)));
        self.places.extend(next.places.iter().map(|(first, at)| (*first, start + at)));
        if self.counts.len() as u64 > 2 * self.most {
            self.gather(self.most);
            self.scattered = true;
        }
        if self.scattered || self.shift > 0 {
            self.places.clear();
        }
    }

    /// Counts what was met; nothing is lost, but what is kept becomes small.
    pub fn flush(&mut self) {
        let before = self.counts.len();
        self.met.iter_mut().for_each(|number| *number >>= self.shift);
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
            self.gather(FEWEST);
        }
    }

    /// Makes the counts of one place of all, of at most so many bins.
    fn gather(&mut self, most: u64) {
        self.counts.sort_unstable_by_key(|(bin, _)| *bin);
        self.add_equals();
        while self.counts.len() as u64 > most {
            self.widen(self.shift + 1);
        }
    }

    /// Makes the bins at least this wide.
    fn widen(&mut self, shift: u32) {
        if shift > self.shift {
            self.counts.iter_mut().for_each(|(bin, _)| *bin >>= shift - self.shift);
            self.shift = shift;
            self.add_equals();
        }
    }

    fn add_equals(&mut self) {
        self.counts.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
    }

    pub(super) fn meet(&mut self, numbers: &[u32]) {
        self.met.extend_from_slice(numbers);
        if self.met.len() >= MET {
            self.flush();
        }
    }

    /// The bin in which the element of this rank lies (the first has rank 1); `None` if it lies
    /// elsewhere.
    pub(super) fn find(&self, rank: u64, from_above: bool) -> Option<Found> {
        if self.above >= rank {
            return None;
        }
        let mut counts = self.counts.clone();
        counts.sort_unstable_by_key(|(bin, _)| *bin);
        if from_above {
            counts.reverse();
        }
        let mut before = self.above;
        for bins in counts.chunk_by(|a, b| a.0 == b.0) {
            let count = bins.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
            if before + count >= rank {
                return Some(Found { bin: bins[0].0, shift: self.shift, before, count });
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
