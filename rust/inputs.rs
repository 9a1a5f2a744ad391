//! The operands of a part: windows of the inputs, decoded and summed tile by tile.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernels::tile::Tile;
use crate::memory;
use crate::resolve::rows::{Buffers, OpenRows, Room};
use crate::resolve::{LowRank, Operand, Rows, Term, Unit, Work};
use crate::schedule::Part;
use crate::simd::{BLOCK, Isa};

/// Up to this many operands need no allocation in the innermost loop.
const FEW: usize = 16;

/// The operands of one part, open.
pub struct Inputs<'a> {
    unit: &'a Unit,
    /// The elements of the unit that are open: those of the part and its halo.
    span: Range<u64>,
    /// How many of them come before the part.
    before: usize,
    /// The terms of each operand.
    open: Vec<Vec<Open<'a>>>,
}

/// A term over the elements of a part.
enum Open<'a> {
    Rows(OpenRows<'a>),
    LowRank(Product<'a>),
    Values(&'a [f32]),
}

/// A product of two thin matrices; `up` is open where the part is, `down` is whole.
struct Product<'a> {
    of: &'a LowRank,
    /// Columns of the product.
    columns: u64,
    up: OpenRows<'a>,
    down: OpenRows<'a>,
}

/// What operands are decoded into, kept from tile to tile.
#[derive(Debug, Default)]
pub struct Decoded {
    operands: Vec<Vec<f32>>,
    terms: Terms,
}

#[derive(Debug, Default)]
struct Terms {
    /// A term that is added to those before it.
    term: Vec<f32>,
    /// A row of `up`, and a piece of a row of `down`.
    up: Vec<f32>,
    down: Vec<f32>,
    room: Room,
}

impl Decoded {
    /// Have room for the tiles of a unit, and find out whether there is some for its kernel's: neither
    /// can refuse once it is at work.
    pub fn fit(&mut self, unit: &Unit) -> Result<()> {
        self.operands.resize_with(unit.operands.len().max(self.operands.len()), Vec::new);
        let tile = unit.tile().max(BLOCK);
        let mut buffers = self.operands.iter_mut().take(unit.operands.len());
        buffers.try_for_each(|buffer| memory::at_least(buffer, tile))?;
        for term in unit.operands.iter().flat_map(|operand| &operand.terms) {
            if let Term::LowRank(of) = term {
                memory::at_least(&mut self.terms.up, of.rank)?;
            }
        }
        memory::expect(unit.state_bytes())
    }
}

impl<'a> Inputs<'a> {
    /// Open windows of every operand; `buffers` hold what cannot be mapped.
    pub fn open(work: &'a Work, part: &Part, buffers: &'a mut Vec<Vec<u8>>) -> Result<Self> {
        let unit = &work.units[part.unit];
        let (first, halo) = (part.first, unit.halo() as u64);
        let end = unit.elements.min(first + part.elements as u64 + halo);
        let span = first.saturating_sub(halo)..end;
        let windows = unit.operands.iter().flat_map(Operand::rows).map(Rows::windows);
        buffers.resize_with(windows.sum::<usize>().max(buffers.len()), Vec::new);
        let mut buffers = buffers.iter_mut();
        let mut open = |term: &'a Term| Open::term(work, unit, term, span.clone(), &mut buffers);
        let operands = unit.operands.iter();
        let open = operands.map(|operand| operand.terms.iter().map(&mut open).collect());
        let open = open.collect::<Result<_>>()?;
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
        self.open.iter().flatten().map(Open::read).sum()
    }

    /// The bytes of the first operand, if all operands hold the same.
    #[must_use]
    pub fn common_bytes(&self) -> Option<&[u8]> {
        let mut operands = self.open.iter().map(|terms| match terms.as_slice() {
            [Open::Rows(rows)] => Some(rows.bytes()),
            _ => None,
        });
        let first = operands.next()??;
        operands.all(|bytes| bytes == Some(first)).then_some(first)
    }

    /// Decode the elements `range` of the part and their halo, one buffer for each operand, and show
    /// them.
    pub fn with_tile<T>(
        &self,
        isa: &'static Isa,
        range: Range<usize>,
        decoded: &mut Decoded,
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
        let Decoded { operands: buffers, terms: scratch } = decoded;
        buffers.resize_with(self.count().max(buffers.len()), Vec::new);
        for (terms, buffer) in self.open.iter().zip(buffers.iter_mut()) {
            buffer.resize(n.max(buffer.len()), 0.0);
            // Block by block: what is decoded next is on its way while this is decoded.
            for at in (0..n).step_by(BLOCK) {
                let block = at..n.min(at + BLOCK);
                let first = self.span.start + (range.start + block.start) as u64;
                let elements = first..first + block.len() as u64;
                sum(terms, isa, elements, scratch, &mut buffer[block]);
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

/// The first term, then each of the others added to it in f32, in order.
fn sum(terms: &[Open], isa: &Isa, elements: Range<u64>, scratch: &mut Terms, out: &mut [f32]) {
    let Some((first, others)) = terms.split_first() else { return };
    first.decode(isa, elements.clone(), scratch, out);
    for term in others {
        let mut next = std::mem::take(&mut scratch.term);
        next.resize(BLOCK, 0.0);
        term.decode(isa, elements.clone(), scratch, &mut next[..out.len()]);
        isa.add_scaled(&next[..out.len()], 1.0, out);
        scratch.term = next;
    }
}

impl<'a> Open<'a> {
    fn term(
        work: &'a Work,
        unit: &'a Unit,
        term: &'a Term,
        span: Range<u64>,
        buffers: Buffers<'_, 'a>,
    ) -> Result<Self> {
        match term {
            Term::Rows(rows) => rows.open(&work.sources, span, buffers).map(Self::Rows),
            Term::LowRank(of) => {
                let (columns, rank) = (unit.row_elements.max(1) as u64, of.rank as u64);
                let rows = span.start / columns * rank..span.end.div_ceil(columns) * rank;
                let up = of.up.open(&work.sources, rows, buffers)?;
                let down = of.down.open(&work.sources, 0..of.down.elements, buffers)?;
                Ok(Self::LowRank(Product { of, columns, up, down }))
            }
            Term::Network(network) => Ok(Self::Values(network.values())),
        }
    }

    fn read(&self) -> u64 {
        match self {
            Self::Rows(rows) => rows.read(),
            Self::LowRank(Product { up, down, .. }) => up.read() + down.read(),
            Self::Values(_) => 0,
        }
    }

    /// Decode at most [`BLOCK`] elements, counted from the first of the unit.
    fn decode(&self, isa: &Isa, elements: Range<u64>, scratch: &mut Terms, out: &mut [f32]) {
        match self {
            Self::Rows(rows) => rows.decode(isa, elements, &mut scratch.room, out),
            Self::LowRank(product) => product.decode(isa, elements, scratch, out),
            Self::Values(values) => {
                out.copy_from_slice(&values[elements.start as usize..elements.end as usize]);
            }
        }
    }
}

impl Product<'_> {
    fn decode(&self, isa: &Isa, elements: Range<u64>, scratch: &mut Terms, out: &mut [f32]) {
        let (rank, columns) = (self.of.rank, self.columns);
        let Terms { up, down, room, .. } = scratch;
        up.resize(rank.max(up.len()), 0.0);
        down.resize(BLOCK, 0.0);
        let mut at = elements.start;
        while at < elements.end {
            let (row, column) = (at / columns, at % columns);
            let n = (columns - column).min(elements.end - at);
            let piece = &mut out[(at - elements.start) as usize..][..n as usize];
            let factors = row * rank as u64..(row + 1) * rank as u64;
            self.up.decode(isa, factors, room, &mut up[..rank]);
            for (k, factor) in up[..rank].iter().enumerate() {
                let begun = k as u64 * columns + column;
                let values = &mut down[..piece.len()];
                self.down.decode(isa, begun..begun + n, room, values);
                if k == 0 {
                    isa.scale(values, *factor, piece);
                } else {
                    isa.add_scaled(values, *factor, piece);
                }
            }
            for value in piece {
                *value *= self.of.scale;
            }
            at += n;
        }
    }
}

/// A part that does not fit its unit: a defect of the schedule.
#[cold]
#[must_use]
pub fn split(unit: &Unit) -> Error {
    Error::internal(format!("`{}`: a part does not fit its unit", unit.name))
}
