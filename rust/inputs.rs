//! The operands of a part: windows of the inputs, decoded and summed tile by tile.

use std::ops::Range;

use self::kept::Kept;
use self::open::{Scratch, Sum};
use self::panel::Panel;
use crate::error::{Error, Result};
use crate::kernels::tile::Tile;
use crate::memory;
use crate::resolve::{Operand, Unit, Work};
use crate::schedule::Part;
use crate::simd::{BLOCK, Isa};

mod kept;
mod open;
mod panel;

/// Up to this many operands need no allocation in the innermost loop.
const FEW: usize = 16;

/// The operands of one part, open.
pub struct Inputs<'a> {
    unit: &'a Unit,
    /// The elements of the unit that are open: those of the part and its halo.
    span: Range<u64>,
    /// How many of them come before the part.
    before: usize,
    operands: Vec<Sum<'a>>,
    /// What is added to the result.
    added: Vec<Sum<'a>>,
    read: u64,
}

/// What the operands of a unit are decoded into, kept from tile to tile; and what is kept of them from
/// part to part.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The unit, by its index.
    unit: Option<usize>,
    /// The operands.
    pub operands: Places,
    /// What is added to the result.
    pub added: Places,
}

/// What some operands are decoded into.
#[derive(Debug, Default)]
pub struct Places {
    each: Vec<Place>,
    scratch: Scratch,
}

/// What one operand is decoded into.
#[derive(Debug, Default)]
struct Place {
    /// What is kept of each term.
    kept: Vec<Kept>,
    panel: Panel,
    values: Vec<f32>,
    /// The elements decoded last, if all of them stand in the panel.
    shown: Option<Range<u64>>,
}

impl<'a> Inputs<'a> {
    /// Open windows of every operand; `buffers` hold what cannot be mapped, and `decoded` what of a unit is
    /// read only once.
    pub fn open(
        work: &'a Work,
        isa: &Isa,
        part: &Part,
        buffers: &'a mut Vec<Vec<u8>>,
        decoded: &mut Decoded,
    ) -> Result<Self> {
        let unit = &work.units[part.unit];
        let (first, halo) = (part.first, unit.halo() as u64);
        let end = unit.elements.min(first + part.elements as u64 + halo);
        let span = first.saturating_sub(halo)..end;
        decoded.begin(work, isa, part.unit)?;
        let windows: usize = unit.read().map(Operand::windows).sum();
        buffers.resize_with(windows.max(buffers.len()), Vec::new);
        let mut buffers = buffers.iter_mut();
        let mut open = |of: &'a [Operand]| {
            let sums = of.iter();
            let sums = sums.map(|of| Sum::open((work, unit), of, span.clone(), &mut buffers));
            sums.collect::<Result<Vec<_>>>()
        };
        let (operands, added) = (open(&unit.operands)?, open(&unit.added)?);
        let before = (first - span.start) as usize;
        let windows: u64 = operands.iter().chain(&added).map(Sum::read).sum();
        // Every worker reads what it keeps; a unit has it once.
        let read = windows + if first == 0 { unit.kept_terms_bytes() } else { 0 };
        Ok(Self { unit, span, before, operands, added, read })
    }

    /// The unit these are operands of.
    #[must_use]
    pub fn unit(&self) -> &'a Unit {
        self.unit
    }

    /// How many operands there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.operands.len()
    }

    /// Bytes read to open them.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// The bytes of the first operand, if all operands hold the same.
    #[must_use]
    pub fn common_bytes(&self) -> Option<&[u8]> {
        let mut operands = self.operands.iter().map(Sum::bytes);
        let first = operands.next()??;
        operands.all(|bytes| bytes == Some(first)).then_some(first)
    }

    /// Decode the elements `range` of the part and their halo, one buffer for each operand, and show
    /// them.
    pub fn with_tile<T>(
        &self,
        isa: &'static Isa,
        range: Range<usize>,
        places: &mut Places,
        show: impl FnOnce(Tile) -> T,
    ) -> T {
        let (first, row) =
            (self.span.start + (self.before + range.start) as u64, self.unit.row_elements);
        let inner = self.before + range.start..self.before + range.end;
        let open = (self.span.end - self.span.start) as usize;
        let halo = self.unit.halo();
        let range = inner.start.saturating_sub(halo)..open.min(inner.end + halo);
        let around = [inner.start - range.start, range.end - inner.end];
        let elements = self.span.start + range.start as u64..self.span.start + range.end as u64;
        places.decode(isa, &self.operands, elements);
        let operands = places.shown(range.len());
        if self.count() <= FEW {
            let mut few = [&[][..]; FEW];
            few.iter_mut().zip(operands).for_each(|(slot, operand)| *slot = operand);
            show(Tile { isa, first, row, around, operands: &few[..self.count()] })
        } else {
            let many: Vec<_> = operands.collect();
            show(Tile { isa, first, row, around, operands: &many })
        }
    }

    /// Add to the result of the elements `range` of the part what the plan adds, one after the other; what
    /// that was.
    pub fn add<'p>(
        &self,
        isa: &Isa,
        range: Range<usize>,
        places: &'p mut Places,
        result: &mut [f32],
    ) -> Vec<&'p [f32]> {
        let first = self.span.start + (self.before + range.start) as u64;
        places.decode(isa, &self.added, first..first + range.len() as u64);
        let added: Vec<_> = places.shown(range.len()).collect();
        for values in &added {
            isa.add_scaled(values, 1.0, result);
        }
        added
    }
}

impl Decoded {
    /// Read what is kept of a unit, unless it is that of the part before.
    fn begin(&mut self, work: &Work, isa: &Isa, index: usize) -> Result<()> {
        if self.unit == Some(index) {
            return Ok(());
        }
        // What was kept of the other unit makes room first.
        *self = Self::default();
        let unit = &work.units[index];
        let tile = unit.tile().max(BLOCK);
        memory::expect(unit.beside(tile as u64))?;
        let place = |operand: &Operand| -> Result<Place> {
            let kept = operand.terms.iter().map(|term| Kept::load(term, &work.sources, isa));
            let mut place = Place { kept: kept.collect::<Result<_>>()?, ..Place::default() };
            memory::at_least(&mut place.values, tile)?;
            Ok(place)
        };
        self.operands.each = unit.operands.iter().map(place).collect::<Result<_>>()?;
        self.added.each = unit.added.iter().map(place).collect::<Result<_>>()?;
        self.unit = Some(index);
        Ok(())
    }
}

impl Places {
    fn decode(&mut self, isa: &Isa, sums: &[Sum], elements: Range<u64>) {
        for (sum, place) in sums.iter().zip(&mut self.each) {
            place.decode(isa, sum, elements.clone(), &mut self.scratch);
        }
    }

    /// The `n` elements of each that were decoded last.
    fn shown(&self, n: usize) -> impl Iterator<Item = &[f32]> {
        self.each.iter().map(move |place| place.get(n))
    }
}

impl Place {
    /// Decode elements of an operand, counted from the first of the unit.
    fn decode(&mut self, isa: &Isa, sum: &Sum, elements: Range<u64>, scratch: &mut Scratch) {
        let n = (elements.end - elements.start) as usize;
        self.shown = None;
        if sum.panel.is_none() {
            self.values.resize(n.max(self.values.len()), 0.0);
            return sum.decode(isa, elements, scratch, &mut self.values[..n]);
        }
        let mut at = elements.start;
        while at < elements.end {
            if !self.panel.made.contains(&at) {
                self.panel.make(isa, sum, &self.kept, at, scratch);
            }
            let piece = at..elements.end.min(self.panel.made.end);
            if piece == elements {
                self.shown = Some(elements);
                return;
            }
            self.values.resize(n.max(self.values.len()), 0.0);
            let out = &mut self.values[(at - elements.start) as usize..];
            let made = self.panel.get(piece.clone());
            out[..made.len()].copy_from_slice(made);
            at = piece.end;
        }
    }

    /// The `n` elements decoded last.
    fn get(&self, n: usize) -> &[f32] {
        match &self.shown {
            Some(elements) => self.panel.get(elements.clone()),
            None => &self.values[..n],
        }
    }
}

/// A part that does not fit its unit: a defect of the schedule.
#[cold]
#[must_use]
pub fn split(unit: &Unit) -> Error {
    Error::internal(format!("`{}`: a part does not fit its unit", unit.name))
}
