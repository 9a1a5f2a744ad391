//! The operands of a part: windows of the inputs, decoded tile by tile.

use std::ops::Range;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::io::source::Window;
use crate::kernels::tile::Tile;
use crate::resolve::{Operand, Unit, Work, byte_len};
use crate::schedule::Part;
use crate::simd::{BLOCK, Isa, prefetch};

/// Up to this many operands need no allocation in the innermost loop.
const FEW: usize = 16;

/// The operands of one part, open.
pub struct Inputs<'a> {
    unit: &'a Unit,
    /// The elements of the unit that are open: those of the part and its halo.
    span: Range<u64>,
    /// How many of them come before the part.
    before: usize,
    open: Vec<Input<'a>>,
}

/// An operand over the elements of a part.
enum Input<'a> {
    Bytes(Window<'a>, Dtype),
    Values(&'a [f32]),
}

impl Input<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(window, _) => window,
            Self::Values(_) => &[],
        }
    }
}

impl<'a> Inputs<'a> {
    /// Open windows of every operand; `buffers` hold what cannot be mapped.
    pub fn open(work: &'a Work, part: &Part, buffers: &'a mut Vec<Vec<u8>>) -> Result<Self> {
        let unit = &work.units[part.unit];
        let (first, halo) = (part.first, unit.halo() as u64);
        let end = unit.elements.min(first + part.elements as u64 + halo);
        let span = first.saturating_sub(halo)..end;
        let start = usize::try_from(span.start).map_err(|_| split(unit))?;
        let count = usize::try_from(span.end - span.start).map_err(|_| split(unit))?;
        buffers.resize_with(unit.operands.len().max(buffers.len()), Vec::new);
        let open = |(operand, buffer): (&'a Operand, &'a mut Vec<u8>)| match operand {
            Operand::Rows { source, at, dtype } => {
                let (skip, len) = (len_of(start, *dtype)?, len_of(count, *dtype)?);
                let window = work.sources[*source].window(at + skip as u64, len, buffer)?;
                Ok(Input::Bytes(window, *dtype))
            }
            Operand::Values(values) => {
                let range = values.get(start..start + count).ok_or_else(|| split(unit))?;
                Ok(Input::Values(range))
            }
        };
        let open = unit.operands.iter().zip(buffers).map(open).collect::<Result<_>>()?;
        let before = (first - span.start) as usize;
        Ok(Self { unit, span, before, open })
    }

    /// The unit these are operands of.
    #[must_use]
    pub fn unit(&self) -> &'a Unit {
        self.unit
    }

    /// How many operands there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Bytes read to open them.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.open.iter().map(|input| input.bytes().len() as u64).sum()
    }

    /// The bytes of the first operand, if all operands hold the same.
    #[must_use]
    pub fn common_bytes(&self) -> Option<&[u8]> {
        let first = self.open.first().map_or(&[][..], Input::bytes);
        self.open.iter().all(|input| input.bytes() == first).then_some(first)
    }

    /// Decode the elements `range` of the part and their halo, one buffer for each operand, and show
    /// them.
    pub fn with_tile<T>(
        &self,
        isa: &'static Isa,
        range: Range<usize>,
        buffers: &mut Vec<Vec<f32>>,
        show: impl FnOnce(Tile) -> T,
    ) -> T {
        let (first, row) =
            (self.span.start + (self.before + range.start) as u64, self.unit.row_elements);
        let inner = self.before + range.start..self.before + range.end;
        let open = (self.span.end - self.span.start) as usize;
        let halo = self.unit.halo();
        let range = inner.start.saturating_sub(halo)..open.min(inner.end + halo);
        let around = [inner.start - range.start, range.end - inner.end];
        let n = range.len();
        buffers.resize_with(self.count().max(buffers.len()), Vec::new);
        for (input, buffer) in self.open.iter().zip(buffers.iter_mut()) {
            buffer.resize(n.max(buffer.len()), 0.0);
            // Block by block: what is decoded next is on its way while this is decoded.
            for at in (0..n).step_by(BLOCK) {
                let block = at..n.min(at + BLOCK);
                let elements = range.start + block.start..range.start + block.end;
                input.decode(isa, elements, &mut buffer[block]);
            }
        }
        if self.count() <= FEW {
            let mut few = [&[][..]; FEW];
            let operands = &buffers[..self.count()]; // others may be left from a unit with more
            few.iter_mut().zip(operands).for_each(|(slot, buffer)| *slot = &buffer[..n]);
            show(Tile { isa, first, row, around, operands: &few[..self.count()] })
        } else {
            let many: Vec<_> = buffers[..self.count()].iter().map(|b| &b[..n]).collect();
            show(Tile { isa, first, row, around, operands: &many })
        }
    }
}

impl Input<'_> {
    fn decode(&self, isa: &Isa, block: Range<usize>, out: &mut [f32]) {
        match self {
            Self::Values(values) => out.copy_from_slice(&values[block]),
            Self::Bytes(window, dtype) => {
                // `resolve` lets nothing but floats be computed with.
                let Some(from) = dtype.float() else { return };
                let bytes = block.start * from.bytes()..block.end * from.bytes();
                // What was read was touched by the copy; mapped bytes never were.
                if let Window::Mapped(window) = window {
                    prefetch(&window[bytes.end..window.len().min(bytes.end + bytes.len())]);
                }
                isa.decode(from, &window[bytes], out);
            }
        }
    }
}

/// Bytes of `elements` elements.
pub fn len_of(elements: usize, dtype: Dtype) -> Result<usize> {
    byte_len(elements as u64, dtype).and_then(|len| usize::try_from(len).ok()).ok_or_else(|| {
        Error::internal(format!("{elements} elements of {} are not whole bytes", dtype.name()))
    })
}

/// A part that does not fit its unit: a defect of the schedule.
#[cold]
#[must_use]
pub fn split(unit: &Unit) -> Error {
    Error::internal(format!("`{}`: a part does not fit its unit", unit.name))
}
