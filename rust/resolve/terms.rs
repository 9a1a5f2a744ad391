//! The kinds of terms that an adapter adds, each checked against the tensors it names.

use super::opened::{Inputs, expect_equal, too_large, uncomputable};
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::linalg::thin::{Left, Right};
use crate::plan::{
    Axis, FactorSpec, HadamardSpec, KroneckerSpec, LowRankSpec, MagnitudeSpec, Norm, RowsSpec,
    ScaledSpec, ThinSpec,
};

/// Bytes of a number.
const F32: u64 = size_of::<f32>() as u64;

/// The shape of a unit.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) rows: u64,
    pub(super) row_elements: u64,
}

/// `scale · rows`.
#[derive(Debug)]
pub struct Scaled {
    /// As many as the unit has.
    pub rows: Rows,
    /// What they are multiplied by.
    pub scale: f32,
}

/// `up · down`: products and sums in f32, over the rank from 0 on, without fused steps.
#[derive(Debug)]
pub struct Thin {
    /// (rows, rank).
    pub up: Rows,
    /// (rank, columns).
    pub down: Rows,
    /// Columns of `up`.
    pub rank: usize,
}

/// `scale · up · down`; the sum over the rank is multiplied by `scale` last.
#[derive(Debug)]
pub struct LowRank {
    /// The product.
    pub product: Thin,
    /// What it is multiplied by.
    pub scale: f32,
}

/// `scale · W · up · down`, W the rows of the first term: first `W · up`, over the elements of a row from 0
/// on, then that times `down`; both as [`Thin`] does. Source: Chavan et al. 2023, "One-for-All: Generalized
/// `LoRA`", arXiv:2306.07967.
#[derive(Debug)]
pub struct Multiplied {
    /// What the rows are multiplied by.
    pub product: Thin,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// `scale · left ∘ right`; what both give is multiplied by each other, then by `scale`.
#[derive(Debug)]
pub struct Hadamard {
    /// One product.
    pub left: Thin,
    /// The other.
    pub right: Thin,
    /// What both are multiplied by.
    pub scale: f32,
}

/// Rows of `scale · left ⊗ right`: an element is that of `left` times that of `right`, then times
/// `scale`.
#[derive(Debug)]
pub struct Kronecker {
    /// The matrix whose elements multiply.
    pub left: Factor,
    /// The matrix that is repeated.
    pub right: Factor,
    /// The row of the product that is the first of the unit.
    pub first: u64,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// A factor of a Kronecker product.
#[derive(Debug)]
pub struct Factor {
    /// What it is made of.
    pub values: Values,
    /// Its rows.
    pub rows: u64,
    /// Elements of a row.
    pub columns: u64,
}

/// What a factor is made of.
#[derive(Debug)]
pub enum Values {
    /// A matrix as it is stored.
    Stored(Rows),
    /// A product of two thin ones.
    Product(Thin),
}

/// Row by row, the sum so far is multiplied by `strength · (value / (norm + epsilon) - 1) + 1`, every
/// step rounded to f32. Source: Liu et al. 2024, "`DoRA`: Weight-Decomposed Low-Rank Adaptation",
/// arXiv:2402.09353, with the strength of `LyCORIS`.
#[derive(Debug)]
pub struct Magnitude {
    /// A number for each row.
    pub values: Rows,
    /// Whose length is divided by: [`crate::linalg::thin::length`] of whole rows.
    pub norm: Norm,
    /// 1 sets the length, 0 leaves it.
    pub strength: f32,
    /// What is added to the length.
    pub epsilon: f32,
}

/// Rows that can be computed with, and how many elements each has.
fn numbers(spec: &RowsSpec, inputs: &Inputs, here: &str) -> Result<(Rows, u64)> {
    let (rows, columns) = Rows::find(spec, inputs, here)?;
    if rows.codec.is_none() {
        return Err(Error::plan(format!("{here}: {}", uncomputable(rows.dtype))));
    }
    Ok((rows, columns))
}

fn finite(what: &str, value: f64, here: &str) -> Result<f32> {
    let narrow = value as f32;
    if narrow.is_finite() {
        return Ok(narrow);
    }
    Err(Error::plan(format!("{here}: {what} {value}, expected a finite f32")))
}

impl Scaled {
    pub(super) fn check(
        spec: &ScaledSpec,
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let (rows, columns) = numbers(&spec.rows, inputs, here)?;
        expect_equal(here, "rows", extent.rows, spec.rows.end - spec.rows.start)?;
        expect_equal(here, "elements in a row", extent.row_elements, columns)?;
        Ok(Self { rows, scale: finite("scale", spec.scale, here)? })
    }
}

impl Thin {
    /// Also how many rows and columns the product has.
    fn find(
        (up, down): (&RowsSpec, &RowsSpec),
        inputs: &Inputs,
        here: &str,
    ) -> Result<(Self, Extent)> {
        let (found, rank) = numbers(up, inputs, here)?;
        let (other, row_elements) = numbers(down, inputs, here)?;
        expect_equal(here, "rows of `down`", rank, down.end - down.start)?;
        if rank == 0 {
            return Err(Error::plan(format!("{here}: rank 0, expected at least 1")));
        }
        let rank = usize::try_from(rank).map_err(|_| too_large(here))?;
        let extent = Extent { rows: up.end - up.start, row_elements };
        Ok((Self { up: found, down: other, rank }, extent))
    }

    fn check(
        specs: (&RowsSpec, &RowsSpec),
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let (found, Extent { rows, row_elements }) = Self::find(specs, inputs, here)?;
        expect_equal(here, "rows of `up`", extent.rows, rows)?;
        expect_equal(here, "columns of `down`", extent.row_elements, row_elements)?;
        Ok(found)
    }

    pub(super) fn rows(&self) -> Vec<&Rows> {
        vec![&self.up, &self.down]
    }

    /// Bytes that it takes to make `rows` of its rows, of which `at_once` are made together: `up` as it is
    /// stored and packed, and all of `down` as the product wants it.
    fn bytes(&self, rows: u64, at_once: u64) -> u64 {
        let rank = self.rank as u64;
        let columns = self.down.elements / rank;
        let up = self.up.bytes_of(rows.saturating_mul(rank)) + self.up.whole_sides();
        let row = self.down.bytes_of(columns) + self.down.whole_sides() + (rank + columns) * F32;
        up + row + Left::bytes(at_once, rank) + Right::bytes(rank, columns)
    }
}

impl LowRank {
    pub(super) fn check(
        spec: &LowRankSpec,
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let product = Thin::check((&spec.up, &spec.down), extent, inputs, here)?;
        Ok(Self { product, scale: finite("scale", spec.scale, here)? })
    }

    pub(super) fn bytes(&self, rows: u64, at_once: u64) -> u64 {
        self.product.bytes(rows, at_once)
    }
}

impl Multiplied {
    pub(super) fn check(
        spec: &LowRankSpec,
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let square = Extent { rows: extent.row_elements, ..extent };
        let product = Thin::check((&spec.up, &spec.down), square, inputs, here)?;
        Ok(Self { product, scale: finite("scale", spec.scale, here)? })
    }

    /// Both factors as the products want them, and of rows that are made together a copy and the first
    /// product, each also packed.
    pub(super) fn bytes(&self, at_once: u64, row_elements: u64) -> u64 {
        let rank = self.product.rank as u64;
        let Thin { up, down, .. } = &self.product;
        let stored = up.bytes_of(rank) + up.whole_sides();
        let stored = stored + down.bytes_of(row_elements) + down.whole_sides();
        let factors = Right::bytes(row_elements, rank) + Right::bytes(rank, row_elements);
        let left = Left::bytes(at_once, row_elements) + Left::bytes(at_once, rank);
        let rows = at_once.saturating_mul(row_elements + rank) * F32;
        stored + (rank + row_elements) * F32 + factors + left + rows
    }
}

impl Hadamard {
    pub(super) fn check(
        spec: &HadamardSpec,
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let side = |name: &str, ThinSpec { up, down }: &ThinSpec| {
            Thin::check((up, down), extent, inputs, &format!("{here}: `{name}`"))
        };
        let (left, right) = (side("left", &spec.left)?, side("right", &spec.right)?);
        Ok(Self { left, right, scale: finite("scale", spec.scale, here)? })
    }

    pub(super) fn bytes(&self, rows: u64, at_once: u64, row_elements: u64) -> u64 {
        let product = at_once.saturating_mul(row_elements) * F32;
        product + self.left.bytes(rows, at_once) + self.right.bytes(rows, at_once)
    }
}

impl Kronecker {
    pub(super) fn check(
        spec: &KroneckerSpec,
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        let left = Factor::check(&spec.left, inputs, &format!("{here}: `left`"))?;
        let right = Factor::check(&spec.right, inputs, &format!("{here}: `right`"))?;
        let product = |a: u64, b: u64| a.checked_mul(b).ok_or_else(|| too_large(here));
        let columns = product(left.columns, right.columns)?;
        let what = "columns of the Kronecker product";
        expect_equal(here, what, extent.row_elements, columns)?;
        let (first, rows) = (spec.first, product(left.rows, right.rows)?);
        if rows.checked_sub(first).is_none_or(|rest| rest < extent.rows) {
            let what = format!(
                "{} rows from row {first} of a Kronecker product, expected it to have them, it has \
                 {rows} rows",
                extent.rows
            );
            return Err(Error::plan(format!("{here}: {what}")));
        }
        Ok(Self { left, right, first, scale: finite("scale", spec.scale, here)? })
    }

    pub(super) fn bytes(&self, at_once: u64) -> u64 {
        self.left.bytes(at_once) + self.right.bytes(at_once)
    }
}

impl Factor {
    fn check(spec: &FactorSpec, inputs: &Inputs, here: &str) -> Result<Self> {
        let (values, rows, columns) = match spec {
            FactorSpec::Rows(spec) => {
                let (found, columns) = numbers(spec, inputs, here)?;
                (Values::Stored(found), spec.end - spec.start, columns)
            }
            FactorSpec::LowRank(ThinSpec { up, down }) => {
                let (found, extent) = Thin::find((up, down), inputs, here)?;
                (Values::Product(found), extent.rows, extent.row_elements)
            }
        };
        let elements = rows.checked_mul(columns).filter(|n| usize::try_from(*n).is_ok());
        elements.ok_or_else(|| too_large(here))?;
        Ok(Self { values, rows, columns })
    }

    pub(super) fn stored(&self) -> Vec<&Rows> {
        match &self.values {
            Values::Stored(rows) => vec![rows],
            Values::Product(thin) => thin.rows(),
        }
    }

    /// That of the product; 0 if it is stored.
    pub(super) fn rank(&self) -> usize {
        match &self.values {
            Values::Stored(_) => 0,
            Values::Product(thin) => thin.rank,
        }
    }

    /// Bytes that it takes to make and to keep all of it.
    fn bytes(&self, at_once: u64) -> u64 {
        let made = match &self.values {
            Values::Stored(rows) => rows.bytes_of(self.columns) + rows.whole_sides(),
            Values::Product(thin) => thin.bytes(at_once, at_once),
        };
        made + self.rows * self.columns * F32
    }
}

impl Magnitude {
    pub(super) fn check(
        spec: &MagnitudeSpec,
        extent: Extent,
        inputs: &Inputs,
        here: &str,
    ) -> Result<Self> {
        if spec.axis == Axis::Columns {
            let what = "a magnitude with a number for each column, expected one for each row";
            let hint = "leave the adapter out: its length is that of whole columns, which a merge \
                        that streams rows does not see";
            return Err(Error::plan(format!("{here}: {what}")).hint(hint));
        }
        let (values, _) = numbers(&spec.values, inputs, here)?;
        expect_equal(here, "values of the magnitude", extent.rows, values.elements)?;
        let strength = finite("strength", spec.strength, here)?;
        let epsilon = finite("epsilon", spec.epsilon, here)?;
        if epsilon < 0.0 {
            return Err(Error::plan(format!("{here}: epsilon {epsilon}, expected at least 0")));
        }
        Ok(Self { values, norm: spec.norm, strength, epsilon })
    }

    /// Bytes of its values, and of the lengths of rows that are made together.
    pub(super) fn bytes(&self, at_once: u64) -> u64 {
        let rows = &self.values;
        rows.bytes_of(rows.elements) + rows.whole_sides() + (rows.elements + at_once) * F32
    }
}
