//! What a unit is passed over for: what stays of the differences, then whose sign has the majority.

use std::fmt::Debug;
use std::sync::Arc;

use crate::kernels::kernel::Sums;

/// What a pass sums.
#[derive(Debug)]
pub struct Seen<S, L> {
    pub(super) stage: Stage<S, L>,
    /// In how many elements the sum that decides is positive, less those where it is negative.
    pub(super) signs: i64,
}

/// What a pass is for.
#[derive(Debug)]
pub enum Stage<S, L> {
    /// What the sparsifier asks for.
    Sparsify(S),
    /// The signs, now that it is known what stays.
    Vote(Arc<L>),
}

/// What is known of a unit.
#[derive(Debug)]
pub struct Known<L> {
    /// What stays of the differences.
    pub(super) kept: Arc<L>,
    /// Whether the positive sign wins where the sum that decides is exactly 0.
    pub(super) positive: bool,
}

impl<S: Clone, L> Clone for Seen<S, L> {
    fn clone(&self) -> Self {
        let stage = match &self.stage {
            Stage::Sparsify(sums) => Stage::Sparsify(sums.clone()),
            Stage::Vote(kept) => Stage::Vote(Arc::clone(kept)),
        };
        Self { stage, signs: self.signs }
    }
}

impl<S, L> Stage<S, L> {
    fn sums(self) -> Option<S> {
        match self {
            Self::Sparsify(sums) => Some(sums),
            Self::Vote(_) => None,
        }
    }

    fn sums_mut(&mut self) -> Option<&mut S> {
        match self {
            Self::Sparsify(sums) => Some(sums),
            Self::Vote(_) => None,
        }
    }
}

impl<S: Sums, L: Debug + Send + Sync> Sums for Seen<S, L> {
    fn is_exact(&self) -> bool {
        match &self.stage {
            Stage::Sparsify(sums) => sums.is_exact(),
            Stage::Vote(_) => true,
        }
    }

    fn flush(&mut self) {
        self.stage.sums_mut().into_iter().for_each(Sums::flush);
    }

    fn add_next(&mut self, next: Self) {
        let both = self.stage.sums_mut().into_iter().zip(next.stage.sums());
        both.for_each(|(sums, next)| sums.add_next(next));
        self.signs += next.signs;
    }
}
