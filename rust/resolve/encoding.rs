//! How numbers become the bytes of an output: its codec, and what that must see of all of them first.

#![allow(clippy::inline_always)]

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Work;
use super::opened::{expect_equal, too_large};
use super::unit::Unit;
use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::format::codec::{Block, Codec, CodecSpec, Need};
use crate::memory;
use crate::plan::{Action, OutputSpec};
use crate::simd::{Body, Isa};

/// An output as it is written.
#[derive(Debug)]
pub struct Encoding {
    /// What writes numbers in it; none if elements of its dtype can only be copied.
    pub codec: Option<Arc<dyn Codec>>,
    /// Elements of a row.
    pub columns: u64,
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
        let codec = codec_of(spec.codec, spec.dtype, counted, &here)?;
        let columns = columns_of(codec.as_deref(), spec.dtype, counted, &here)?;
        let elements = rows.checked_mul(columns).ok_or_else(|| too_large(&here))?;
        let block = codec.as_ref().map_or(Block::of(spec.dtype), |codec| codec.block());
        let blocks = elements / block.elements as u64;
        Ok(Self { codec, columns, blocks, state: Mutex::default() })
    }

    /// Whether all its values must be seen before any is encoded.
    #[must_use]
    pub fn looks(&self) -> bool {
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
        groups * size_of::<f32>() as u64 + self.side_lengths().sum::<u64>()
    }

    fn side_lengths(&self) -> impl Iterator<Item = u64> {
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
    pub fn look(&self, isa: &Isa, block: u64, values: &[f32], seen: &mut Seen) {
        let (Some(codec), needs) = (&self.codec, self.needs()) else { return };
        let elements = codec.block().elements as u64;
        let (mut at, end) = (block, block + values.len() as u64 / elements);
        while at < end {
            let group = needs.groups(at..at + 1).start;
            let next = needs.next(at).min(end);
            let of = ((at - block) * elements) as usize..((next - block) * elements) as usize;
            if let Some(largest) = seen.largest.get_mut((group - seen.first) as usize) {
                *largest = largest.max(isa.run(Largest(&values[of])));
            }
            at = next;
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

    /// One of its units is made; what is known of it is given back with the last.
    pub fn made(&self) {
        let mut state = self.state();
        state.left = state.left.saturating_sub(1);
        if state.left == 0 {
            *state = State::default();
        }
    }
}

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
        let kept = if encoding.looks() { kept.sum() } else { kept.max().unwrap_or(0) };
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
}

/// The largest finite magnitude; 0 of none.
struct Largest<'a>(&'a [f32]);

impl Body for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        // The bits of magnitudes are in their order.
        let magnitude = |x: &f32| x.to_bits() & 0x7FFF_FFFF;
        let finite = |bits: u32| if bits < f32::INFINITY.to_bits() { bits } else { 0 };
        f32::from_bits(self.0.iter().map(|x| finite(magnitude(x))).fold(0, u32::max))
    }
}

/// The codec that a plan names for a tensor; none if its elements can only be copied.
pub(super) fn codec_of(
    spec: CodecSpec,
    dtype: Dtype,
    columns: u64,
    here: &str,
) -> Result<Option<Arc<dyn Codec>>> {
    spec.codec(dtype, columns).map_err(|expected| {
        let name = dtype.name();
        Error::plan(format!("{here}: codec of dtype {expected}, expected that, got {name}"))
    })
}

/// Elements of a row that its header counts as `counted` of `dtype`: whole blocks of them.
pub(super) fn columns_of(
    codec: Option<&dyn Codec>,
    dtype: Dtype,
    counted: u64,
    here: &str,
) -> Result<u64> {
    let Some(codec) = codec else { return Ok(counted) }; // may be less than a byte
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

/// Every side tensor of every output is filled once, whole, and next to its output.
pub(super) fn check_sides(
    units: &[Unit],
    encodings: &[Encoding],
    names: &[OutputSpec],
) -> Result<()> {
    let mut seen = vec![false; encodings.len()];
    for group in units.chunk_by(|a, b| a.output == b.output) {
        let of = group[0].output;
        let (encoding, here) = (&encodings[of], format!("plan output {}", quoted(&names[of].name)));
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
        encoding.state().left = group.iter().filter(|unit| unit.elements > 0).count();
    }
    Ok(())
}
