//! What earlier jobs found out about the same bytes of the same files.

use std::fmt::Write as _;

use super::{Operand, Unit, Work};
use crate::NUMERICS;
use crate::kernels::{Kernel, Learned, Sums, Whole};
use crate::plan::Statistics;

static NOTHING: Learned = Learned::Nothing;

impl Work {
    /// Tell the units what is known of them: they need no look, or fewer. Numbers that cannot be
    /// true are not told. Returns how many units were told something.
    pub fn recall(&mut self, known: &Statistics) -> usize {
        let mut told = 0;
        for index in 0..self.units.len() {
            let key = self.key(index);
            let unit = &mut self.units[index];
            let whole = Whole { operands: unit.operands.len(), elements: unit.elements };
            let recalled = key.and_then(|key| unit.kernel()?.recall(whole, known.get(&key)?));
            told += usize::from(recalled.is_some());
            unit.recalled = recalled;
        }
        told
    }

    /// A unit, if it is one that can be looked at.
    #[must_use]
    pub fn looked(&self, unit: usize) -> Option<Looked<'_>> {
        let of = self.units.get(unit)?;
        Some(Looked { unit, kernel: of.kernel()?, told: of.recalled.as_ref() })
    }

    /// What was found out about units, by the keys that [`Self::recall`] knows it by.
    #[must_use]
    pub fn keyed(&self, found: Vec<(usize, Vec<u64>)>) -> Statistics {
        found.into_iter().filter_map(|(unit, numbers)| Some((self.key(unit)?, numbers))).collect()
    }

    /// Everything that the statistics of a unit depend on: the arithmetic, what is looked for, the
    /// shape, and of every operand the source, its version and the place in it.
    fn key(&self, unit: usize) -> Option<String> {
        let unit = self.units.get(unit)?;
        let look = unit.kernel().and_then(Kernel::look)?;
        let mut key = format!("{NUMERICS} {look} {}/{}", unit.elements, unit.row_elements);
        for operand in &unit.operands {
            // Values that were made on the way have no file to be known by.
            let Operand::Rows { source, at, dtype } = operand else { return None };
            let source = &self.sources[*source];
            let _ = write!(key, " {}@{at}:{}", source.identity().key()?, dtype.name());
        }
        Some(key)
    }
}

/// A unit that is looked at.
pub struct Looked<'a> {
    unit: usize,
    kernel: &'a Kernel,
    told: Option<&'a Learned>,
}

impl Looked<'_> {
    /// What a pass teaches beside what was known, and the statistics once they are all found.
    #[must_use]
    pub fn learn(
        &self,
        pass: usize,
        sums: &Sums,
        before: &Learned,
    ) -> (Learned, Option<(usize, Vec<u64>)>) {
        let before = self.told.filter(|_| pass == 0).unwrap_or(before);
        let learned = self.kernel.learn(pass, sums, before);
        let found = self.kernel.statistics(sums, &learned).map(|found| (self.unit, found));
        (learned, found)
    }
}

impl Unit {
    /// What is known of the unit when it is combined: what it was told, or what its looks taught.
    #[must_use]
    pub fn learned<'a>(&'a self, looked: &'a Learned) -> &'a Learned {
        if self.passes() > 0 { looked } else { self.recalled.as_ref().unwrap_or(&NOTHING) }
    }
}
