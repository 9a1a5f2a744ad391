//! What earlier jobs found out about the same bytes of the same files.

use std::fmt::Write as _;

use super::Work;
use crate::NUMERICS;
use crate::plan::{Action, Statistics};

impl Work {
    /// Lets units begin with what is known of them: they need no pass, or fewer. Numbers that cannot be
    /// true are left aside. Returns how many units are known.
    pub fn recall(&mut self, known: &Statistics) -> usize {
        let mut recalled = 0;
        for index in 0..self.units.len() {
            let numbers = self.key(index).and_then(|key| known.get(&key));
            if let (Action::Compute(run), Some(numbers)) = (&mut self.units[index].action, numbers)
            {
                recalled += usize::from(run.recall(numbers));
            }
        }
        recalled
    }

    /// What was found out about units, by the keys that [`Self::recall`] knows it by.
    #[must_use]
    pub fn keyed(&self, found: Vec<(usize, Vec<u64>)>) -> Statistics {
        found.into_iter().filter_map(|(unit, numbers)| Some((self.key(unit)?, numbers))).collect()
    }

    /// Everything that the statistics of a unit depend on: the arithmetic, what is searched, the
    /// shape, and of every term of every operand the source, its version and the place in it.
    fn key(&self, unit: usize) -> Option<String> {
        let unit = self.units.get(unit)?;
        let searched = unit.run()?.key()?;
        let mut key = format!("{NUMERICS} {searched} {}/{}", unit.elements, unit.row_elements);
        let identity = |source: usize| self.sources.get(source)?.identity().key();
        for operand in &unit.operands {
            let _ = write!(key, " {}", operand.key(&identity)?);
        }
        Some(key)
    }
}
