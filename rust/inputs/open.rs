//! The terms of an operand over the elements of a part.

use std::ops::Range;

use crate::error::Result;
use crate::resolve::rows::{Buffers, OpenRows, Room};
use crate::resolve::{
    Hadamard, Kronecker, LowRank, Magnitude, Multiplied, Operand, Scaled, Term, Unit, Work,
};
use crate::simd::{BLOCK, Isa};

/// A term over the elements of a part; of a product `up` is open where the part is.
pub enum Open<'a> {
    /// Rows of a tensor.
    Rows(OpenRows<'a>),
    /// The same, multiplied.
    Scaled(OpenRows<'a>, f32),
    /// A product.
    LowRank(&'a LowRank, OpenRows<'a>),
    /// The first term, multiplied by a product.
    Multiplied(&'a Multiplied),
    /// Two products, multiplied.
    Hadamard(&'a Hadamard, [OpenRows<'a>; 2]),
    /// A Kronecker product.
    Kronecker(&'a Kronecker),
    /// What sets the length of rows.
    Magnitude(&'a Magnitude),
    /// One value per element.
    Values(&'a [f32]),
}

/// An operand over the elements of a part.
pub struct Sum<'a> {
    /// Its terms, in order.
    pub terms: Vec<Open<'a>>,
    /// The elements that are open, counted from the first of the unit.
    pub span: Range<u64>,
    /// Elements of a row.
    pub columns: u64,
    /// How many rows are made together, if they are not made block by block.
    pub panel: Option<u64>,
}

/// What a block is decoded in.
#[derive(Debug, Default)]
pub struct Scratch {
    /// A term that is added to those before it.
    term: Vec<f32>,
    /// What decoding needs.
    pub room: Room,
}

impl<'a> Sum<'a> {
    /// Open windows of what an operand reads for `span`.
    pub fn open(
        (work, unit): (&'a Work, &'a Unit),
        operand: &'a Operand,
        span: Range<u64>,
        buffers: Buffers<'_, 'a>,
    ) -> Result<Self> {
        let columns = unit.row_elements.max(1) as u64;
        let rows = span.start / columns..span.end.div_ceil(columns);
        let span = if operand.by_rows() { rows.start * columns..rows.end * columns } else { span };
        let sources = &work.sources;
        let terms = operand.terms.iter().map(|term| {
            let mut up = |up: &'a crate::resolve::Rows, rank: usize| {
                let rank = rank as u64;
                up.open(sources, rows.start * rank..rows.end * rank, buffers)
            };
            Ok(match term {
                Term::LowRank(of) => Open::LowRank(of, up(&of.product.up, of.product.rank)?),
                Term::Hadamard(of) => {
                    let left = up(&of.left.up, of.left.rank)?;
                    Open::Hadamard(of, [left, up(&of.right.up, of.right.rank)?])
                }
                Term::Rows(rows) => Open::Rows(rows.open(sources, span.clone(), buffers)?),
                Term::Scaled(Scaled { rows, scale }) => {
                    Open::Scaled(rows.open(sources, span.clone(), buffers)?, *scale)
                }
                Term::Multiplied(of) => Open::Multiplied(of),
                Term::Kronecker(of) => Open::Kronecker(of),
                Term::Magnitude(of) => Open::Magnitude(of),
                Term::Network(network) => Open::Values(network.values()),
            })
        });
        let terms = terms.collect::<Result<_>>()?;
        Ok(Self { terms, span, columns, panel: operand.panel(columns) })
    }

    /// Bytes of all windows.
    #[must_use]
    pub fn read(&self) -> u64 {
        let of = |term: &Open| match term {
            Open::Rows(rows) | Open::Scaled(rows, _) | Open::LowRank(_, rows) => rows.read(),
            Open::Hadamard(_, [left, right]) => left.read() + right.read(),
            Open::Multiplied(_) | Open::Kronecker(_) | Open::Magnitude(_) | Open::Values(_) => 0,
        };
        self.terms.iter().map(of).sum()
    }

    /// Its bytes, if they are those of rows.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self.terms.as_slice() {
            [Open::Rows(rows)] => Some(rows.bytes()),
            _ => None,
        }
    }

    /// The first term, then each of the others added to it in f32, in order, block by block: what is decoded
    /// next is on its way while this is decoded.
    pub fn decode(&self, isa: &Isa, elements: Range<u64>, scratch: &mut Scratch, out: &mut [f32]) {
        for (first, out) in elements.step_by(BLOCK).zip(out.chunks_mut(BLOCK)) {
            for (at, term) in self.terms.iter().enumerate() {
                term.put(isa, first..first + out.len() as u64, at > 0, scratch, out);
            }
        }
    }
}

impl Open<'_> {
    /// Puts at most [`BLOCK`] elements, counted from the first of the unit, into `out`, or adds them;
    /// what is no row or value is left to [`super::panel::Panel`].
    pub fn put(
        &self,
        isa: &Isa,
        elements: Range<u64>,
        add: bool,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let Scratch { term, room } = scratch;
        term.resize(BLOCK, 0.0);
        let term = &mut term[..out.len()];
        match (self, add) {
            (Self::Rows(rows), false) => rows.decode(isa, elements, room, out),
            (Self::Rows(rows), true) => {
                rows.decode(isa, elements, room, term);
                isa.add_scaled(term, 1.0, out);
            }
            (Self::Scaled(rows, scale), _) => {
                rows.decode(isa, elements, room, term);
                if add {
                    isa.add_scaled(term, *scale, out);
                } else {
                    isa.scale(term, *scale, out);
                }
            }
            (Self::Values(values), _) => {
                let values = &values[elements.start as usize..elements.end as usize];
                if add {
                    isa.add_scaled(values, 1.0, out);
                } else {
                    out.copy_from_slice(values);
                }
            }
            _ => {}
        }
    }
}
