//! Ends that are known without a look: as numbers, and back.

use super::{Cut, Stage, Target};

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
}

impl Target {
    /// A set whose end is known.
    #[must_use]
    pub fn known(stream: usize, cut: Cut) -> Self {
        let (rank, elements) = (0, 0); // only a look would ask
        Self { stream, rank, elements, members: true, stage: Stage::Known(cut) }
    }
}
