//! One item: read windows of the operands, sum them in a pass or combine them, encode once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::format::codec::{Codec, Run, Sides, Values};
use crate::inputs::{Decoded, Inputs, split};
use crate::kernels::runner::{Map, Pass};
use crate::memory;
use crate::resolve::encoding::Seen;
use crate::resolve::{Action, Unit, Work};
use crate::schedule::Part;
use crate::simd::{BLOCK, Isa};
use crate::stats::{Analysis, Analyze, Made, UnitStats, pieces};

mod whole;

/// The buffers of one worker, kept from item to item.
#[derive(Debug, Default)]
pub struct Scratch {
    out: Room,
    windows: Vec<Vec<u8>>,
    decoded: Decoded,
    result: Vec<f32>,
}

impl Scratch {
    /// The bytes of the item computed last.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.out.bytes[..self.out.filled]
    }

    /// Have room for the tiles of a unit, and find out whether there is some for its kernel's: neither
    /// can refuse once it is at work.
    fn fit(&mut self, unit: &Unit) -> Result<()> {
        memory::at_least(&mut self.result, unit.tile().max(BLOCK))?;
        memory::expect(unit.state_bytes())
    }
}

/// Bytes that are filled from item to item. What is taken up again is not cleared first: every byte
/// of an item is written.
#[derive(Debug, Default)]
struct Room {
    bytes: Vec<u8>,
    filled: usize,
}

impl Room {
    /// The next `len` bytes.
    fn next(&mut self, len: usize) -> Result<&mut [u8]> {
        let start = self.filled;
        self.filled += len;
        if self.bytes.len() < self.filled {
            memory::resize(&mut self.bytes, self.filled)?;
        }
        Ok(&mut self.bytes[start..self.filled])
    }
}

/// What is known of an item besides its bytes.
#[derive(Default)]
pub struct Done<'a> {
    /// The statistics of each cell, with the index of its part, in order.
    pub cells: Vec<(usize, UnitStats)>,
    /// What there is to say of a part, with its index.
    pub notes: Vec<(usize, String)>,
    /// Its sums in a pass.
    pub sums: Option<Box<dyn Pass + 'a>>,
    /// What its output's codec wanted to see.
    pub seen: Option<Seen>,
    /// Bytes read from the inputs.
    pub read: u64,
}

/// What every item of a job is computed with.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The checked plan.
    pub work: &'a Work,
    /// The kernels' arithmetic.
    pub isa: &'static Isa,
    /// Whether the operands are measured on the way.
    pub stats: bool,
    /// Stops the job.
    pub cancel: &'a AtomicBool,
    /// Set once the job has failed: what is still being made is in vain.
    pub halt: &'a AtomicBool,
}

impl<'a> Setting<'a> {
    /// Combine all parts of an item into `scratch`.
    pub fn map(&self, parts: &[Part], scratch: &mut Scratch) -> Result<Done<'a>> {
        let mut done = Done::default();
        scratch.out.filled = 0;
        for (index, part) in parts.iter().enumerate() {
            let unit = &self.work.units[part.unit];
            match &unit.action {
                Action::Solve(solve) => self.whole(&**solve, (index, part), scratch, &mut done)?,
                Action::Beside(side) => {
                    let kept = self.work.encoding(unit).sides()?;
                    let bytes = kept.get(*side).ok_or_else(|| split(unit))?;
                    self.taken(bytes, (index, part), scratch, &mut done)?;
                }
                Action::Text(text) => {
                    self.taken(text.as_bytes(), (index, part), scratch, &mut done)?;
                }
                _ => self.combine((index, part), scratch, &mut done)?,
            }
        }
        Ok(done)
    }

    /// Combine a part, the number `index` of an item, into the end of `scratch`.
    fn combine(
        &self,
        (index, part): (usize, &Part),
        scratch: &mut Scratch,
        done: &mut Done<'a>,
    ) -> Result<()> {
        let unit = &self.work.units[part.unit];
        let map = match &unit.action {
            Action::Compute(run) => Some(run.map().ok_or_else(|| unknown(unit))?),
            _ => None,
        };
        let note = map.as_ref().and_then(|map| map.note());
        done.notes.extend(note.map(|note| (index, note.to_owned())));
        scratch.fit(unit)?;
        let Scratch { out, windows, decoded, result } = scratch;
        let inputs = Inputs::open(self.work, self.isa, part, windows, decoded)?;
        done.read += inputs.read();
        let made = match unit.action {
            Action::Analyze(_) => 0,
            _ => part.elements,
        };
        let kept = match done.seen {
            Some(_) => Arc::default(), // not yet
            None => self.work.encoding(unit).sides()?,
        };
        let sides: Vec<_> = kept.iter().map(Vec::as_slice).collect();
        let into = if let Some(seen) = &mut done.seen {
            Outcome::Seen(seen)
        } else {
            let bytes = out.next(unit.bytes_of(made)?)?;
            Outcome::Bytes { bytes, sides: Sides { first: 0, bytes: &sides } }
        };
        let buffers = Buffers { decoded, result };
        let mut combine =
            Combining { setting: *self, inputs: &inputs, map: map.as_deref(), buffers, into };
        combine.part(part, &mut |cell| done.cells.push((index, cell)))
    }

    /// Show the output's codec what an item, which is a part of one unit, will hold.
    pub fn observe(&self, parts: &[Part], scratch: &mut Scratch) -> Result<Done<'a>> {
        let mut done = Done::default();
        scratch.out.filled = 0;
        for part in parts {
            let unit = &self.work.units[part.unit];
            done.seen = Some(self.work.unseen(unit, part.range())?);
            match &unit.action {
                Action::Solve(solve) => self.whole(&**solve, (0, part), scratch, &mut done)?,
                _ => self.combine((0, part), scratch, &mut done)?,
            }
        }
        Ok(done)
    }

    /// Copy a part of a unit whose bytes are at hand, the number `index` of an item, to the end of
    /// `scratch`.
    fn taken(
        &self,
        bytes: &[u8],
        (index, part): (usize, &Part),
        scratch: &mut Scratch,
        done: &mut Done<'a>,
    ) -> Result<()> {
        let unit = &self.work.units[part.unit];
        let (first, len) = (unit.bytes_of(part.first as usize)?, unit.bytes_of(part.elements)?);
        let bytes = bytes.get(first..first + len).ok_or_else(|| split(unit))?;
        scratch.out.next(len)?.copy_from_slice(bytes);
        let mut stats = UnitStats::new(0);
        for cell in cells(part, unit.cell()) {
            stats.elements = cell.len() as u64;
            done.cells.push((index, stats.clone()));
        }
        Ok(())
    }

    /// Make the sums of a pass over an item, which is a part of one unit.
    pub fn reduce(&self, parts: &[Part], scratch: &mut Scratch) -> Result<Done<'a>> {
        let mut done = Done::default();
        scratch.out.filled = 0;
        for part in parts {
            let unit = &self.work.units[part.unit];
            let run = unit.run().ok_or_else(|| split(unit))?;
            let Some(mut sums) = run.pass() else { continue };
            scratch.fit(unit)?;
            for span in sums.spans(part.range()) {
                let elements = (span.end - span.start) as usize;
                let part = Part { unit: part.unit, first: span.start, elements };
                let Scratch { windows, decoded, .. } = &mut *scratch;
                let inputs = Inputs::open(self.work, self.isa, &part, windows, decoded)?;
                done.read += inputs.read();
                for cell in cells(&part, unit.cell()) {
                    self.check_cancel()?;
                    sums.cell(&mut |reduce| {
                        for range in tiles(unit, cell.clone()) {
                            inputs.with_tile(self.isa, range, &mut decoded.operands, &mut *reduce);
                        }
                    });
                }
            }
            sums.flush();
            done.sums = Some(sums);
        }
        Ok(done)
    }

    fn check_cancel(&self) -> Result<()> {
        if self.is_over() { Err(Error::cancelled()) } else { Ok(()) }
    }

    fn is_over(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.halt.load(Ordering::Relaxed)
    }
}

fn cells(part: &Part, cell: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let elements = part.elements;
    (0..elements).step_by(cell).map(move |first| first..elements.min(first + cell))
}

/// What a kernel is shown at once: a block, or a cell of whole rows.
fn tiles(unit: &Unit, cell: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let step = if unit.by_rows() { cell.len().max(1) } else { BLOCK };
    let end = cell.end;
    cell.step_by(step).map(move |first| first..end.min(first + step))
}

/// Where what is combined goes.
enum Outcome<'a> {
    /// It is encoded, with what stands beside its output.
    Bytes { bytes: &'a mut [u8], sides: Sides<'a> },
    /// It is only observed.
    Seen(&'a mut Seen),
}

struct Buffers<'a> {
    decoded: &'a mut Decoded,
    result: &'a mut Vec<f32>,
}

/// One part on its way to the output.
struct Combining<'a> {
    setting: Setting<'a>,
    inputs: &'a Inputs<'a>,
    /// The formula, if there is one.
    map: Option<&'a dyn Map>,
    buffers: Buffers<'a>,
    into: Outcome<'a>,
}

impl Combining<'_> {
    fn part(&mut self, part: &Part, emit: &mut dyn FnMut(UnitStats)) -> Result<()> {
        let unit = self.inputs.unit();
        if matches!(unit.action, Action::Copy | Action::Same) {
            let bytes = self.inputs.common_bytes().ok_or_else(|| {
                let name = &unit.name;
                let what = format!("`{name}`: differs between the models, expected equal values");
                let hint =
                    "this dtype cannot be merged; take the tensor from one model with a rule";
                Error::plan(what).hint(hint)
            })?;
            if let Outcome::Bytes { bytes: out, .. } = &mut self.into {
                out.copy_from_slice(bytes);
            }
        }
        for cell in cells(part, unit.cell()) {
            self.setting.check_cancel()?;
            let codec = unit.codec.as_deref();
            let stats = match (&unit.action, self.map, codec, unit.dtype.float()) {
                (Action::Analyze(analyze), _, _, Some(to)) => self.analyzed(*analyze, to, cell),
                (Action::Copy | Action::Same, _, codec, _) => self.copied(codec, &cell),
                (_, Some(map), Some(codec), _) => self.cell((map, codec), part.first, cell),
                _ => return Err(split(unit)),
            };
            emit(stats);
        }
        Ok(())
    }

    /// `first`: the element of the unit that a cell is counted from.
    fn cell(
        &mut self,
        (map, to): (&dyn Map, &dyn Codec),
        first: u64,
        cell: Range<usize>,
    ) -> UnitStats {
        let Setting { work, isa, stats: measured, .. } = self.setting;
        let Buffers { decoded, result } = &mut self.buffers;
        let (unit, block) = (self.inputs.unit(), to.block());
        let mut stats = UnitStats::new(if measured { self.inputs.count() } else { 0 });
        for range in tiles(unit, cell) {
            let n = range.len();
            let at = unit.first_block + (first + range.start as u64) / block.elements as u64;
            result.resize(n.max(result.len()), 0.0);
            let Decoded { operands, added, .. } = &mut **decoded;
            self.inputs.with_tile(isa, range.clone(), operands, |tile| {
                map.map(tile, &mut result[..n]);
                let added = self.inputs.add(isa, range.clone(), added, &mut result[..n]);
                let values = &result[..n];
                stats.elements += if measured { 0 } else { n as u64 };
                let (bytes, sides) = match &mut self.into {
                    Outcome::Bytes { bytes, sides } => (&mut bytes[block.range(range)], *sides),
                    Outcome::Seen(seen) => {
                        return work.encoding(unit).observe(isa, at, values, seen);
                    }
                };
                to.encode(isa, Values { first: at, values, sides, overflow: work.overflow }, bytes);
                if measured {
                    let inner = tile.inner();
                    let operands = inner.as_deref().unwrap_or(tile.operands);
                    let run = Run { first: at, bytes, sides };
                    stats.add(isa, Made { operands, added: &added, values, to, run });
                }
            });
        }
        stats
    }

    /// The operands of a cell beside each other.
    fn analyzed(&mut self, analyze: Analyze, to: Float, cell: Range<usize>) -> UnitStats {
        let (isa, matrix) = (self.setting.isa, self.inputs.unit().matrix_row());
        let mut stats = UnitStats::new(self.inputs.count());
        let mut analysis = Box::new(Analysis::new(self.inputs.count(), matrix.is_some()));
        for (piece, column, ends_row) in pieces(cell, matrix) {
            self.inputs.with_tile(isa, piece, &mut self.buffers.decoded.operands, |tile| {
                if stats.add_operands(isa, tile.operands) {
                    analysis.add(analyze, to, tile, column);
                } else {
                    analysis.add_masked(analyze, to, tile, column);
                }
                stats.elements += tile.operands[0].len() as u64;
            });
            if ends_row {
                analysis.end_row(isa);
            }
        }
        analysis.end_cell();
        stats.analysis = Some(analysis);
        stats
    }

    /// What a copied cell holds: only non-finite values are counted, and only if asked for.
    fn copied(&mut self, codec: Option<&dyn Codec>, cell: &Range<usize>) -> UnitStats {
        let Setting { isa, stats: measured, .. } = self.setting;
        let Buffers { result, .. } = &mut self.buffers;
        let mut stats = UnitStats::new(0);
        result.resize(BLOCK.max(result.len()), 0.0);
        if let (Some(codec), Outcome::Bytes { bytes: out, sides }) =
            (codec.filter(|_| measured), &self.into)
        {
            for first in cell.clone().step_by(BLOCK) {
                let block = first..cell.end.min(first + BLOCK);
                let values = &mut result[..block.len()];
                let bytes = &out[codec.block().range(block)];
                codec.decode(isa, Run { first: 0, bytes, sides: *sides }, values);
                stats.add_copied(isa, values);
            }
        }
        stats.elements = cell.len() as u64;
        stats
    }
}

/// A unit that is mapped before its passes are made: a defect of the schedule.
#[cold]
fn unknown(unit: &Unit) -> Error {
    Error::internal(format!("`{}`: mapped before its last pass", unit.name))
}
