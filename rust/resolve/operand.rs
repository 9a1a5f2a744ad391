//! What one model is at one unit: a sum of terms, each checked against the source it names.

use std::fmt::Write as _;
use std::sync::Arc;

use super::encoding::To;
use super::network::Network;
use super::opened::{Inputs, expect_equal};
use super::rows::Rows;
use super::terms::{Extent, Hadamard, Kronecker, LowRank, Magnitude, Multiplied, Scaled};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::codec::{Codec, Double, Rounding};
use crate::plan::TermSpec;

/// Elements that products are made of together: rows of a wide layer that stay in a second-level cache.
const PANEL: u64 = 32 * 3072;

/// How many rows that is, of narrow and of wide ones: fewer would load the other factor too often.
const PANEL_ROWS: (u64, u64) = (32, 1024);

/// Its terms in order: the first is decoded, each of the others added to the sum so far, or multiplied
/// onto it, in f32.
#[derive(Debug)]
pub struct Operand {
    /// At least one.
    pub terms: Vec<Term>,
}

/// One term.
#[derive(Debug)]
pub enum Term {
    /// Bytes behind a codec behind a source.
    Rows(Rows),
    /// The same, multiplied by a number.
    Scaled(Scaled),
    /// A product of two thin matrices.
    LowRank(LowRank),
    /// The first term times such a product.
    Multiplied(Multiplied),
    /// Two such products, multiplied element by element.
    Hadamard(Hadamard),
    /// A Kronecker product of two matrices.
    Kronecker(Kronecker),
    /// What sets the length of every row.
    Magnitude(Magnitude),
    /// One value per element, made before the job.
    Network(Network),
}

impl Operand {
    pub(super) fn check(
        specs: &[TermSpec],
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let terms = specs.iter().map(|term| Term::check(term, extent, inputs, here));
        let mut terms = terms.collect::<Result<Vec<_>>>()?;
        match terms.first() {
            None => Err(Error::plan(format!("{here}: an operand without terms, expected one"))),
            Some(Term::Magnitude(_)) => {
                let what = "a magnitude without a term before it, expected one to multiply";
                Err(Error::plan(format!("{here}: {what}")))
            }
            Some(Term::Multiplied(_)) => {
                let what = "a term that multiplies the first is the first, expected one before it";
                Err(Error::plan(format!("{here}: {what}")))
            }
            Some(_) => {
                // What comes to nothing must not make a copy a sum: 0 · x is no 0 for every x, and
                // -0 + 0 is not -0.
                let mut first = true;
                terms.retain(|term| std::mem::take(&mut first) || !term.is_void());
                Ok(Self { terms })
            }
        }
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
        if let [Term::Rows(rows)] = self.terms.as_mut_slice()
            && rows.dtype == Dtype::F64
        {
            rows.codec = Some(Arc::new(Double(Rounding::Odd)));
        }
    }

    /// The rows of all its terms.
    pub fn rows(&self) -> impl Iterator<Item = &Rows> {
        self.terms.iter().flat_map(Term::rows)
    }

    /// Those that are open in windows as wide as an item.
    pub fn streamed(&self) -> impl Iterator<Item = &Rows> {
        self.terms.iter().filter_map(Term::streamed)
    }

    /// How many windows it takes to open a part.
    #[must_use]
    pub fn windows(&self) -> usize {
        let open = |term: &Term| match term {
            Term::LowRank(LowRank { product, .. }) => product.up.windows(),
            Term::Hadamard(Hadamard { left, right, .. }) => left.up.windows() + right.up.windows(),
            term => term.streamed().map_or(0, Rows::windows),
        };
        self.terms.iter().map(open).sum()
    }

    /// Windows as wide as an item that it takes, or the room of one decoded.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.streamed().count().max(1) as u64
    }

    /// How many whole rows are made together, if any are.
    #[must_use]
    pub fn panel(&self, row_elements: u64) -> Option<u64> {
        let is_made = |term: &Term| {
            use Term::{Network, Rows, Scaled};
            !matches!(term, Rows(_) | Scaled(_) | Network(_))
        };
        let (fewest, most) = PANEL_ROWS;
        let rows = (PANEL / row_elements.max(1)).clamp(fewest, most);
        self.terms.iter().any(is_made).then_some(rows)
    }

    /// Whether it must see whole rows, at both ends of a part too.
    #[must_use]
    pub fn by_rows(&self) -> bool {
        self.terms.iter().any(|term| matches!(term, Term::Magnitude(_) | Term::Multiplied(_)))
    }

    /// Bytes that are open besides windows as wide as an item of so many elements.
    #[must_use]
    pub fn beside(&self, elements: u64, row_elements: u64) -> u64 {
        let rows = elements / row_elements.max(1) + 2;
        let at_once = self.panel(row_elements).map_or(0, |panel| panel.min(rows));
        let of = |term: &Term| match term {
            Term::Rows(rows) | Term::Scaled(Scaled { rows, .. }) => {
                let around = if self.by_rows() { rows.bytes_of(2 * row_elements) } else { 0 };
                rows.whole_sides() + rows.beside(elements) + around
            }
            Term::LowRank(term) => term.bytes(rows, at_once),
            Term::Multiplied(term) => term.bytes(at_once, row_elements),
            Term::Hadamard(term) => term.bytes(rows, at_once, row_elements),
            Term::Kronecker(term) => term.bytes(at_once),
            Term::Magnitude(term) => term.bytes(at_once),
            Term::Network(_) => 0,
        };
        let made = at_once.saturating_mul(row_elements * size_of::<f32>() as u64);
        self.terms.iter().map(of).fold(made, u64::saturating_add)
    }

    /// Everything that its values depend on; `None` if that cannot be said.
    pub(super) fn key(&self, source: &dyn Fn(usize) -> Option<String>) -> Option<String> {
        let terms = self.terms.iter().map(|term| term.key(source));
        Some(terms.collect::<Option<Vec<_>>>()?.join("|"))
    }
}

impl Term {
    fn check(spec: &TermSpec, extent: Extent, inputs: &Inputs, here: &str) -> Result<Self> {
        let Extent { rows, row_elements } = extent;
        Ok(match spec {
            TermSpec::Rows(spec) => {
                let (found, columns) = Rows::find(spec, inputs, here)?;
                expect_equal(here, "rows", rows, spec.end - spec.start)?;
                expect_equal(here, "elements in a row", row_elements, columns)?;
                Self::Rows(found)
            }
            TermSpec::Scaled(spec) => Self::Scaled(Scaled::check(spec, extent, inputs, here)?),
            TermSpec::LowRank(spec) => Self::LowRank(LowRank::check(spec, extent, inputs, here)?),
            TermSpec::Multiplied(spec) => {
                Self::Multiplied(Multiplied::check(spec, extent, inputs, here)?)
            }
            TermSpec::Hadamard(spec) => {
                Self::Hadamard(Hadamard::check(spec, extent, inputs, here)?)
            }
            TermSpec::Kronecker(spec) => {
                Self::Kronecker(Kronecker::check(spec, extent, inputs, here)?)
            }
            TermSpec::Magnitude(spec) => {
                Self::Magnitude(Magnitude::check(spec, extent, inputs, here)?)
            }
            TermSpec::Network(spec) => {
                let network = Network::check(spec, inputs, here)?;
                let (elements, values) = (rows * row_elements, network.width());
                expect_equal(here, "values of the network", elements, values)?;
                Self::Network(network)
            }
        })
    }

    /// Whether it changes nothing.
    pub(super) fn is_void(&self) -> bool {
        let scale = match self {
            Self::Rows(_) | Self::Network(_) => return false,
            Self::Scaled(Scaled { scale, .. })
            | Self::LowRank(LowRank { scale, .. })
            | Self::Multiplied(Multiplied { scale, .. })
            | Self::Hadamard(Hadamard { scale, .. })
            | Self::Kronecker(Kronecker { scale, .. }) => scale,
            Self::Magnitude(Magnitude { strength, .. }) => strength,
        };
        *scale == 0.0
    }

    fn streamed(&self) -> Option<&Rows> {
        match self {
            Self::Rows(rows) | Self::Scaled(Scaled { rows, .. }) => Some(rows),
            _ => None,
        }
    }

    /// What of it a worker holds whole, in f32, from part to part.
    #[must_use]
    pub fn kept(&self) -> Vec<&Rows> {
        match self {
            Self::LowRank(LowRank { product, .. }) => vec![&product.down],
            Self::Hadamard(Hadamard { left, right, .. }) => vec![&left.down, &right.down],
            Self::Kronecker(_) | Self::Magnitude(_) | Self::Multiplied(_) => self.rows(),
            Self::Rows(_) | Self::Scaled(_) | Self::Network(_) => Vec::new(),
        }
    }

    fn rows(&self) -> Vec<&Rows> {
        match self {
            Self::Rows(rows) | Self::Scaled(Scaled { rows, .. }) => vec![rows],
            Self::LowRank(LowRank { product, .. })
            | Self::Multiplied(Multiplied { product, .. }) => product.rows(),
            Self::Hadamard(Hadamard { left, right, .. }) => [left.rows(), right.rows()].concat(),
            Self::Kronecker(Kronecker { left, right, .. }) => {
                [left.stored(), right.stored()].concat()
            }
            Self::Magnitude(Magnitude { values, .. }) => vec![values],
            Self::Network(_) => Vec::new(),
        }
    }

    /// Everything that its values depend on; `None` if that cannot be said.
    fn key(&self, source: &dyn Fn(usize) -> Option<String>) -> Option<String> {
        let how = match self {
            Self::Rows(_) => String::new(),
            Self::Scaled(Scaled { scale, .. }) => format!("{:08x}*", scale.to_bits()),
            Self::LowRank(LowRank { product, scale }) => {
                format!("product {}*{:08x}*", product.rank, scale.to_bits())
            }
            Self::Multiplied(Multiplied { product, scale }) => {
                format!("multiplied {}*{:08x}*", product.rank, scale.to_bits())
            }
            Self::Hadamard(Hadamard { left, right, scale }) => {
                format!("hadamard {}*{}*{:08x}*", left.rank, right.rank, scale.to_bits())
            }
            Self::Kronecker(Kronecker { left, right, first, scale }) => {
                let [left, right] =
                    [left, right].map(|f| format!("{}x{}/{}", f.rows, f.columns, f.rank()));
                format!("kronecker {left}*{right}@{first}*{:08x}*", scale.to_bits())
            }
            Self::Magnitude(Magnitude { norm, strength, epsilon, .. }) => {
                let [strength, epsilon] = [strength, epsilon].map(|x| x.to_bits());
                format!("magnitude {norm:?}*{strength:08x}+{epsilon:08x}*")
            }
            // Values that were made on the way have no source to be known by.
            Self::Network(_) => return None,
        };
        let place = |rows: &Rows| {
            let mut key = format!("{}@{}:{}", source(rows.source)?, rows.at, rows.name());
            for (side, at) in &rows.sides {
                let _ = write!(key, "+{}@{at}", source(*side)?);
            }
            Some(key)
        };
        let places = self.rows().into_iter().map(place).collect::<Option<Vec<_>>>()?;
        Some(how + &places.join("*"))
    }
}
