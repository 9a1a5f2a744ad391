//! Units whose formula needs all of them at once: gather, solve, combine.

use super::{Buffers, Combining, Done, Room, Scratch, Setting};
use crate::error::{Error, Result, quoted};
use crate::inputs::{Inputs, len_of, split};
use crate::kernels::Learned;
use crate::kernels::matrix::{Engine, Matrix};
use crate::resolve::Unit;
use crate::schedule::Part;
use crate::simd::BLOCK;

impl Setting<'_> {
    /// Combine a whole unit, the part number `index` of an item, into the end of `scratch`.
    ///
    /// The operands are read twice, cell by cell, and never held.
    pub(super) fn whole(
        &self,
        matrix: &Matrix,
        (index, part): (usize, &Part),
        scratch: &mut Scratch,
        done: &mut Done,
    ) -> Result<()> {
        let unit = &self.work.units[part.unit];
        if scratch.out.filled == 0 {
            scratch.out = Room::default(); // the bytes of the unit before make room for this one
        }
        let differences = self.gather(matrix, part, scratch, done)?;
        let engine = Engine { isa: self.isa, stop: &|| self.is_over() };
        let solved = matrix.solve(&engine, differences, unit.row_elements.max(1));
        self.check_cancel()?;
        let learned = Learned::Matrix(solved.map_err(|what| unsolvable(unit, &what))?);
        done.notes.extend(learned.note().map(|note| (index, note.to_owned())));

        let Scratch { out, windows, decoded, result } = scratch;
        let out = out.next(len_of(part.elements, unit.dtype)?);
        for cell in cells(part, unit) {
            let inputs = Inputs::open(self.work, &cell, windows)?;
            done.read += inputs.read();
            let first = len_of((cell.first - part.first) as usize, unit.dtype)?;
            let bytes = first..first + len_of(cell.elements, unit.dtype)?;
            let buffers = Buffers { out: &mut out[bytes], decoded, result };
            let mut combine =
                Combining { setting: *self, inputs: &inputs, learned: &learned, buffers };
            combine.part(&cell, &mut |cell| done.cells.push((index, cell)))?;
        }
        Ok(())
    }

    fn gather(
        &self,
        matrix: &Matrix,
        part: &Part,
        scratch: &mut Scratch,
        done: &mut Done,
    ) -> Result<Vec<Vec<f32>>> {
        let unit = &self.work.units[part.unit];
        if part.first != 0 || part.elements as u64 != unit.elements {
            return Err(split(unit));
        }
        let mut differences = vec![vec![0.0; part.elements]; matrix.matrices()];
        for cell in cells(part, unit) {
            self.check_cancel()?;
            let inputs = Inputs::open(self.work, &cell, &mut scratch.windows)?;
            done.read += inputs.read();
            for first in (0..cell.elements).step_by(BLOCK) {
                let block = first..cell.elements.min(first + BLOCK);
                inputs.with_stretch(self.isa, block.clone(), &mut scratch.decoded, |stretch| {
                    for (index, each) in differences.iter_mut().enumerate() {
                        let out = &mut each[cell.first as usize..][..cell.elements];
                        matrix.gather(stretch, index, &mut out[block.clone()]);
                    }
                });
            }
        }
        Ok(differences)
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
