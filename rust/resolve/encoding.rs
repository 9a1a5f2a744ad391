//! How numbers become the bytes of an output: its codec, and what that must see of all of them first.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::opened::too_large;
use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::format::codec::{Block, Codec, Need, Stored};
use crate::memory;
use crate::plan::OutputSpec;
use crate::simd::{BLOCK, Isa};

/// An output as it is written.
#[derive(Debug)]
pub struct Encoding {
    /// What writes numbers in it; none if elements of its dtype can only be copied.
    pub codec: Option<Arc<dyn Codec>>,
    /// Elements of a row.
    pub columns: u64,
    /// Where it begins in its file.
    pub start: u64,
    /// Blocks of the whole.
    blocks: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The largest finite magnitude of every group, until the side tensors are made of it.
    largest: Vec<f32>,
    sides: Option<Arc<Vec<Vec<u8>>>>,
    /// Units that are still to be made of it, those of its side tensors included.
    left: usize,
}

/// The largest finite magnitudes of some groups.
#[derive(Debug)]
pub struct Seen {
    /// Index of the first group.
    pub first: u64,
    /// One for each.
    pub largest: Vec<f32>,
}

impl Encoding {
    pub(super) fn of(spec: &OutputSpec) -> Result<Self> {
        let here = format!("plan output {}", quoted(&spec.name));
        let rows = spec.shape.first().copied().unwrap_or(1);
        // Not `elements / rows`: rows of a tensor without any have a length too.
        let counted = spec.shape.iter().skip(1).fold(1, |n: u64, &d| n.saturating_mul(d));
        let stored = Stored { dtype: spec.dtype, rows, columns: counted, sides: None };
        let codec = spec.codec.codec(stored, &here)?;
        let columns = columns_of(codec.as_deref(), spec.dtype, counted, &here)?;
        let elements = rows.checked_mul(columns).ok_or_else(|| too_large(&here))?;
        let block = codec.as_ref().map_or(Block::of(spec.dtype), |codec| codec.block());
        if !BLOCK.is_multiple_of(block.elements) {
            let what = format!(
                "{here}: blocks of {} elements, expected {BLOCK} in wholes",
                block.elements
            );
            return Err(Error::internal(what)); // tiles would cut them
        }
        let blocks = elements / block.elements as u64;
        Ok(Self { codec, columns, start: 0, blocks, state: Mutex::default() })
    }

    /// Whether all its values must be seen before any is encoded.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.needs() != Need::Nothing
    }

    fn needs(&self) -> Need {
        self.codec.as_ref().map_or(Need::Nothing, |codec| codec.needs())
    }

    /// The groups that some of its blocks are in.
    #[must_use]
    pub fn groups(&self, blocks: Range<u64>) -> Range<u64> {
        self.needs().groups(blocks)
    }

    /// Bytes that are kept of it while it is made.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        let groups = self.groups(0..self.blocks).end;
        let largest = groups.saturating_mul(size_of::<f32>() as u64);
        self.side_lengths().fold(largest, u64::saturating_add)
    }

    pub(super) fn side_lengths(&self) -> impl Iterator<Item = u64> {
        let sides = self.codec.as_ref().map_or(&[][..], |codec| codec.sides());
        sides.iter().map(|side| side.range(0..self.blocks).end)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held has already ended the job.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was seen of a part.
    pub fn see(&self, seen: &Seen) -> Result<()> {
        let mut state = self.state();
        self.have_room(&mut state)?;
        let known = state.largest.iter_mut().skip(seen.first as usize);
        known.zip(&seen.largest).for_each(|(known, seen)| *known = known.max(*seen));
        Ok(())
    }

    fn have_room(&self, state: &mut State) -> Result<()> {
        let groups = self.groups(0..self.blocks).end;
        memory::resize(&mut state.largest, usize::try_from(groups).unwrap_or(usize::MAX))
    }

    /// Adds values of whole blocks, the first of which is number `block`, to what was `seen`.
    pub fn observe(&self, isa: &Isa, block: u64, values: &[f32], seen: &mut Seen) {
        let Some(codec) = &self.codec else { return };
        let begun = self.groups(block..block + 1).start - seen.first;
        if let Some(seen) = seen.largest.get_mut(begun as usize..) {
            codec.observe(isa, block, values, seen);
        }
    }

    /// The side tensors, once all that is needed has been seen.
    pub fn sides(&self) -> Result<Arc<Vec<Vec<u8>>>> {
        if self.side_lengths().next().is_none() {
            return Ok(Arc::default());
        }
        let mut state = self.state();
        if let Some(sides) = &state.sides {
            return Ok(Arc::clone(sides));
        }
        let mut sides = Vec::new();
        for len in self.side_lengths() {
            let mut side = Vec::new();
            memory::resize(&mut side, usize::try_from(len).unwrap_or(usize::MAX))?;
            sides.push(side);
        }
        self.have_room(&mut state)?; // of no elements nothing was seen
        if let Some(codec) = &self.codec {
            codec.fill_sides(&std::mem::take(&mut state.largest), &mut sides);
        }
        let sides = Arc::new(sides);
        state.sides = Some(Arc::clone(&sides));
        Ok(sides)
    }

    pub(super) fn begin(&self, units: usize) {
        self.state().left = units;
    }

    /// One of its units is made; what is known of it is given back with the last.
    pub fn made(&self) {
        let mut state = self.state();
        state.left = state.left.saturating_sub(1);
        if state.left == 0 {
            *state = State::default();
        }
    }
}

/// Elements of a row that its header counts as `counted` of `dtype`: whole blocks of them.
pub(super) fn columns_of(
    codec: Option<&dyn Codec>,
    dtype: Dtype,
    counted: u64,
    here: &str,
) -> Result<u64> {
    let Some(codec) = codec else { return Ok(counted) }; // may be less than a byte
    if let Some([_, columns]) = codec.shape() {
        return Ok(columns);
    }
    let Block { elements, bytes } = codec.block();
    let row = Block::of(dtype).len(counted).ok_or_else(|| too_large(here))?;
    if !row.is_multiple_of(bytes as u64) {
        let name = codec.name();
        let what = format!(
            "{here}: rows of {row} bytes, expected whole blocks of {bytes} bytes of {name}"
        );
        let hint = "a block must not reach over the end of a row; take the tensor's last dimension \
                    as the row";
        return Err(Error::plan(what).hint(hint));
    }
    (row / bytes as u64).checked_mul(elements as u64).ok_or_else(|| too_large(here))
}

/// What a unit is written as.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) dtype: Dtype,
    pub(super) codec: Option<&'a dyn Codec>,
}

impl To<'_> {
    /// Whether its dtype says all.
    pub(super) fn is_plain(self) -> bool {
        self.codec.is_none_or(|codec| codec.name() == self.dtype.name())
    }
}
