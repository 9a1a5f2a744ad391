//! What the looks at a unit found, in a few numbers: a later job can be told instead of looking.
//!
//! The arguments that are changed from merge to merge (shares, weights, lambda) enter after the
//! looks, so what is kept is what was found before them: inner products, the ends of sets, sums.
//! Floats are kept as their bits. Numbers that no look can have found are refused.

use super::{Kernel, Learned, Sums, Whole};

impl Kernel {
    /// Of the arguments, all that the statistics depend on, as text. `None` if the kernel does not
    /// look, or finds a number for each column.
    #[must_use]
    pub fn look(&self) -> Option<String> {
        match self {
            Self::Combine(_) => Some("gram".to_owned()),
            Self::Delta(delta) => delta.look(),
            Self::Adaptive(adaptive) => adaptive.look(),
            Self::Linear(_)
            | Self::Rows(_)
            | Self::Pointwise(_)
            | Self::Smooth(_)
            | Self::Matrix(_) => None,
        }
    }

    /// The statistics, once the last of them is found: `sums` is the total of a pass, `learned` what
    /// is known after it.
    #[must_use]
    pub fn statistics(&self, sums: &Sums, learned: &Learned) -> Option<Vec<u64>> {
        match (self, sums) {
            (Self::Combine(_), Sums::Gram(gram)) => Some(gram.numbers()),
            (Self::Delta(_), sums) => super::delta::statistics(sums, learned),
            (Self::Adaptive(adaptive), sums) => adaptive.statistics(sums, learned),
            _ => None,
        }
    }

    /// What the looks would teach of a unit with these statistics; `None` if it cannot have them.
    #[must_use]
    pub fn recall(&self, whole: Whole, statistics: &[u64]) -> Option<Learned> {
        match self {
            Self::Combine(combine) => {
                let gram = super::gram::Gram::recall(whole.operands, statistics)?;
                Some(Learned::Weights(combine.weigh(&gram)))
            }
            Self::Delta(delta) => delta.recall(whole, statistics),
            Self::Adaptive(adaptive) => adaptive.recall(whole, statistics),
            _ => None,
        }
    }

    /// How many of the first passes are made all the same, for what they find is too much to keep.
    #[must_use]
    pub fn never_recalled(&self) -> usize {
        match self {
            Self::Adaptive(adaptive) => adaptive.never_recalled(),
            _ => 0,
        }
    }
}

/// Sums of squares or of magnitudes, from their bits.
pub(super) fn sums_of(statistics: &[u64]) -> Option<Vec<f64>> {
    let sum = |bits: &u64| Some(f64::from_bits(*bits)).filter(|x| x.is_finite() && *x >= 0.0);
    statistics.iter().map(sum).collect()
}

#[cfg(test)]
mod tests;
