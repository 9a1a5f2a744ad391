//! What a kernel is shown.

use crate::simd::Isa;

/// Neighbouring elements of every operand of a unit, decoded: a block, or whole rows.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// The kernels' arithmetic.
    pub isa: &'static Isa,
    /// Index of the first element in the unit: what random masks and tie rules count from.
    pub first: u64,
    /// Elements of one row of the unit.
    pub row: usize,
    /// Elements shown before and after those to fill, as far as the kernel's halo and the unit go.
    pub around: [usize; 2],
    /// The operands, in the plan's order, all of one length.
    pub operands: &'a [&'a [f32]],
}

impl<'a> Tile<'a> {
    /// The operands without what is shown around the elements to fill, if there is anything.
    #[must_use]
    pub fn inner(&self) -> Option<Vec<&'a [f32]>> {
        let [before, after] = self.around;
        let inner = |x: &&'a [f32]| &x[before..x.len() - after];
        (before + after > 0).then(|| self.operands.iter().map(inner).collect())
    }
}

/// The size of a unit.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// How many operands it has.
    pub operands: usize,
    /// How many elements.
    pub elements: u64,
}
