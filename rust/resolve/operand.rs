//! What one model is at one unit: a sum of terms, each checked against the source it names.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Inputs;
use super::network::Network;
use crate::dtype::Dtype;
use crate::error::{Error, Result, quoted};
use crate::format::codec::{Block, Codec, CodecSpec, Side};
use crate::plan::{LowRankSpec, RowsSpec, TermSpec};

/// The sum of its terms: the first is decoded, each of the others added to it, in order, in f32.
#[derive(Debug)]
pub struct Operand {
    /// At least one.
    pub terms: Vec<Term>,
}

/// One summand.
#[derive(Debug)]
pub enum Term {
    /// Bytes behind a codec behind a source.
    Rows(Rows),
    /// A product of two thin matrices.
    LowRank(LowRank),
    /// One value per element, made before the job.
    Network(Network),
}

/// A contiguous range of a source and what its bytes mean.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Index into the sources.
    pub source: usize,
    /// Where the range starts in the source.
    pub at: u64,
    /// Its number of elements.
    pub elements: u64,
    /// Index of its first block, counted from the first of the tensor.
    pub first: u64,
    /// What the source's header calls it.
    pub dtype: Dtype,
    /// What turns it into numbers, if anything does.
    pub codec: Option<Arc<dyn Codec>>,
    /// Where the tensors that the codec wants beside it start: source and byte.
    pub sides: Vec<(usize, u64)>,
}

/// `scale · up · down`: products and sums in f32, over the rank from 0 on, without fused steps; the
/// sum is multiplied by `scale` last.
#[derive(Debug)]
pub struct LowRank {
    /// (rows, rank).
    pub up: Rows,
    /// (rank, columns).
    pub down: Rows,
    /// Columns of `up`.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// The shape of a unit.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) rows: u64,
    pub(super) row_elements: u64,
}

impl Operand {
    pub(super) fn check(
        specs: &[TermSpec],
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let terms = specs.iter().map(|term| Term::check(term, extent, inputs, here));
        let terms = terms.collect::<Result<Vec<_>>>()?;
        if terms.is_empty() {
            return Err(Error::plan(format!("{here}: an operand without terms, expected one")));
        }
        Ok(Self { terms })
    }

    /// Whether its bytes are those of a tensor of `dtype`.
    #[must_use]
    pub fn is_plain(&self, dtype: Dtype) -> bool {
        let plain = |rows: &Rows| {
            let plain = CodecSpec::Plain.codec(dtype).map(|codec| codec.name());
            rows.dtype == dtype && plain == rows.codec.as_ref().map(|codec| codec.name())
        };
        matches!(self.terms.as_slice(), [Term::Rows(rows)] if plain(rows))
    }

    /// The rows of all its terms.
    pub fn rows(&self) -> impl Iterator<Item = &Rows> {
        self.terms.iter().flat_map(|term| match term {
            Term::Rows(rows) => vec![rows],
            Term::LowRank(product) => vec![&product.up, &product.down],
            Term::Network(_) => Vec::new(),
        })
    }

    /// Windows as wide as an item that it takes, or the room of one decoded.
    #[must_use]
    pub fn streams(&self) -> u64 {
        let rows = self.terms.iter().filter(|term| matches!(term, Term::Rows(_))).count();
        rows.max(1) as u64
    }

    /// Bytes that are open besides windows as wide as an item of so many elements.
    #[must_use]
    pub fn beside(&self, elements: u64, row_elements: u64) -> u64 {
        let of = |term: &Term| match term {
            Term::Rows(rows) => rows.whole_sides(),
            Term::LowRank(LowRank { up, down, rank, .. }) => {
                let rows = elements / row_elements.max(1) + 2;
                let up_bytes = up.bytes_of(rows * *rank as u64) + up.whole_sides();
                let decoded = (*rank + 2 * crate::simd::BLOCK) * size_of::<f32>();
                up_bytes + down.bytes_of(down.elements) + down.whole_sides() + decoded as u64
            }
            Term::Network(_) => 0,
        };
        self.terms.iter().map(of).sum()
    }

    /// Everything that its values depend on; `None` if that cannot be said.
    pub(super) fn key(&self, source: &dyn Fn(usize) -> Option<String>) -> Option<String> {
        let rows = |rows: &Rows| {
            let mut key = format!("{}@{}:{}", source(rows.source)?, rows.at, rows.name());
            for (side, at) in &rows.sides {
                let _ = write!(key, "+{}@{at}", source(*side)?);
            }
            Some(key)
        };
        let terms = self.terms.iter().map(|term| match term {
            Term::Rows(of) => rows(of),
            Term::LowRank(LowRank { up, down, rank, scale }) => {
                Some(format!("{}*{rank}*{}*{:08x}", rows(up)?, rows(down)?, scale.to_bits()))
            }
            // Values that were made on the way have no source to be known by.
            Term::Network(_) => None,
        });
        Some(terms.collect::<Option<Vec<_>>>()?.join("|"))
    }
}

impl Term {
    fn check(spec: &TermSpec, extent: Extent, inputs: &Inputs, here: &str) -> Result<Self> {
        let Extent { rows, row_elements } = extent;
        match spec {
            TermSpec::Rows(spec) => {
                let (found, columns) = Rows::find(spec, inputs, here)?;
                expect_equal(here, "rows", rows, spec.end - spec.start)?;
                expect_equal(here, "elements in a row", row_elements, columns)?;
                Ok(Self::Rows(found))
            }
            TermSpec::LowRank(spec) => {
                LowRank::check(spec, extent, inputs, here).map(Self::LowRank)
            }
            TermSpec::Network(spec) => {
                let network = Network::check(spec, inputs, here)?;
                let (elements, values) = (rows * row_elements, network.width());
                expect_equal(here, "values of the network", elements, values)?;
                Ok(Self::Network(network))
            }
        }
    }
}

impl LowRank {
    fn check(spec: &LowRankSpec, extent: Extent, inputs: &Inputs, here: &str) -> Result<Self> {
        let (up, rank) = Rows::find(&spec.up, inputs, here)?;
        let (down, columns) = Rows::find(&spec.down, inputs, here)?;
        expect_equal(here, "rows of `up`", extent.rows, spec.up.end - spec.up.start)?;
        expect_equal(here, "rows of `down`", rank, spec.down.end - spec.down.start)?;
        expect_equal(here, "columns of `down`", extent.row_elements, columns)?;
        let scale = spec.scale as f32;
        let what = match (rank, scale.is_finite()) {
            (1.., true) => None,
            (0, _) => Some("rank 0, expected at least 1".to_owned()),
            _ => Some(format!("scale {}, expected a finite f32", spec.scale)),
        };
        let other = [&up, &down].into_iter().find(|rows| rows.codec.is_none());
        let what = what.or_else(|| other.map(|rows| uncomputable(rows.dtype)));
        let rank = usize::try_from(rank).map_err(|_| super::too_large(here))?;
        match what {
            None => Ok(Self { up, down, rank, scale }),
            Some(what) => Err(Error::plan(format!("{here}: {what}"))),
        }
    }
}

impl Rows {
    /// The rows that a plan names, and how many elements each has.
    pub(super) fn find(spec: &RowsSpec, inputs: &Inputs, here: &str) -> Result<(Self, u64)> {
        let (header, tensor) = inputs.tensor(spec.source, &spec.tensor, here)?;
        let (start, end, rows) = (spec.start, spec.end, tensor.rows());
        if start > end || end > rows {
            let path = inputs.sources[spec.source].path().display();
            let what = format!(
                "{here}: rows {start}..{end} of {} in {path}, which has {rows} rows",
                quoted(&spec.tensor)
            );
            return Err(Error::plan(what));
        }
        let too_large = || super::too_large(here);
        let bytes =
            |rows: u64| Block::of(tensor.dtype).len(rows.checked_mul(tensor.row_elements())?);
        let at = bytes(start).ok_or_else(too_large)? + header.data_start + tensor.start;
        let codec = spec.codec.codec(tensor.dtype);
        let columns = match &codec {
            None => tensor.row_elements(), // may be less than a byte
            Some(codec) => {
                let Block { elements, bytes: size } = codec.block();
                bytes(1).ok_or_else(too_large)? / size as u64 * elements as u64
            }
        };
        let counted = |rows: u64| rows.checked_mul(columns).ok_or_else(too_large);
        let (source, dtype, elements) = (spec.source, tensor.dtype, counted(end - start)?);
        let mut found = Self { source, at, elements, first: 0, dtype, codec, sides: Vec::new() };
        let block = found.block().elements as u64;
        found.first = counted(start)? / block;
        found.sides = found.find_sides(spec, counted(rows)? / block, inputs, here)?;
        Ok((found, columns))
    }

    /// Where the tensors beside a payload of so many blocks are.
    fn find_sides(
        &self,
        spec: &RowsSpec,
        blocks: u64,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Vec<(usize, u64)>> {
        let count = self.wanted().len() as u64;
        expect_equal(here, "tensors beside the rows", count, spec.sides.len() as u64)?;
        let sides = self.wanted().iter().zip(&spec.sides).map(|(side, named)| {
            let (header, tensor) = inputs.tensor(named.source, &named.tensor, here)?;
            let what = format!("bytes of {}", quoted(&named.tensor));
            expect_equal(here, &what, side.range(0..blocks).end, tensor.end - tensor.start)?;
            Ok((named.source, header.data_start + tensor.start))
        });
        sides.collect()
    }

    /// How the payload is cut.
    #[must_use]
    pub fn block(&self) -> Block {
        self.codec.as_ref().map_or_else(|| Block::of(self.dtype), |codec| codec.block())
    }

    /// The tensors beside the payload, as the codec wants them.
    #[must_use]
    pub fn wanted(&self) -> &[Side] {
        self.codec.as_ref().map_or(&[], |codec| codec.sides())
    }

    /// Bytes that `elements` of it take at most, with what is beside them in proportion.
    #[must_use]
    pub fn bytes_of(&self, elements: u64) -> u64 {
        let block = self.block();
        let blocks = elements.div_ceil(block.elements as u64);
        let beside = self.wanted().iter().map(|side| match side {
            Side::Whole { .. } => 0,
            Side::Every { blocks: n, bytes } => (blocks.div_ceil(*n) + 1) * *bytes as u64,
        });
        blocks * block.bytes as u64 + beside.sum::<u64>()
    }

    fn whole_sides(&self) -> u64 {
        let of = |side: &Side| if let Side::Whole { bytes } = side { *bytes as u64 } else { 0 };
        self.wanted().iter().map(of).sum()
    }

    fn name(&self) -> String {
        self.codec.as_ref().map_or_else(|| self.dtype.name().to_owned(), |codec| codec.name())
    }
}

/// What is said of a dtype that is no number format.
pub(super) fn uncomputable(dtype: Dtype) -> String {
    format!(
        "dtype {} cannot be computed with, expected F32, F16, BF16, F8_E4M3 or F8_E5M2",
        dtype.name()
    )
}

pub(super) fn expect_equal(here: &str, what: &str, expected: u64, got: u64) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::plan(format!("{here}: {what} differ, expected {expected}, got {got}")))
}
