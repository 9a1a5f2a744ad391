//! The statistics of the delta family, and back: the ends of the sets of the largest, or sums of
//! magnitudes.

use super::learn::{Found, Lengths};
use super::{Delta, Outliers, Random, Rank, Rescale, Sparsify};
use crate::kernels::Whole;
use crate::kernels::recall::sums_of;
use crate::kernels::select::{Cut, Target};
use crate::kernels::sums::{Learned, Sums};

/// As [`crate::kernels::Kernel::statistics`].
pub(in crate::kernels) fn statistics(sums: &Sums, learned: &Learned) -> Option<Vec<u64>> {
    match (sums, learned) {
        (Sums::Lengths(lengths), _) => Some(lengths.numbers()),
        (_, Learned::Delta(Found::Largest(targets))) => {
            let cuts: Option<Vec<_>> = targets.iter().map(Target::cut).collect();
            Some(cuts?.into_iter().flat_map(Cut::numbers).collect())
        }
        _ => None,
    }
}

impl Delta {
    pub(in crate::kernels) fn look(&self) -> Option<String> {
        match &self.sparsify {
            Sparsify::None {} => None,
            Sparsify::Random(Random { rescale, .. }) | Sparsify::Rank(Rank { rescale, .. })
                if *rescale != Rescale::L1 =>
            {
                None
            }
            // The shortest digits that mean the same number.
            sparsify => Some(format!("{sparsify:?}")),
        }
    }

    pub(in crate::kernels) fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Learned> {
        let found = match &self.sparsify {
            Sparsify::None {} => return None,
            Sparsify::Magnitude(_) => self.ends(1, whole, statistics)?,
            Sparsify::Outliers(Outliers { .. }) => self.ends(2, whole, statistics)?,
            Sparsify::Random(_) | Sparsify::Rank(_) => {
                let sums = sums_of(statistics)?;
                let fits = sums.len() == 2 * self.weights.len();
                Found::Lengths(Lengths::recall(fits.then_some(&sums)?))
            }
        };
        Some(Learned::Delta(found))
    }

    /// The ends of so many sets of each model that is thinned, in the order they are looked for.
    fn ends(&self, each: usize, whole: Whole, statistics: &[u64]) -> Option<Found> {
        let (pairs, rest) = statistics.as_chunks::<2>();
        let thinned = (0..self.weights.len()).filter(|model| self.sparsify.thins(*model));
        let streams: Vec<_> = thinned.flat_map(|model| vec![model; each]).collect();
        if !rest.is_empty() || pairs.len() != streams.len() {
            return None;
        }
        let end = |(stream, pair): (usize, &[u64; 2])| {
            Some(Target::known(stream, Cut::of(*pair, whole.elements)?))
        };
        streams.into_iter().zip(pairs).map(end).collect::<Option<_>>().map(Found::Largest)
    }
}
