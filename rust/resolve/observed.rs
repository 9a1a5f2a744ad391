//! What is observed before an output is written, and what stands beside it.

use std::ops::Range;

use super::encoding::{Encoding, Seen};
use super::opened::expect_equal;
use super::{Unit, Work};
use crate::error::{Error, Result, quoted};
use crate::format::codec::Block;
use crate::memory;
use crate::plan::{Action, OutputSpec};

impl Work {
    /// How the output of a unit is written.
    #[must_use]
    pub fn encoding(&self, unit: &Unit) -> &Encoding {
        &self.encodings[unit.output]
    }

    /// Bytes of what is known of the units of one output while it is made.
    #[must_use]
    pub fn kept_bytes(&self, units: &[Unit]) -> u64 {
        let encoding = self.encoding(&units[0]);
        let kept = units.iter().map(Unit::kept_bytes);
        // All are known until the last is written, if all are seen before the first is.
        let kept = if encoding.observes() { kept.sum() } else { kept.max().unwrap_or(0) };
        kept + encoding.kept_bytes()
    }

    /// Room for what is seen of some elements of a unit.
    pub fn unseen(&self, unit: &Unit, elements: Range<u64>) -> Result<Seen> {
        let n = unit.block().elements as u64;
        let first = unit.first_block + elements.start / n;
        let groups = self.encoding(unit).groups(first..first + (elements.end - elements.start) / n);
        let mut largest = Vec::new();
        memory::resize(&mut largest, (groups.end - groups.start) as usize)?;
        Ok(Seen { first: groups.start, largest })
    }

    /// Bytes of what a worker sees of so many elements for the codec of their output.
    #[must_use]
    pub fn seen_bytes(&self, unit: &Unit, elements: u64) -> u64 {
        let groups = self.encoding(unit).groups(0..elements / unit.block().elements as u64);
        if groups.is_empty() { 0 } else { (groups.end + 1) * size_of::<f32>() as u64 }
    }

    /// Every side tensor of every output is filled once, whole, and next to its output.
    pub(super) fn check_sides(&self, names: &[OutputSpec]) -> Result<()> {
        let mut seen = vec![false; self.encodings.len()];
        for group in self.outputs() {
            let of = group[0].output;
            let (encoding, here) =
                (&self.encodings[of], format!("plan output {}", quoted(&names[of].name)));
            if std::mem::replace(&mut seen[of], true) {
                let what = "not beside the tensors its codec wants, expected these next to it";
                return Err(Error::plan(format!("{here}: {what}")));
            }
            let mut found: Vec<usize> = group
                .iter()
                .filter_map(|unit| match unit.action {
                    Action::Beside(side) => Some(side),
                    _ => None,
                })
                .collect();
            found.sort_unstable();
            let lengths: Vec<u64> = encoding.side_lengths().collect();
            if !found.iter().copied().eq(0..lengths.len()) {
                let what = format!(
                    "{here}: tensors {found:?} beside it are filled, expected each of {}",
                    lengths.len()
                );
                return Err(Error::plan(what));
            }
            for unit in group {
                if let Action::Beside(side) = unit.action {
                    let what = format!("bytes of {}", quoted(&unit.name));
                    let bytes = Block::of(unit.dtype).len(unit.elements).unwrap_or(0);
                    expect_equal(&here, &what, lengths[side], bytes)?;
                }
            }
            encoding.begin(group.iter().filter(|unit| unit.elements > 0).count());
        }
        Ok(())
    }
}
