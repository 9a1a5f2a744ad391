//! What one model is at one unit: a sum of terms, each checked against the source it names.

use std::fmt::Write as _;
use std::sync::Arc;

use super::encoding::To;
use super::network::Network;
use super::opened::{Inputs, expect_equal, too_large, uncomputable};
use super::rows::Rows;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::codec::{Codec, Double, Rounding};
use crate::plan::{LowRankSpec, TermSpec};

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

    /// Whether its bytes, with nothing beside them, are those of what is written.
    pub(super) fn has_bytes_of(&self, to: To) -> bool {
        let alike = |rows: &Rows| {
            let codec = to.codec.map(Codec::name);
            rows.dtype == to.dtype
                && rows.wanted().is_empty()
                && codec == rows.codec.as_ref().map(|codec| codec.name())
        };
        matches!(self.terms.as_slice(), [Term::Rows(rows)] if alike(rows))
    }

    /// Keep what rounding to f32 loses for the rounding that follows: of a copy to a narrower dtype.
    pub(super) fn round_to_odd(&mut self) {
        for term in &mut self.terms {
            if let Term::Rows(rows) = term
                && rows.dtype == Dtype::F64
            {
                rows.codec = Some(Arc::new(Double(Rounding::Odd)));
            }
        }
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
        let rank = usize::try_from(rank).map_err(|_| too_large(here))?;
        match what {
            None => Ok(Self { up, down, rank, scale }),
            Some(what) => Err(Error::plan(format!("{here}: {what}"))),
        }
    }
}
