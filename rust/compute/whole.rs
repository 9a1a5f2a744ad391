//! Units whose formula needs all of them at once: gather, solve, combine.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::{Buffers, Combining, Done, Outcome, Room, Scratch, Setting};
use crate::error::{Error, Result, quoted};
use crate::format::codec::Sides;
use crate::inputs::{Inputs, split};
use crate::kernels::matrix::{Read, Solve};
use crate::linalg::engine::{Alone, Engine};
use crate::memory;
use crate::resolve::Unit;
use crate::schedule::Part;
use crate::simd::BLOCK;

impl Setting<'_> {
    /// Combine a whole unit, the part number `index` of an item, into the end of `scratch`.
    ///
    /// The operands are read as often as the formula asks, cell by cell, and never held.
    pub(super) fn whole(
        &self,
        solve: &dyn Solve,
        (index, part): (usize, &Part),
        scratch: &mut Scratch,
        done: &mut Done<'_>,
    ) -> Result<()> {
        let unit = &self.work.units[part.unit];
        if part.first != 0 || part.elements as u64 != unit.elements {
            return Err(split(unit));
        }
        if scratch.out.filled == 0 {
            scratch.out = Room::default(); // the bytes of the unit before make room for this one
        }
        let lacking = AtomicU64::new(0);
        let stop = || self.is_over();
        let engine = Engine { isa: self.isa, team: &Alone, stop: &stop, lacking: &lacking };
        scratch.fit(unit)?;
        let row = unit.row_elements.max(1);
        let mut reading =
            Reading { setting: *self, solve, part, row, scratch, read: 0, failed: None };
        let solved = solve.solve(&engine, &mut reading, (part.elements / row, row));
        done.read += reading.read;
        if let Some(failed) = reading.failed {
            return Err(failed);
        }
        self.check_cancel()?;
        if let bytes @ 1.. = lacking.into_inner() {
            return Err(memory::none_left(bytes));
        }
        let map = solved.map_err(|what| unsolvable(unit, &what))?;
        done.notes.extend(map.note().map(|note| (index, note.to_owned())));

        let Scratch { out, windows, decoded, result } = scratch;
        let made = if done.seen.is_some() { 0 } else { part.elements };
        let out = out.next(unit.bytes_of(made)?)?;
        let kept = match done.seen {
            Some(_) => Arc::default(), // not yet
            None => self.work.encoding(unit).sides()?,
        };
        let sides: Vec<_> = kept.iter().map(Vec::as_slice).collect();
        for cell in cells(part, unit) {
            let inputs = Inputs::open(self.work, self.isa, &cell, windows, decoded)?;
            done.read += inputs.read();
            let into = if let Some(seen) = &mut done.seen {
                Outcome::Seen(seen)
            } else {
                let first = unit.bytes_of((cell.first - part.first) as usize)?;
                let bytes = &mut out[first..first + unit.bytes_of(cell.elements)?];
                Outcome::Bytes { bytes, sides: Sides { first: 0, bytes: &sides } }
            };
            let buffers = Buffers { decoded, result };
            let mut combine =
                Combining { setting: *self, inputs: &inputs, map: Some(&*map), buffers, into };
            combine.part(&cell, &mut |cell| done.cells.push((index, cell)))?;
        }
        Ok(())
    }
}

/// Reads the matrices of a unit.
struct Reading<'a> {
    setting: Setting<'a>,
    solve: &'a dyn Solve,
    part: &'a Part,
    /// Elements of a row.
    row: usize,
    scratch: &'a mut Scratch,
    /// Bytes read so far.
    read: u64,
    /// Why reading ended, if it did.
    failed: Option<Error>,
}

impl Read for Reading<'_> {
    fn read(
        &mut self,
        index: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
    ) -> Option<()> {
        let read = self.fill(index, rows, columns, out);
        read.map_err(|why| self.failed = Some(why)).ok()
    }
}

impl Reading<'_> {
    fn fill(
        &mut self,
        index: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let Setting { work, isa, .. } = self.setting;
        let (row, width) = (self.row, columns.len());
        let some = Part {
            unit: self.part.unit,
            first: (rows.start * row) as u64,
            elements: rows.len() * row,
        };
        for cell in cells(&some, &work.units[some.unit]) {
            self.setting.check_cancel()?;
            let Scratch { windows, decoded, .. } = &mut *self.scratch;
            let inputs = Inputs::open(work, isa, &cell, windows, decoded)?;
            self.read += inputs.read();
            let (first, end) = (cell.first as usize, cell.first as usize + cell.elements);
            for at in first / row..end.div_ceil(row) {
                let from = first.max(at * row + columns.start);
                let to = end.min(at * row + columns.end);
                for from in (from..to).step_by(BLOCK) {
                    let block = from - first..to.min(from + BLOCK) - first;
                    let start = (at - rows.start) * width + from - at * row - columns.start;
                    let out = &mut out[start..][..block.len()];
                    inputs.with_tile(isa, block, &mut decoded.operands, |tile| {
                        self.solve.gather(tile, index, out);
                    });
                }
            }
        }
        Ok(())
    }
}

/// The cells of a part, as parts.
fn cells(part: &Part, unit: &Unit) -> impl Iterator<Item = Part> + use<> {
    let (unit, cell, first, elements) = (part.unit, unit.cell(), part.first, part.elements);
    (0..elements).step_by(cell).map(move |at| Part {
        unit,
        first: first + at as u64,
        elements: cell.min(elements - at),
    })
}

#[cold]
fn unsolvable(unit: &Unit, what: &str) -> Error {
    let hint = "take the tensor from one model with a rule, or merge it by another method";
    Error::plan(format!("{}: {what}", quoted(&unit.name))).hint(hint)
}
